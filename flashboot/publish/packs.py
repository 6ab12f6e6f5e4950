"""Packs: stored chunks one after another, cut by a rule that depends on nothing but the chunks.

So an interrupted publish makes the same packs again and finds them in the store.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flashboot.image.table import Chunk, ChunkTable, Location, Pack
from flashboot.publish.chunks import Prepared
from flashboot.units import MIB

PACK_TARGET = 32 * MIB  # a pack is closed by the chunk that reaches it


@dataclass(frozen=True, slots=True)
class Place:
    """Where an earlier image of the same store has a chunk."""

    pack: Pack
    offset: int
    stored: int


@dataclass(slots=True)
class Counts:
    """What became of the chunks. `known` ones were in the store before, `repeated` ones stand
    earlier in the same image.
    """

    new: int = 0
    known: int = 0
    repeated: int = 0
    zero: int = 0


@dataclass(slots=True)
class FullPack:
    """A pack to be stored: its index in the table and its stored chunks."""

    index: int
    frames: list[bytes]


class Packer:
    """Takes the chunks of one image in order and finds each its place.

    `known` are the places in earlier images. Whoever stores a FullPack says `closed` of it.
    """

    def __init__(self, known: Mapping[bytes, Place], *, target: int) -> None:
        self.counts = Counts()
        self._known = known
        self._target = target
        self._packs: list[Pack | None] = []
        self._index_of: dict[bytes, int] = {}  # earlier images' packs by digest
        self._placed: dict[bytes, Location] = {}
        self._chunks: list[Chunk] = []
        self._size = 0
        self._open: FullPack | None = None  # the pack that is being filled, up to _filled bytes
        self._filled = 0

    def holds(self, digest: bytes) -> bool:
        """Whether a chunk of this digest needs no frame. Safe to ask from any thread."""
        return digest in self._placed or digest in self._known

    def add(self, chunk: Prepared) -> FullPack | None:
        """The next chunk of the image; the pack that it filled, if it did."""
        self._size += chunk.length
        if chunk.zero:
            self.counts.zero += 1
            self._chunks.append(Chunk(chunk.digest, None))
            return None
        self._chunks.append(Chunk(chunk.digest, self._place(chunk)))
        return self.finish() if self._filled >= self._target else None

    def finish(self) -> FullPack | None:
        """The pack that is being filled, however small: after the last chunk."""
        pack, self._open, self._filled = self._open, None, 0
        return pack

    def closed(self, index: int, pack: Pack) -> None:
        """Pack `index` is `pack`."""
        self._packs[index] = pack

    def table(self) -> ChunkTable:
        """The image's table, once every pack was closed."""
        packs = tuple(pack for pack in self._packs if pack is not None)
        assert len(packs) == len(self._packs), "a pack was not answered"
        return ChunkTable(self._size, packs, tuple(self._chunks))

    def reused(self) -> tuple[Pack, ...]:
        """The packs of earlier images that this one names."""
        found = (self._packs[index] for index in self._index_of.values())
        return tuple(pack for pack in found if pack is not None)

    def _place(self, chunk: Prepared) -> Location:
        if chunk.digest in self._placed:
            self.counts.repeated += 1
            return self._placed[chunk.digest]
        if chunk.digest in self._known:
            self.counts.known += 1
            place = self._known[chunk.digest]
            location = Location(self._reuse(place.pack), place.offset, place.stored)
        else:
            self.counts.new += 1
            location = self._store(chunk)
        self._placed[chunk.digest] = location
        return location

    def _reuse(self, pack: Pack) -> int:
        if pack.digest not in self._index_of:
            self._index_of[pack.digest] = len(self._packs)
            self._packs.append(pack)
        return self._index_of[pack.digest]

    def _store(self, chunk: Prepared) -> Location:
        assert chunk.stored is not None, "a chunk that nobody holds has a frame"
        if self._open is None:
            self._open = FullPack(len(self._packs), [])
            self._packs.append(None)
        location = Location(self._open.index, self._filled, len(chunk.stored))
        self._open.frames.append(chunk.stored)
        self._filled += len(chunk.stored)
        return location
