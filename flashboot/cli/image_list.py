"""`flashboot image list`: what a store has to offer."""

import argparse
from typing import TYPE_CHECKING

from flashboot.cli import opening, output
from flashboot.cli.describe import modes_text, statement_json, table_json, time_text
from flashboot.cli.parser import add_store, add_verb
from flashboot.errors import DigestMismatch, DocumentTooLarge, MalformedDocument, ObjectMissing
from flashboot.units import format_size

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs
    from flashboot.image.statement import Statement
    from flashboot.store.base import Store

    _Image = tuple[Statement, int]  # and its stored bytes

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
    images.sort(key=lambda image: (-image[0].created, image[0].name))
    value = {
        "store": store.url,
        "images": [statement_json(found) | {"stored_bytes": stored} for found, stored in images],
        "unreadable": [{"name": name, "problem": text} for name, text in broken.items()],
    }
    output.result(value, _text(images, store.url), as_json=arguments.json)
    return 0


def _read_all(store: "Store") -> "tuple[list[_Image], dict[str, str]]":
    """All images, and the names of those that cannot be read, with the reason."""
    from concurrent.futures import ThreadPoolExecutor

    from flashboot.store import catalog

    def read(name: str) -> "_Image":
        found = catalog.fetch_image(store, name)
        return found.statement, table_json(found.table)["stored_bytes"]

    images, broken = [], {}
    with ThreadPoolExecutor(_READERS) as executor:
        names = catalog.image_names(store)
        for name, job in [(name, executor.submit(read, name)) for name in names]:
            try:
                images.append(job.result())
            except _UNREADABLE as error:
                broken[name] = str(error)
    return images, broken


def _text(images: "list[_Image]", url: str) -> str:
    if not images:
        return f"no images at {url}"
    rows = [("NAME", "CREATED", "SIZE", "STORED", "BOOT", "ARCH", "SEQUENCE")]
    rows += [
        (
            found.name,
            time_text(found.created),
            format_size(found.image_size),
            format_size(stored),
            modes_text(found.boot_modes),
            found.architecture,
            str(found.sequence),
        )
        for found, stored in images
    ]
    return output.table(rows, numeric=(2, 3, 6))
