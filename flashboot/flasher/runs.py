"""Runs: chunks that follow one another on the device and, if stored, in one pack.

The chunk is the unit of identity, the run the unit of work: one ranged GET, one buffer, one
device request (anchors: 4 MiB requests reach a device's limit, smaller ones do not).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flashboot.image.extents import Extent
from flashboot.image.table import CHUNK_SIZE, ChunkTable
from flashboot.units import MIB

RUN_CHUNKS = 4 * MIB // CHUNK_SIZE
RUN_BYTES = RUN_CHUNKS * CHUNK_SIZE


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks [first, first + count): zeroes, or `stored` bytes of pack `pack` at `offset`.

    `pack` is -1 and `stored` 0 for zeroes.
    """

    first: int
    count: int
    pack: int = -1
    offset: int = 0
    stored: int = 0

    @property
    def is_zero(self) -> bool:
        return self.pack < 0

    @property
    def chunks(self) -> range:
        return range(self.first, self.first + self.count)

    def extent(self, table: ChunkTable) -> Extent:
        """The bytes of the image, and so of the device, that the run fills."""
        offset = self.first * CHUNK_SIZE
        return Extent(offset, min(self.count * CHUNK_SIZE, table.image_size - offset))


def spans(table: ChunkTable) -> Iterator[range]:
    """All chunks, cut into requests of RUN_CHUNKS, whatever they hold: for reading a device."""
    for first in range(0, len(table.chunks), RUN_CHUNKS):
        yield range(first, min(first + RUN_CHUNKS, len(table.chunks)))


def runs_of(indices: Iterable[int], table: ChunkTable) -> Iterator[Run]:
    """The chunks `indices`, which ascend, in as few runs as they allow.

    No run crosses a span's border: whether the chunks come span by span, as the rehearsal finds
    them, or all at once, they make the same runs, and what was kept by run is found again.
    """
    current: Run | None = None
    for index in indices:
        place = table.chunks[index].location
        if current is not None:
            longer = _extended(current, index, table)
            if longer is not None:
                current = longer
                continue
            yield current
        if place is None:
            current = Run(index, 1)
        else:
            current = Run(index, 1, place.pack, place.offset, place.stored)
    if current is not None:
        yield current


def _extended(run: Run, index: int, table: ChunkTable) -> Run | None:
    """`run` with chunk `index` behind it, None where they do not lie side by side."""
    place = table.chunks[index].location
    if index != run.first + run.count or index % RUN_CHUNKS == 0:
        return None
    if place is None:
        return Run(run.first, run.count + 1) if run.is_zero else None
    if place.pack != run.pack or place.offset != run.offset + run.stored:
        return None
    return Run(run.first, run.count + 1, run.pack, run.offset, run.stored + place.stored)
