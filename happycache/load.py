"""`happycache load`: brings the pages of a map back into memory.

Two passes over the map. The first asks the kernel to read ahead what is missing, by several threads
in pieces of one device request. The advice returns before the reads end and may be dropped, so the
second looks at every page again and reads what is still missing.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from happycache import parallel, words
from happycache.errors import MapUnreadable, RootUnknown, reason
from happycache.kernel import PAGE_SIZE
from happycache.mapfile import MapReader
from happycache.memory import MemoryGuard
from happycache.portion import Portion, batches, portions
from happycache.readahead import Limits, Outcome, advise, confirm
from happycache.target import FileState

DEFAULT_JOBS = 4
DEFAULT_READY_SHARE = 95.0
# Long enough for a terabyte at 300 MB/s; a disk that hangs must not keep a node from service.
DEFAULT_DEADLINE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to load."""

    jobs: int = DEFAULT_JOBS
    # (root in the map, directory on this system)
    roots: tuple[tuple[str, str], ...] = ()
    ready_share: float = DEFAULT_READY_SHARE
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a load did. asked = resident + gone + failed; resident = already + loaded."""

    path: str
    page_size: int
    asked_pages: int
    already_pages: int
    loaded_pages: int
    gone_pages: int
    failed_pages: int
    files: dict[FileState, int]
    # Why loading ended early: "memory", "deadline" or None.
    stopped: str | None
    wanted_share: float
    seconds: float

    @property
    def resident_pages(self) -> int:
        """Pages of the map that are in memory at the end."""
        return self.already_pages + self.loaded_pages

    @property
    def ready_share(self) -> float:
        """Per cent of the pages asked for that are in memory; 100 for an empty map."""
        return 100.0 * self.resident_pages / self.asked_pages if self.asked_pages else 100.0

    @property
    def ready(self) -> bool:
        """Whether as many pages are in memory as were wanted."""
        return self.ready_share >= self.wanted_share


def load(
    path: str,
    options: LoadOptions,
    *,
    warn: Callable[[str], None],
    show: Callable[[Callable[[], str], float], None] = lambda _text, _share: None,
    guard: MemoryGuard | None = None,
) -> LoadReport:
    """Loads the map at `path`; the report says whether enough is in memory.

    warn: hears of each file that could not be loaded. show: hears how far it is (text, 0 to 1).
    Raises MapUnreadable, MapMalformed and its kin, RootUnknown.
    """
    started = time.monotonic()
    limits = Limits(started + options.deadline_seconds, guard or MemoryGuard())
    tally = _Tally()
    try:
        with open(path, "rb") as source:
            reader = MapReader(source)
            work = _Work(reader, _place(reader.head.roots, options.roots), options.jobs, limits)
            for _, outcome, done in work.each(advise):
                tally.already += outcome.resident
                show(partial(_so_far, "asked for", done, work.total), done / work.total / 2)
            for portion, outcome, done in work.each(confirm):
                tally.add(portion, outcome)
                if outcome.complaint:
                    warn(outcome.complaint)
                show(partial(_so_far, "confirmed", done, work.total), done / work.total / 2 + 0.5)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise MapUnreadable(words.name(path), reason(error)) from error
    # What was there and has been pushed out since must not make "loaded" negative.
    already = min(tally.already, tally.resident)
    return LoadReport(
        path=path,
        page_size=PAGE_SIZE,
        asked_pages=tally.asked,
        already_pages=already,
        loaded_pages=tally.resident - already,
        gone_pages=tally.gone,
        failed_pages=tally.asked - tally.gone - tally.resident,
        files={state: tally.files[state] for state in FileState},
        stopped=limits.stopped(),
        wanted_share=options.ready_share,
        seconds=time.monotonic() - started,
    )


@dataclass(slots=True)
class _Tally:
    """Sums over all portions, in pages."""

    already: int = 0
    asked: int = 0
    gone: int = 0
    resident: int = 0
    files: Counter[FileState] = field(default_factory=Counter)

    def add(self, portion: Portion, outcome: Outcome) -> None:
        """Adds what the confirmation found."""
        self.asked += outcome.asked
        self.gone += outcome.gone
        self.resident += outcome.resident
        if portion.opens:
            self.files[outcome.state] += 1


@dataclass(frozen=True, slots=True)
class _Work:
    """The map as work for threads; each pass reads it anew, so memory does not grow with it."""

    reader: MapReader
    roots: tuple[bytes, ...]
    jobs: int
    limits: Limits

    @property
    def total(self) -> int:
        """Bytes of one pass, at least 1."""
        return max(self.reader.head.pages * self.reader.head.page_size, 1)

    def each(
        self, step: Callable[[Portion, Limits], Outcome]
    ) -> Iterator[tuple[Portion, Outcome, int]]:
        """`step` of each portion, in order, and the bytes done so far."""
        head = self.reader.head
        work = portions(self.reader.files(), self.roots, map_page=head.page_size, page=PAGE_SIZE)
        done = 0
        with closing(
            parallel.in_order(
                lambda batch: [(portion, step(portion, self.limits)) for portion in batch],
                batches(work),
                jobs=self.jobs,
                ahead=self.jobs * 4,
                stop=self.limits.cancelled,
            )
        ) as results:
            for portion, outcome in itertools.chain.from_iterable(results):
                done += outcome.asked * PAGE_SIZE
                yield portion, outcome, done


def _place(roots: tuple[bytes, ...], moves: tuple[tuple[str, str], ...]) -> tuple[bytes, ...]:
    """Where each root of the map lies on this system. Raises RootUnknown."""
    placed = list(roots)
    for old, new in moves:
        root = os.fsencode(os.path.abspath(old))
        if root not in roots:
            known = ", ".join(words.name(known) for known in roots)
            raise RootUnknown(f"{old}={new}", f"the map has {known}")
        if not os.path.isdir(new):
            raise RootUnknown(f"{old}={new}", f"{words.name(new)} is no directory")
        placed[roots.index(root)] = os.fsencode(os.path.abspath(new))
    return tuple(placed)


def _so_far(verb: str, done: int, total: int) -> str:
    return f"{words.size(done)} of {words.size(total)} {verb}"
