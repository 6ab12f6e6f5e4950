"""`flashboot image list`: what a store has to offer."""

import argparse
from typing import TYPE_CHECKING, Any

from flashboot.cli import opening, output
from flashboot.cli.describe import modes_text, statement_json, table_json, time_text
from flashboot.cli.parser import add_store, add_verb
from flashboot.errors import DigestMismatch, DocumentTooLarge, MalformedDocument, ObjectMissing
from flashboot.units import format_size

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs
    from flashboot.store.base import Store
    from flashboot.store.catalog import Published

_READERS = 8
_UNREADABLE = (DigestMismatch, DocumentTooLarge, MalformedDocument, ObjectMissing)


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "list",
        run=run,
        summary="the images in a store",
        description="List the images in a store, the newest first.",
        example="flashboot image list --store s3://images/prod",
    )
    add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    store = opening.store_of(arguments)
    images, broken = _read_all(store)
    for name, problem in broken.items():
        output.say(f"warning: {name} cannot be read: {problem}")
    images.sort(key=lambda image: (-image.statement.created, image.statement.name))
    value = {
        "store": store.url,
        "images": [_json(image) for image in images],
        "unreadable": [{"name": name, "problem": text} for name, text in broken.items()],
    }
    output.result(value, _text(images, store.url), as_json=arguments.json)
    return 0


def _read_all(store: "Store") -> "tuple[list[Published], dict[str, str]]":
    """All images, and the names of those that cannot be read, with the reason."""
    from concurrent.futures import ThreadPoolExecutor

    from flashboot.store import catalog

    images, broken = [], {}
    with ThreadPoolExecutor(_READERS) as executor:
        names = catalog.image_names(store)
        for name, job in [(n, executor.submit(catalog.fetch_image, store, n)) for n in names]:
            try:
                images.append(job.result())
            except _UNREADABLE as error:
                broken[name] = str(error)
    return images, broken


def _json(image: "Published") -> dict[str, Any]:
    return statement_json(image.statement) | {
        "stored_bytes": table_json(image.table)["stored_bytes"]
    }


def _text(images: "list[Published]", url: str) -> str:
    if not images:
        return f"no images at {url}"
    rows = [("NAME", "CREATED", "SIZE", "STORED", "BOOT", "ARCH", "SEQUENCE")]
    for image in images:
        found = image.statement
        rows.append(
            (
                found.name,
                time_text(found.created),
                format_size(found.image_size),
                format_size(table_json(image.table)["stored_bytes"]),
                modes_text(found.boot_modes),
                found.architecture,
                str(found.sequence),
            )
        )
    return output.table(rows, numeric=(2, 3, 6))
