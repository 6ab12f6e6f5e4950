"""The chunk table: it tiles the image exactly, or it is refused."""

import contextlib
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import DocumentTooLarge, FlashbootError, MalformedDocument
from flashboot.image import codec
from flashboot.image import table as tables
from flashboot.image.table import CHUNK_SIZE, Chunk, ChunkTable, Location, Pack
from tests import strategies
from tests.strategies import sha256

HEADER = struct.Struct("<8sIIQ")
PACK = struct.Struct("<32sI")
CHUNK = struct.Struct("<32sIII")
NO_PACK = 2**32 - 1

ONE = Pack(sha256(b"one"), 1000)
TWO = Pack(sha256(b"two"), 50)
ZERO = Chunk(tables.zero_digest(CHUNK_SIZE), None)
SMALL = ChunkTable(
    2 * CHUNK_SIZE + 512,
    (ONE, TWO),
    (Chunk(sha256(b"a"), Location(0, 10, 990)), ZERO, Chunk(sha256(b"b"), Location(1, 0, 50))),
)


def plain_of(table: ChunkTable) -> bytes:
    data = tables.dump(table)
    return codec.decompress(data, codec.plain_length(data, cap=2**20, what="table"))


PLAIN = plain_of(SMALL)


@given(strategies.chunk_tables())
def test_what_is_written_is_read_back(table: ChunkTable) -> None:
    data = tables.dump(table)
    assert tables.load(data) == table
    assert tables.dump(tables.load(data)) == data
    assert tables.load(data).digest == table.digest


def test_the_layout_is_the_documented_one() -> None:
    assert (
        HEADER.pack(b"FBTABLE\x01", 2, 3, 2 * CHUNK_SIZE + 512)
        + PACK.pack(ONE.digest, 1000)
        + PACK.pack(TWO.digest, 50)
        + CHUNK.pack(sha256(b"a"), 0, 10, 990)
        + CHUNK.pack(ZERO.digest, NO_PACK, 0, 0)
        + CHUNK.pack(sha256(b"b"), 1, 0, 50)
    ) == PLAIN


def test_a_table_cut_anywhere_is_refused() -> None:
    for length in range(len(PLAIN)):
        with pytest.raises(MalformedDocument):
            tables.load(codec.compress(PLAIN[:length], level=1))
    with pytest.raises(MalformedDocument, match="does not fit its counts"):
        tables.load(codec.compress(PLAIN + b"\0"))


def test_a_stored_table_cut_anywhere_is_refused() -> None:
    data = tables.dump(SMALL)
    for length in range(len(data)):
        with pytest.raises(MalformedDocument):
            tables.load(data[:length])


@given(st.integers(0, len(PLAIN) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_another_table_or_a_refusal(at: int, change: int) -> None:
    broken = bytearray(PLAIN)
    broken[at] ^= change
    with contextlib.suppress(MalformedDocument):
        assert tables.load(codec.compress(bytes(broken), level=1)) != SMALL


@given(st.binary(max_size=200))
def test_noise_is_refused_with_a_sentence(noise: bytes) -> None:
    for data in (noise, codec.compress(noise), codec.compress(b"FBTABLE\x01" + noise)):
        with contextlib.suppress(FlashbootError):
            tables.load(data)


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        (b"", "shorter than its header"),
        (b"x" * 23, "shorter than its header"),
        (b"x" * 24, "does not begin as a chunk table of version 1"),
        (b"FBTABLE\x02" + PLAIN[8:], "does not begin as a chunk table of version 1"),
        (HEADER.pack(b"FBTABLE\x01", 0, 0, 0), "image size 0"),
        (HEADER.pack(b"FBTABLE\x01", 0, 0, 512), "0 chunks do not tile"),
        (HEADER.pack(b"FBTABLE\x01", 0, 0, 2**64 - 512), "0 chunks do not tile"),
        (HEADER.pack(b"FBTABLE\x01", 2**32 - 1, 0, 512), "does not fit its counts"),
        (HEADER.pack(b"FBTABLE\x01", 0, 2**32 - 1, 512), "does not fit its counts"),
        (
            HEADER.pack(b"FBTABLE\x01", 0, 1, 512)
            + CHUNK.pack(tables.zero_digest(512), NO_PACK, 1, 0),
            "a chunk of zeroes names a place",
        ),
        (
            HEADER.pack(b"FBTABLE\x01", 0, 1, 512)
            + CHUNK.pack(tables.zero_digest(512), NO_PACK, 0, 1),
            "a chunk of zeroes names a place",
        ),
        (
            HEADER.pack(b"FBTABLE\x01", 0, 1, 512) + CHUNK.pack(bytes(32), NO_PACK, 0, 0),
            "not all zeroes",
        ),
        (
            HEADER.pack(b"FBTABLE\x01", 0, 1, 512) + CHUNK.pack(bytes(32), 0, 0, 1),
            "outside of its pack",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bytes_that_are_no_table_are_refused(plain: bytes, problem: str) -> None:
    with pytest.raises(MalformedDocument, match=problem):
        tables.load(codec.compress(plain))


def test_a_table_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(DocumentTooLarge, match="16777217 bytes, more than the 16777216"):
        tables.load(bytes(tables.MAX_TABLE_BYTES + 1))


def test_a_table_that_claims_too_much_is_refused_unread() -> None:
    frame = bytes.fromhex("28b52ffde0") + struct.pack("<Q", 2**40) + b"\1\0\0"
    with pytest.raises(MalformedDocument, match="1099511627776 bytes, at most"):
        tables.load(frame)


def test_the_largest_table_fits_its_own_caps() -> None:
    chunks, packs = tables.MAX_CHUNKS * CHUNK.size, tables.MAX_PACKS * PACK.size
    assert HEADER.size + chunks + packs < tables.MAX_TABLE_BYTES


def with_chunk(chunk: Chunk) -> Callable[[], ChunkTable]:
    return lambda: replace(SMALL, chunks=(chunk, *SMALL.chunks[1:]))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: replace(SMALL, image_size=0), "image size 0 is not a whole number"),
        (lambda: replace(SMALL, image_size=-512), "image size -512"),
        (lambda: replace(SMALL, image_size=1000), "image size 1000"),
        (lambda: replace(SMALL, image_size=2 * CHUNK_SIZE), "3 chunks do not tile"),
        (lambda: replace(SMALL, image_size=3 * CHUNK_SIZE + 512), "3 chunks do not tile"),
        (lambda: replace(SMALL, chunks=()), "0 chunks do not tile"),
        (
            lambda: ChunkTable((tables.MAX_CHUNKS + 1) * CHUNK_SIZE, (), (ZERO,)),
            "1 chunks do not tile",
        ),
        (lambda: replace(SMALL, packs=(ONE, ONE)), "a pack stands twice"),
        (lambda: replace(SMALL, packs=(ONE,)), "chunk 2 lies outside of its pack"),
        (lambda: replace(SMALL, packs=(ONE, Pack(b"", 50))), "impossible length or digest"),
        (lambda: replace(SMALL, packs=(ONE, Pack(TWO.digest, 0))), "impossible length"),
        (
            lambda: replace(SMALL, packs=(ONE, Pack(TWO.digest, tables.MAX_PACK_SIZE + 1))),
            "impossible length",
        ),
        (with_chunk(Chunk(sha256(b"a"), None)), "chunk 0 has no place in a pack but is not"),
        (with_chunk(Chunk(tables.zero_digest(512), None)), "chunk 0 has no place in a pack"),
        (with_chunk(Chunk(b"", Location(0, 0, 9))), "chunk 0 lies outside"),
        (with_chunk(Chunk(sha256(b"a"), Location(-1, 0, 9))), "chunk 0 lies outside"),
        (with_chunk(Chunk(sha256(b"a"), Location(2, 0, 9))), "chunk 0 lies outside"),
        (with_chunk(Chunk(sha256(b"a"), Location(0, -1, 9))), "chunk 0 lies outside"),
        (with_chunk(Chunk(sha256(b"a"), Location(0, 0, 0))), "chunk 0 lies outside"),
        (with_chunk(Chunk(sha256(b"a"), Location(0, 11, 990))), "chunk 0 lies outside"),
        (with_chunk(Chunk(sha256(b"a"), Location(0, 1000, 1))), "chunk 0 lies outside"),
        (with_chunk(Chunk(sha256(b"a"), Location(0, 0, 1001))), "chunk 0 lies outside"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_that_cannot_be_is_never_made(make: Callable[[], ChunkTable], problem: str) -> None:
    with pytest.raises(MalformedDocument, match=problem):
        make()


def test_a_stored_chunk_has_a_cap_and_so_has_the_number_of_packs() -> None:
    large = Pack(sha256(b"large"), tables.MAX_PACK_SIZE)
    fits = Chunk(sha256(b"a"), Location(0, 0, tables.MAX_STORED))
    ChunkTable(512, (large,), (fits,))
    with pytest.raises(MalformedDocument, match="outside of its pack"):
        ChunkTable(512, (large,), (Chunk(sha256(b"a"), Location(0, 0, tables.MAX_STORED + 1)),))
    many = tuple(Pack(index.to_bytes(32, "big"), 1) for index in range(tables.MAX_PACKS + 1))
    ChunkTable(512, many[:-1], (Chunk(sha256(b"a"), Location(0, 0, 1)),))
    with pytest.raises(MalformedDocument, match="65537 packs are more than the 65536"):
        ChunkTable(512, many, (Chunk(sha256(b"a"), Location(0, 0, 1)),))


def test_lengths_zeroes_and_keys() -> None:
    assert [SMALL.length_of(index) for index in range(3)] == [CHUNK_SIZE, CHUNK_SIZE, 512]
    assert [chunk.is_zero for chunk in SMALL.chunks] == [False, True, False]
    assert [index for index, _, _ in SMALL.stored_chunks()] == [0, 2]
    assert ONE.key == f"packs/{sha256(b'one').hex()}"
    assert tables.zero_digest(512) == sha256(bytes(512))


@given(strategies.chunk_tables())
def test_chunks_tile_the_image(table: ChunkTable) -> None:
    lengths = [table.length_of(index) for index in range(len(table.chunks))]
    assert sum(lengths) == table.image_size
    assert all(length == CHUNK_SIZE for length in lengths[:-1])
    assert 0 < lengths[-1] <= CHUNK_SIZE


@given(strategies.chunk_tables(), st.data())
def test_the_images_digest_depends_on_every_chunk_their_order_and_the_size(
    table: ChunkTable, data: st.DataObject
) -> None:
    own = [chunk.digest for chunk in table.chunks]
    assert tables.image_digest(table.image_size, iter(own)) == table.digest
    index = data.draw(st.integers(0, len(own) - 1))
    other = [*own[:index], sha256(own[index]), *own[index + 1 :]]
    assert tables.image_digest(table.image_size, iter(other)) != table.digest
    assert tables.image_digest(table.image_size + 512, iter(own)) != table.digest
    assert tables.image_digest(table.image_size, iter(own[:-1])) != table.digest
    turned = own[::-1]
    assert (tables.image_digest(table.image_size, iter(turned)) == table.digest) == (own == turned)


def test_the_images_digest_does_not_depend_on_where_chunks_lie() -> None:
    moved = replace(
        SMALL, packs=(TWO, ONE), chunks=(
            Chunk(sha256(b"a"), Location(1, 0, 7)), ZERO, Chunk(sha256(b"b"), Location(1, 0, 9))
        ),
    )  # fmt: skip
    assert moved.digest == SMALL.digest
    assert tables.dump(moved) != tables.dump(SMALL)


def test_the_worked_example_of_the_digest_of_the_whole() -> None:
    page = Path(__file__).parents[2] / "docs" / "formats" / "image.md"
    lines = re.findall(r"^    (size|chunk \d|begin|whole) +([0-9a-f]+)$", page.read_text(), re.M)
    example = dict(lines)
    digests = [sha256(b"\1" * CHUNK_SIZE), sha256(bytes(CHUNK_SIZE)), sha256(b"\2" * 512)]
    size = 2 * CHUNK_SIZE + 512
    begin = b"flashboot image v1\n" + struct.pack("<Q", size)
    assert example == {
        "size": str(size),
        **{f"chunk {index}": digest.hex() for index, digest in enumerate(digests)},
        "begin": begin.hex(),
        "whole": sha256(begin + b"".join(digests)).hex(),
    }
    assert tables.image_digest(size, iter(digests)).hex() == example["whole"]
