"""Earlier images of a store: what they hold is not stored again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from flashboot.errors import DigestMismatch, DocumentTooLarge, MalformedDocument, ObjectMissing
from flashboot.image.statement import Statement
from flashboot.image.table import ChunkTable
from flashboot.publish.packs import Place
from flashboot.store import catalog
from flashboot.store.base import Store

MAX_BASES = 8  # tables that are read; an image shares most with the few before it
_READERS = 8

# An image that cannot be read is no reason not to publish the next one.
_UNREADABLE = (DigestMismatch, DocumentTooLarge, MalformedDocument, ObjectMissing)


def newest(
    store: Store, *, before: Statement | None = None, limit: int = MAX_BASES
) -> tuple[list[str], list[str]]:
    """The names of the newest images, newest first, and a sentence for each unreadable one.

    With `before` those that were there when that image was made.
    """
    statements: list[Statement] = []
    warnings: list[str] = []
    with ThreadPoolExecutor(_READERS, thread_name_prefix="base") as executor:
        names = catalog.image_names(store)
        for name, job in [(name, executor.submit(_statement, store, name)) for name in names]:
            try:
                statements.append(job.result())
            except _UNREADABLE as error:
                warnings.append(f"image {name} is left out as a base: {error}")
    if before is not None:
        statements = [
            found
            for found in statements
            if found.created <= before.created and found.name != before.name
        ]
    statements.sort(key=lambda found: (-found.created, found.name))
    return [found.name for found in statements[:limit]], warnings


def _statement(store: Store, name: str) -> Statement:
    return catalog.fetch_statement(store, name)[0]


def known_places(
    store: Store, names: list[str], *, strict: bool
) -> tuple[dict[bytes, Place], list[str]]:
    """Where the images `names` have their chunks, and a sentence for each unreadable one.

    Of several places that of the first image counts. `strict` raises instead of leaving one out.
    """
    known: dict[bytes, Place] = {}
    warnings: list[str] = []
    with ThreadPoolExecutor(_READERS, thread_name_prefix="base") as executor:
        for name, job in [(n, executor.submit(catalog.fetch_image, store, n)) for n in names]:
            try:
                table = job.result().table
            except _UNREADABLE as error:
                if strict:
                    raise
                warnings.append(f"image {name} is left out as a base: {error}")
                continue
            for digest, place in _places(table):
                known.setdefault(digest, place)
    return known, warnings


def _places(table: ChunkTable) -> Iterator[tuple[bytes, Place]]:
    for _, chunk, location in table.stored_chunks():
        pack = table.packs[location.pack]
        yield chunk.digest, Place(pack, location.offset, location.stored)
