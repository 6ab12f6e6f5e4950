"""Reading what a store publishes, in the one order that is safe.

Length caps, envelope, schema, then the table by the digest that the statement promises; nothing
is parsed before its digest or envelope holds.
"""

import hashlib
from dataclasses import dataclass

from flashboot.errors import DigestMismatch, MalformedDocument
from flashboot.image import envelope, statement, table
from flashboot.image.statement import Blob, Statement
from flashboot.image.table import ChunkTable
from flashboot.store.base import Store
from flashboot.units import MIB

PREFIX = "images/"
MAX_BLOB = 256 * MIB  # a kernel or an initramfs


@dataclass(frozen=True, slots=True)
class Published:
    """An image as a store publishes it: the documents, and the bytes they were read from."""

    statement: Statement
    table: ChunkTable
    envelope: bytes
    stored_table: bytes


def image_names(store: Store) -> tuple[str, ...]:
    """The names of all images in the store, sorted."""
    names = (key.removeprefix(PREFIX) for key in store.keys(PREFIX))
    return tuple(name for name in names if statement.is_name(name))


def fetch_statement(store: Store, name: str) -> tuple[Statement, bytes]:
    """The statement of image `name` and its envelope.

    Raises ObjectMissing, MalformedDocument, DocumentTooLarge and whatever the store raises.
    """
    key = PREFIX + statement.check_name(name)
    data = store.get(key, limit=envelope.MAX_BYTES)
    return open_statement(data, name), data


def open_statement(data: bytes, name: str) -> Statement:
    """The statement in the envelope `data`, which must be the one of image `name`."""
    result = statement.load(envelope.open_envelope(data))
    if result.name != name:
        raise MalformedDocument("statement", f"it names {result.name}, not {name}")
    return result


def fetch_image(store: Store, name: str) -> Published:
    """Image `name`, its table checked against its statement. Raises as fetch_statement does."""
    found, data = fetch_statement(store, name)
    stored = fetch_blob(store, found.table_key, found.table, what="chunk table")
    return Published(found, open_table(found, stored), data, stored)


def open_table(found: Statement, stored: bytes) -> ChunkTable:
    """The chunk table in `stored`, which must be the one that the statement promises."""
    check_blob(stored, found.table, what="chunk table")
    result = table.load(stored)
    if result.image_size != found.image_size:
        raise MalformedDocument("chunk table", "it is for an image of another size")
    if result.digest != found.digest:
        raise DigestMismatch("image in the table", result.digest.hex(), found.digest.hex())
    return result


def fetch_blob(store: Store, key: str, blob: Blob, *, what: str) -> bytes:
    """The object at `key`, which must be `blob`. Raises DigestMismatch."""
    if blob.length > MAX_BLOB:
        raise MalformedDocument(what, f"{blob.length} bytes are more than the {MAX_BLOB} accepted")
    data = store.get(key, limit=blob.length)
    check_blob(data, blob, what=what)
    return data


def check_blob(data: bytes, blob: Blob, *, what: str) -> None:
    """`data` is `blob`. Raises DigestMismatch."""
    found = hashlib.sha256(data).digest()
    if len(data) != blob.length:
        raise DigestMismatch(
            f"{what} of {len(data)} bytes", found.hex(), f"{blob.digest.hex()} of {blob.length}"
        )
    if found != blob.digest:
        raise DigestMismatch(what, found.hex(), blob.digest.hex())
