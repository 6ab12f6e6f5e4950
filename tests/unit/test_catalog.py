"""Reading what a store publishes: whatever somebody put there instead is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from flashboot.errors import (
    DigestMismatch,
    DocumentTooLarge,
    FlashbootError,
    MalformedDocument,
    ObjectMissing,
    StoreUnavailable,
)
from flashboot.image import envelope, statement
from flashboot.image import table as tables
from flashboot.image.statement import Blob, Statement
from flashboot.image.table import CHUNK_SIZE, Chunk, ChunkTable, Location, Pack
from flashboot.store import catalog
from tests.fakes.memory_store import MemoryStore
from tests.strategies import sha256

TABLE = ChunkTable(
    CHUNK_SIZE + 512,
    (Pack(sha256(b"pack"), 100),),
    (Chunk(sha256(b"first"), Location(0, 0, 100)), Chunk(tables.zero_digest(512), None)),
)
STORED = tables.dump(TABLE)
APP = Statement(
    name="app-1",
    image_size=TABLE.image_size,
    digest=TABLE.digest,
    table=Blob(sha256(STORED), len(STORED)),
    architecture="x86_64",
    boot_modes=("bios",),
    sector_size=512,
    created=1_700_000_000,
)


def sealed(value: Statement) -> bytes:
    return envelope.seal(statement.dump(value))


def store_with(value: Statement = APP, stored: bytes = STORED) -> MemoryStore:
    """A store with one image, whose table need not be what its statement says."""
    return MemoryStore(objects={"images/app-1": sealed(value), value.table_key: stored})


def other_table(table: ChunkTable) -> MemoryStore:
    """A store whose statement promises exactly the stored `table`, but says app-1's the rest."""
    stored = tables.dump(table)
    return store_with(replace(APP, table=Blob(sha256(stored), len(stored))), stored)


def test_an_image_is_read_with_the_bytes_it_came_from() -> None:
    store = store_with()
    published = catalog.fetch_image(store, "app-1")
    assert published == catalog.Published(APP, TABLE, sealed(APP), STORED)
    assert store.gets.total() == 2


def test_names_are_listed_in_order_and_other_objects_are_not() -> None:
    objects = ["images/b", "images/a", "images/a+b", "images/a/b", "imagesc", "tables/d"]
    assert catalog.image_names(MemoryStore(objects=dict.fromkeys(objects, b""))) == ("a", "b")


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("make", "kind", "problem"),
    [
        (MemoryStore, ObjectMissing, "has no object images/app-1"),
        (
            lambda: MemoryStore(objects={"images/app-1": sealed(APP)}),
            ObjectMissing,
            "has no object tables/",
        ),
        (
            lambda: MemoryStore(objects={"images/app-1": b""}),
            MalformedDocument,
            "The envelope is malformed",
        ),
        (
            lambda: MemoryStore(objects={"images/app-1": b"{" * 4096}),
            MalformedDocument,
            "The envelope is malformed",
        ),
        (
            lambda: MemoryStore(objects={"images/app-1": bytes(4097)}),
            DocumentTooLarge,
            "more than the 4096",
        ),
        (
            lambda: MemoryStore(objects={"images/app-1": statement.dump(APP)}),
            MalformedDocument,
            "The envelope is malformed",
        ),
        (
            lambda: MemoryStore(objects={"images/app-1": envelope.seal(b"{}")}),
            MalformedDocument,
            "The statement is malformed: schema is missing",
        ),
        (
            lambda: store_with(replace(APP, name="app-2")),
            MalformedDocument,
            "it names app-2, not app-1",
        ),
        (
            lambda: store_with(stored=flip(STORED, 20)),
            DigestMismatch,
            "The chunk table has digest",
        ),
        (
            lambda: store_with(stored=STORED[:-1]),
            DigestMismatch,
            f"The chunk table of {len(STORED) - 1} bytes has digest",
        ),
        (lambda: store_with(stored=STORED + b"x"), DocumentTooLarge, "bytes, more than the"),
        (
            lambda: store_with(replace(APP, table=Blob(sha256(STORED), len(STORED) + 1))),
            DigestMismatch,
            f"was promised|{len(STORED) + 1}",
        ),
        (
            lambda: other_table(ChunkTable(512, (), (Chunk(tables.zero_digest(512), None),))),
            MalformedDocument,
            "it is for an image of another size",
        ),
        (
            lambda: other_table(
                replace(TABLE, chunks=(Chunk(sha256(b"x"), Location(0, 0, 9)), TABLE.chunks[1]))
            ),
            DigestMismatch,
            "The image in the table has digest",
        ),
        (
            lambda: store_with(replace(APP, digest=sha256(b"other"))),
            DigestMismatch,
            "The image in the table has digest",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused(
    make: Callable[[], MemoryStore], kind: type[FlashbootError], problem: str
) -> None:
    with pytest.raises(kind, match=problem):
        catalog.fetch_image(make(), "app-1")


def test_a_flip_of_any_byte_on_the_way_is_noticed() -> None:
    for key in store_with().objects:
        for at in range(len(store_with().objects[key])):
            store = store_with()
            store.spoil = lambda asked, data, key=key, at=at: (
                flip(data, at) if asked == key else data
            )
            try:
                published = catalog.fetch_image(store, "app-1")
            except FlashbootError:
                continue
            # Unsigned: a statement may be changed in what nothing else speaks against.
            assert key == "images/app-1"
            assert published.statement != APP
            assert published.table == TABLE


def test_a_name_that_is_none_asks_the_store_nothing() -> None:
    store = store_with()
    with pytest.raises(MalformedDocument, match=r"'\.\./app-1' is not a name"):
        catalog.fetch_image(store, "../app-1")
    assert not store.gets


def test_what_the_store_says_is_passed_on() -> None:
    store = store_with()

    def fail(operation: str, key: str) -> None:
        raise StoreUnavailable(store.url, key, "gone")

    store.fault = fail
    with pytest.raises(StoreUnavailable):
        catalog.fetch_image(store, "app-1")


def test_a_blob_is_asked_for_with_its_length_as_the_limit() -> None:
    store = MemoryStore(objects={"ramos/k": b"kernel"})
    assert catalog.fetch_blob(store, "ramos/k", Blob(sha256(b"kernel"), 6), what="kernel")
    with pytest.raises(DocumentTooLarge):
        catalog.fetch_blob(store, "ramos/k", Blob(sha256(b"kern"), 4), what="kernel")
    with pytest.raises(DigestMismatch, match="The kernel has digest"):
        catalog.fetch_blob(store, "ramos/k", Blob(sha256(b"other!"), 6), what="kernel")
    gets = store.gets.total()
    with pytest.raises(MalformedDocument, match="more than the 268435456 accepted"):
        catalog.fetch_blob(store, "ramos/k", Blob(bytes(32), 2**40), what="kernel")
    assert store.gets.total() == gets
