"""`happycache dump`: from directories to a residency map."""

import errno
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Literal

from happycache import atomic, kernel, parallel, scan, walk, words
from happycache.errors import MapUnwritable, NotADirectory, ResidencyHidden, reason
from happycache.mapfile import FileEntry, MapHead, MapWriter
from happycache.walk import Name

# Files a thread takes at once: handing one over costs as much as looking at it.
_BATCH = 64
# No more threads by default: the processor's work is Python's and its lock has one owner.
DEFAULT_JOBS = min(os.cpu_count() or 1, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpReport:
    """What a dump found; `head` is of the map it wrote."""

    path: str
    head: MapHead
    # Regular files looked at, and those of them without a resident page.
    scanned: int
    cold: int
    # Files and directories whose residency this caller may not know.
    unreadable: int
    # Files that went away meanwhile, and those that cannot be mapped.
    vanished: int
    unmappable: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What became of one name: an entry, or an outcome that says why there is none."""

    entry: FileEntry | None = None
    links: int = 1
    outcome: Literal["cold", "unreadable", "vanished", "unmappable"] | None = None
    complaint: str = ""


def dump(
    path: str,
    directories: list[str],
    *,
    jobs: int = DEFAULT_JOBS,
    one_file_system: bool = False,
    warn: Callable[[str], None],
    show: Callable[[Callable[[], str]], None] = lambda _text: None,
) -> DumpReport:
    """Writes the residency map of all files below `directories` to `path`.

    jobs: threads. warn: hears each file or directory that is left out. show: hears how far it is.
    Raises NotADirectory before anything is written, MapUnwritable and MapTooLarge.
    """
    started = time.monotonic()
    roots = tuple(dict.fromkeys(_root(directory) for directory in directories))
    target = os.fsencode(path)
    counts = {"scanned": 0, "cold": 0, "unreadable": 0, "vanished": 0, "unmappable": 0}

    def unreadable(at: bytes, error: OSError) -> None:
        counts["unreadable"] += 1
        warn(f"{words.name(at)} is left out: {reason(error)}")

    names = walk.walk(roots, one_file_system=one_file_system, unreadable=unreadable)
    try:
        with atomic.replacing(target) as sink:
            writer = MapWriter(
                sink, page_size=kernel.PAGE_SIZE, created_ns=time.time_ns(), roots=roots
            )
            # The map must not list itself: neither the one being written nor the one it replaces.
            listed = {_identity(os.fstat(sink.fileno())), *_identity_at(target)}
            pages = 0
            with closing(_looks(names, roots, jobs=jobs)) as looks:
                for look in looks:
                    counts["scanned"] += 1
                    if look.outcome is not None:
                        counts[look.outcome] += 1
                        if look.complaint:
                            warn(look.complaint)
                    elif look.entry is not None and _first_time(look, listed):
                        writer.add(look.entry)
                        pages += look.entry.runs.pages
                    show(partial(_so_far, counts["scanned"], pages))
            head = writer.finish()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise MapUnwritable(words.name(path), reason(error)) from error
    return DumpReport(path=path, head=head, seconds=time.monotonic() - started, **counts)


def _root(directory: str) -> bytes:
    try:
        return walk.absolute_root(directory)
    except OSError as error:
        raise NotADirectory(words.name(directory), reason(error)) from error


def _looks(
    names: Iterator[Name], roots: tuple[bytes, ...], *, jobs: int
) -> Generator[_Look, None, None]:
    """A look at each name, in order, by `jobs` threads; ends quickly when closed."""
    stop = threading.Event()

    def work(batch: list[Name]) -> list[_Look]:
        return [_look(name, roots) for name in batch if not stop.is_set()]

    batches = iter(lambda: list(itertools.islice(names, _BATCH)), [])
    with closing(parallel.in_order(work, batches, jobs=jobs, ahead=jobs * 4, stop=stop)) as results:
        for result in results:
            yield from result


def _look(name: Name, roots: tuple[bytes, ...]) -> _Look:
    path = os.path.join(roots[name.root], name.path)
    try:
        fd = kernel.open_quietly(path)
    except OSError as error:
        return _failed(path, error)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return _Look(outcome="vanished")
        runs = scan.resident_runs(fd, status, name=path)
    except OSError as error:
        return _failed(path, error)
    except ResidencyHidden:
        return _Look(
            outcome="unreadable",
            complaint=f"{words.name(path)} is left out: the kernel tells only its owner or root "
            "which of its pages are in memory",
        )
    finally:
        os.close(fd)
    if not runs.count:
        return _Look(outcome="cold")
    entry = FileEntry(
        root=name.root,
        path=name.path,
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        runs=runs,
    )
    return _Look(entry=entry, links=status.st_nlink)


def _failed(path: bytes, error: OSError) -> _Look:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
        # Deleted, or no regular file any more since its folder was read.
        return _Look(outcome="vanished")
    if error.errno == errno.ENODEV:
        return _Look(outcome="unmappable")
    return _Look(outcome="unreadable", complaint=f"{words.name(path)} is left out: {reason(error)}")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _identity_at(path: bytes) -> list[tuple[int, int]]:
    try:
        return [_identity(os.stat(path))]
    except OSError:
        return []


def _first_time(look: _Look, listed: set[tuple[int, int]]) -> bool:
    """Whether this file is to be listed: a hard link to one that is would load it twice."""
    assert look.entry is not None
    identity = (look.entry.device, look.entry.inode)
    if identity in listed:
        return False
    if look.links > 1:
        listed.add(identity)
    return True


def _so_far(scanned: int, pages: int) -> str:
    resident = words.size(pages * kernel.PAGE_SIZE)
    return f"{words.number(scanned, 'file')}, {resident} in memory"
