"""A map cut into pieces of work for threads. Pure."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from happycache import residency
from happycache.mapfile import FileEntry
from happycache.target import Identity

# What one thread takes at once of a file. 64 MiB: its mincore answer has 16 KiB.
WINDOW_BYTES = 64 << 20
# Small files are handed over together: up to so many portions, or so many runs in them.
_BATCH_PORTIONS = 32
_BATCH_RUNS = 4096


@dataclass(frozen=True, slots=True)
class Portion:
    """A part of one file: runs of pages that lie within one window."""

    path: bytes
    then: Identity
    # (first page, pages), in pages of this system.
    runs: tuple[tuple[int, int], ...]
    # Whether it is the file's first: each file is counted once.
    opens: bool

    @property
    def pages(self) -> int:
        """Pages in it."""
        return sum(length for _, length in self.runs)

    @property
    def end(self) -> int:
        """The page behind its last run."""
        return sum(self.runs[-1])

    def below(self, page: int) -> "Portion":
        """The part of it before `page`."""
        if self.end <= page:
            return self
        runs = tuple(
            (first, min(length, page - first)) for first, length in self.runs if first < page
        )
        return Portion(self.path, self.then, runs, self.opens)


def portions(
    entries: Iterable[FileEntry], roots: tuple[bytes, ...], *, map_page: int, page: int
) -> Iterator[Portion]:
    """The work in `entries`, whose pages have `map_page` bytes where this system's have `page`.

    roots: where each root of the map lies on this system.
    """
    window = max(WINDOW_BYTES // page, 1)
    for entry in entries:
        path = os.path.join(roots[entry.root], entry.path)
        then = Identity.of(entry)
        runs = residency.rescale(entry.runs, old=map_page, new=page)
        opens = True
        for group in residency.split(runs, window=window):
            yield Portion(path, then, group, opens)
            opens = False


def batches(work: Iterable[Portion]) -> Iterator[list[Portion]]:
    """`work` in batches that are worth handing to a thread."""
    batch: list[Portion] = []
    runs = 0
    for portion in work:
        batch.append(portion)
        runs += len(portion.runs)
        if len(batch) >= _BATCH_PORTIONS or runs >= _BATCH_RUNS:
            yield batch
            batch, runs = [], 0
    if batch:
        yield batch
