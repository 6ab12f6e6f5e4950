"""`flashboot image show`: all that a store says of one image."""

import argparse
from typing import TYPE_CHECKING

from flashboot.cli import opening, output
from flashboot.cli.describe import modes_text, statement_json, table_json, time_text
from flashboot.cli.parser import add_store, add_verb
from flashboot.units import format_size

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs
    from flashboot.store.catalog import Published


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "show",
        run=run,
        summary="one image: its statement and its chunks",
        description="Show one image: its statement, and how its chunks are stored.",
        example="flashboot image show app-42 --store s3://images/prod",
    )
    parser.add_argument("image", metavar="NAME", help="the image")
    add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    from flashboot.store import catalog

    image = catalog.fetch_image(opening.store_of(arguments), arguments.image)
    value = statement_json(image.statement) | table_json(image.table)
    output.result(value, _text(image), as_json=arguments.json)
    return 0


def _text(image: "Published") -> str:
    found, counts = image.statement, table_json(image.table)
    ramos = found.ramos
    zero, distinct = counts["zero_chunks"], counts["distinct_chunks"]
    stored = format_size(counts["stored_bytes"])
    packs = output.counted(counts["packs"], "pack", "packs")
    return output.fields(
        (
            ("image", found.name),
            ("size", f"{format_size(found.image_size)} ({found.image_size} bytes)"),
            ("digest", found.digest.hex()),
            ("created", time_text(found.created)),
            ("expires", time_text(found.expires)),
            ("sequence", str(found.sequence)),
            ("architecture", found.architecture),
            ("boot modes", modes_text(found.boot_modes)),
            ("sector size", str(found.sector_size)),
            ("AMI", found.source_ami),
            ("snapshot", found.source_snapshot),
            ("chunks", f"{counts['chunks']}: {zero} zero, {distinct} stored"),
            ("stored", f"{stored} in {packs}, {counts['compression_ratio']:.2f} to 1"),
            ("table", found.table_key),
            ("RAM OS", ramos.prefix if ramos else "none (`flashboot stage` will refuse)"),
        )
    )
