"""The chunk table: which bytes an image has, chunk by chunk, and where each is stored.

A chunk is 512 KiB, the block of the EBS direct APIs, so that its SHA-256 is EBS's own checksum
(AWS: API_GetSnapshotBlock, x-amz-Checksum). The last chunk of an image may be shorter.
A chunk of zeroes is stored as nothing. docs/formats/image.md has the layout byte by byte.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from flashboot.errors import DocumentTooLarge, MalformedDocument
from flashboot.image import codec
from flashboot.units import KIB, MIB

CHUNK_SIZE = 512 * KIB
SECTOR = 512  # an image is a whole number of these
MAX_CHUNKS = 2**18  # 128 GiB of root disk
MAX_PACKS = 2**16
MAX_PACK_SIZE = 256 * MIB
MAX_STORED = CHUNK_SIZE + 4 * KIB  # zstd's worst case for 512 KiB is 2 KiB more
MAX_TABLE_BYTES = 16 * MIB  # as stored; unpacked the counts above are the bound

_MAGIC = b"FBTABLE\x01"
_HEADER = struct.Struct("<8sIIQ")  # magic, packs, chunks, image size
_PACK = struct.Struct("<32sI")  # SHA-256, length
_CHUNK = struct.Struct("<32sIII")  # SHA-256 of the plain bytes, pack, offset in it, stored length
_NO_PACK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Pack:
    """An object that holds stored chunks one after another; its name is its SHA-256."""

    digest: bytes
    length: int

    @property
    def key(self) -> str:
        return f"packs/{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a stored chunk lies: `stored` bytes at `offset` of the pack with index `pack`."""

    pack: int
    offset: int
    stored: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What [index * CHUNK_SIZE, ...) of an image holds; no location means zeroes."""

    digest: bytes
    location: Location | None

    @property
    def is_zero(self) -> bool:
        return self.location is None


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """All chunks of an image of `image_size` bytes, in order, and the packs they lie in.

    Raises MalformedDocument where the chunks do not tile [0, image_size) exactly, a location
    leaves its pack, or a chunk without location is not the digest of zeroes.
    """

    image_size: int
    packs: tuple[Pack, ...]
    chunks: tuple[Chunk, ...]

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise MalformedDocument("chunk table", problem)

    def _problem(self) -> str:
        if self.image_size <= 0 or self.image_size % SECTOR:
            return f"image size {self.image_size} is not a whole number of {SECTOR} byte sectors"
        wanted = chunk_count(self.image_size)
        if wanted > MAX_CHUNKS or len(self.chunks) != wanted:
            return f"{len(self.chunks)} chunks do not tile an image of {self.image_size} bytes"
        if len(self.packs) > MAX_PACKS:
            return f"{len(self.packs)} packs are more than the {MAX_PACKS} accepted"
        if len({pack.digest for pack in self.packs}) != len(self.packs):
            return "a pack stands twice"
        for pack in self.packs:
            if len(pack.digest) != 32 or not 0 < pack.length <= MAX_PACK_SIZE:
                return f"pack {pack.digest.hex()} has an impossible length or digest"
        for index, chunk in enumerate(self.chunks):
            place = chunk.location
            if place is None:
                if chunk.digest != zero_digest(self.length_of(index)):
                    return f"chunk {index} has no place in a pack but is not all zeroes"
            elif (
                len(chunk.digest) != 32
                or not 0 <= place.pack < len(self.packs)
                or not 0 < place.stored <= MAX_STORED
                or not 0 <= place.offset <= self.packs[place.pack].length - place.stored
            ):
                return f"chunk {index} lies outside of its pack"
        return ""

    def length_of(self, index: int) -> int:
        """Plain bytes of chunk `index`: CHUNK_SIZE, or less for the last one."""
        return min(CHUNK_SIZE, self.image_size - index * CHUNK_SIZE)

    def stored_chunks(self) -> Iterator[tuple[int, Chunk, Location]]:
        """Every chunk that is not zeroes, with its index and place."""
        for index, chunk in enumerate(self.chunks):
            if chunk.location is not None:
                yield index, chunk, chunk.location

    @property
    def digest(self) -> bytes:
        """The digest of the whole image."""
        return image_digest(self.image_size, (chunk.digest for chunk in self.chunks))


def chunk_count(image_size: int) -> int:
    """How many chunks an image of `image_size` bytes has."""
    return -(-image_size // CHUNK_SIZE)


@cache
def zero_digest(length: int) -> bytes:
    """SHA-256 of `length` zero bytes."""
    return hashlib.sha256(bytes(length)).digest()


def image_digest(image_size: int, digests: Iterator[bytes]) -> bytes:
    """The digest of a whole image: a two-level hash tree, SHA-256 over its chunks' SHA-256.

    The size stands first, so that two images that differ only by zeroes at the end differ here.
    """
    tree = hashlib.sha256(b"flashboot image v1\n" + struct.pack("<Q", image_size))
    for digest in digests:
        tree.update(digest)
    return tree.digest()


def dump(table: ChunkTable) -> bytes:
    """`table` as it is stored: one zstd frame, the same bytes for the same table."""
    parts = [_HEADER.pack(_MAGIC, len(table.packs), len(table.chunks), table.image_size)]
    parts.extend(_PACK.pack(pack.digest, pack.length) for pack in table.packs)
    for chunk in table.chunks:
        place = chunk.location or Location(_NO_PACK, 0, 0)
        parts.append(_CHUNK.pack(chunk.digest, place.pack, place.offset, place.stored))
    return codec.compress(b"".join(parts))


def load(data: bytes) -> ChunkTable:
    """The table in `data`, whose digest the caller has already checked.

    Raises DocumentTooLarge and MalformedDocument.
    """
    what = "chunk table"
    if len(data) > MAX_TABLE_BYTES:
        raise DocumentTooLarge(what, len(data), MAX_TABLE_BYTES)
    cap = _HEADER.size + MAX_PACKS * _PACK.size + MAX_CHUNKS * _CHUNK.size
    plain = codec.decompress(data, codec.plain_length(data, cap=cap, what=what), what=what)
    if len(plain) < _HEADER.size:
        raise MalformedDocument(what, "it is shorter than its header")
    magic, packs, chunks, image_size = _HEADER.unpack_from(plain)
    if magic != _MAGIC:
        raise MalformedDocument(what, "it does not begin as a chunk table of version 1")
    start = _HEADER.size + packs * _PACK.size
    if len(plain) != start + chunks * _CHUNK.size:
        raise MalformedDocument(what, "its length does not fit its counts")
    view = memoryview(plain)
    return ChunkTable(
        image_size,
        tuple(Pack(*fields) for fields in _PACK.iter_unpack(view[_HEADER.size : start])),
        tuple(_chunk(*fields) for fields in _CHUNK.iter_unpack(view[start:])),
    )


def _chunk(digest: bytes, pack: int, offset: int, stored: int) -> Chunk:
    if pack == _NO_PACK:
        if offset or stored:
            raise MalformedDocument("chunk table", "a chunk of zeroes names a place")
        return Chunk(digest, None)
    return Chunk(digest, Location(pack, offset, stored))
