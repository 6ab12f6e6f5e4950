"""Which pages of a file are resident, as pure frozen values.

`Runs` keeps the map's own encoding instead of a list of pairs: a file of a terabyte that is cached
in single pages then costs two bytes a run and not a hundred.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from happycache import varint
from happycache.errors import MapMalformed

_RESIDENT = re.compile(b"\x01+")
_ABSENT = re.compile(b"\x00+")


@dataclass(frozen=True, slots=True)
class Runs:
    """Maximal runs of resident pages, ascending, as varints (gap, length) one after another.

    gap: pages between the end of the run before (0 at the start) and this run.
    """

    encoded: bytes = b""
    count: int = 0
    pages: int = 0
    # The page behind the last run.
    end: int = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each run as (first page, pages)."""
        encoded, offset, position = self.encoded, 0, 0
        while offset < len(encoded):
            # Most gaps and lengths are one byte; the general decoder costs four times as much.
            gap = encoded[offset]
            if gap < 0x80:
                offset += 1
            else:
                gap, offset = varint.decode(encoded, offset)
            length = encoded[offset]
            if length < 0x80:
                offset += 1
            else:
                length, offset = varint.decode(encoded, offset)
            position += gap
            yield position, length
            position += length


class RunsBuilder:
    """Collects runs in ascending order and joins those that touch."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._count = 0
        self._pages = 0
        self._written = 0  # the page behind the last run in _out
        self._start = 0  # the open run; none while _start == _end
        self._end = 0

    def add(self, first: int, length: int) -> None:
        """Adds `length` pages from page `first` on; `first` is not before the last end."""
        if first < self._end or length < 1:
            raise ValueError(f"run {first}+{length} out of order or empty")
        if first > self._end:
            self._close()
            self._start = first
        self._end = first + length

    def add_flags(self, first: int, flags: bytes | bytearray) -> None:
        """Adds what mincore(2) said of the pages from `first` on: one byte a page, 0 or 1."""
        for match in _RESIDENT.finditer(flags):
            start, end = match.span()
            self.add(first + start, end - start)

    def build(self) -> Runs:
        """The value; the builder is spent."""
        self._close()
        return Runs(bytes(self._out), self._count, self._pages, self._written)

    def _close(self) -> None:
        length = self._end - self._start
        if length == 0:
            return
        gap = self._start - self._written
        if gap < 0x80 and length < 0x80:
            self._out.append(gap)
            self._out.append(length)
        else:
            self._out += varint.encode(gap) + varint.encode(length)
        self._count += 1
        self._pages += length
        self._written = self._start = self._end


def from_pairs(pairs: Iterable[tuple[int, int]]) -> Runs:
    """Runs from (first page, pages) in ascending order; touching ones become one."""
    builder = RunsBuilder()
    for first, length in pairs:
        builder.add(first, length)
    return builder.build()


def parse(encoded: bytes, *, limit_pages: int) -> Runs:
    """Runs from bytes that nobody vouches for. Raises MapMalformed.

    limit_pages: no run may reach behind this page, the last of the file.
    """
    offset = position = count = pages = 0
    total = len(encoded)
    while offset < total:
        gap = encoded[offset]
        if gap < 0x80:
            offset += 1
        else:
            gap, offset = varint.decode(encoded, offset)
        if offset < total and encoded[offset] < 0x80:
            length = encoded[offset]
            offset += 1
        else:
            length, offset = varint.decode(encoded, offset)
        if length == 0 or (gap == 0 and count):
            raise MapMalformed("a run of pages is empty or touches the one before")
        position += gap + length
        if position > limit_pages:
            raise MapMalformed("a run of pages reaches behind the end of its file")
        count += 1
        pages += length
    return Runs(encoded, count, pages, position)


def absent(flags: bytes | bytearray, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """The stretches (offset, length) of `flags` from `offset` on that say 'not resident'."""
    for match in _ABSENT.finditer(flags, offset, offset + length):
        start, end = match.span()
        yield start, end - start


def split(runs: Iterable[tuple[int, int]], *, window: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Groups of neighbouring runs; each group spans at most `window` pages, long runs are cut."""
    group: list[tuple[int, int]] = []
    base = 0
    for first, run_length in runs:
        start, length = first, run_length
        while length:
            if group and start >= base + window:
                yield tuple(group)
                group = []
            if not group:
                base = start
            piece = min(length, base + window - start)
            group.append((start, piece))
            start += piece
            length -= piece
    if group:
        yield tuple(group)


def rescale(runs: Iterable[tuple[int, int]], *, old: int, new: int) -> Iterator[tuple[int, int]]:
    """Runs of pages of `old` bytes as runs of pages of `new` bytes that cover the same bytes.

    An arm64 kernel may have pages of 4, 16 or 64 KiB, and a flash may change the kernel.
    """
    if old == new:
        yield from runs
        return
    covered = 0
    for first, length in runs:
        start = max(first * old // new, covered)
        end = -(-(first + length) * old // new)
        if end > start:
            yield start, end - start
            covered = end
