"""Extents: contiguous runs of bytes on a device, as frozen values."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """The bytes [offset, offset + length)."""

    offset: int
    length: int

    def __post_init__(self) -> None:
        if self.offset < 0 or self.length <= 0:
            raise ValueError(f"not an extent: offset {self.offset}, length {self.length}")

    @property
    def end(self) -> int:
        return self.offset + self.length

    def overlaps(self, other: "Extent") -> bool:
        return self.offset < other.end and other.offset < self.end


def merge(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """The same bytes in the fewest extents, in order; touching and overlapping ones become one."""
    result: list[Extent] = []
    for extent in sorted(extents):
        if result and extent.offset <= result[-1].end:
            last = result[-1]
            result[-1] = Extent(last.offset, max(last.end, extent.end) - last.offset)
        else:
            result.append(extent)
    return tuple(result)


def subtract(whole: Iterable[Extent], holes: Iterable[Extent]) -> tuple[Extent, ...]:
    """The bytes of `whole` that lie in none of `holes`, in order."""
    result: list[Extent] = []
    cut = merge(holes)
    for extent in merge(whole):
        start = extent.offset
        for hole in cut:
            if hole.end <= start or hole.offset >= extent.end:
                continue
            if hole.offset > start:
                result.append(Extent(start, hole.offset - start))
            start = hole.end
        if start < extent.end:
            result.append(Extent(start, extent.end - start))
    return tuple(result)


def total(extents: Iterable[Extent]) -> int:
    """Bytes in `extents`, counted once where they overlap."""
    return sum(extent.length for extent in merge(extents))
