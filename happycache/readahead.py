"""The two things that are done to a portion of a file: ask for its pages, and make sure of them."""

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from happycache import kernel, residency, system, words
from happycache.errors import ResidencyHidden, reason
from happycache.kernel import PAGE_SIZE
from happycache.memory import MemoryGuard
from happycache.portion import Portion
from happycache.target import FileState, judge


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found of one portion."""

    state: FileState
    asked: int
    # Pages that exist no more.
    gone: int = 0
    # Pages in memory: before the advice, or after the confirmation.
    resident: int = 0
    complaint: str = ""


@dataclass(slots=True)
class Limits:
    """What every thread asks before each step: is there time, is there memory?"""

    # On the clock of time.monotonic.
    deadline: float
    guard: MemoryGuard
    # Set when the work is interrupted.
    cancelled: threading.Event = field(default_factory=threading.Event)
    _pieces: dict[int, int] = field(default_factory=dict)

    def late(self) -> bool:
        """Whether to stop at once."""
        return self.cancelled.is_set() or time.monotonic() >= self.deadline

    def stopped(self) -> str | None:
        """Why no more is loaded, if so."""
        if self.guard.low:
            return "memory"
        return "deadline" if self.late() else None

    def piece_bytes(self, device: int) -> int:
        """Bytes of one advice on `device`, remembered."""
        if device not in self._pieces:
            self._pieces[device] = max(system.piece_bytes(device) // PAGE_SIZE, 1) * PAGE_SIZE
        return self._pieces[device]


def advise(portion: Portion, limits: Limits) -> Outcome:
    """Starts reading what of `portion` is not in memory; `resident` is what was before."""
    return _with_file(portion, partial(_advise, limits=limits))


def confirm(portion: Portion, limits: Limits) -> Outcome:
    """Waits for the pages of `portion` and reads the missing ones; `resident` is what is there."""
    return _with_file(portion, partial(_confirm, limits=limits))


def _with_file(
    portion: Portion, action: Callable[[int, os.stat_result, Portion], tuple[int, str]]
) -> Outcome:
    """`action` (descriptor, its status, the part that still exists) gives (resident, complaint)."""
    asked = portion.pages
    try:
        fd = kernel.open_quietly(portion.path)
    except OSError as error:
        return _not_opened(portion, error)
    try:
        status = os.fstat(fd)
        state = judge(portion.then, status)
        if state is FileState.REPLACED:
            return Outcome(state, asked, gone=asked)
        live = portion.below(-(-status.st_size // PAGE_SIZE))
        resident, complaint = action(fd, status, live) if live.runs else (0, "")
        return Outcome(state, asked, asked - live.pages, resident, complaint)
    except (OSError, ResidencyHidden) as error:
        text = reason(error) if isinstance(error, OSError) else "its residency is hidden from you"
        return Outcome(
            FileState.UNREADABLE,
            asked,
            complaint=f"{words.name(portion.path)} is not loaded: {text}",
        )
    finally:
        os.close(fd)


def _not_opened(portion: Portion, error: OSError) -> Outcome:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Outcome(FileState.GONE, portion.pages, gone=portion.pages)
    if error.errno in (errno.ELOOP, errno.ENXIO):
        # A symbolic link, a socket or a device stands there now.
        return Outcome(FileState.REPLACED, portion.pages, gone=portion.pages)
    complaint = f"{words.name(portion.path)} is not loaded: {reason(error)}"
    return Outcome(FileState.UNREADABLE, portion.pages, complaint=complaint)


def _advise(fd: int, status: os.stat_result, live: Portion, *, limits: Limits) -> tuple[int, str]:
    if limits.late():
        return 0, ""
    missing = _missing(fd, status, live)
    resident = live.pages - sum(length for _, length in missing)
    limits.guard.charge(0, resident=resident * PAGE_SIZE)
    piece = limits.piece_bytes(status.st_dev)
    for first, length in missing:
        if limits.late() or not limits.guard.charge(length * PAGE_SIZE):
            break
        end = (first + length) * PAGE_SIZE
        for offset in range(first * PAGE_SIZE, end, piece):
            kernel.will_need(fd, offset=offset, length=min(piece, end - offset))
    return resident, ""


def _confirm(fd: int, status: os.stat_result, live: Portion, *, limits: Limits) -> tuple[int, str]:
    missing = _missing(fd, status, live)
    complaint = ""
    if missing and limits.stopped() is None:
        # A page whose read is under way is missing to mincore; to read it is to wait for it.
        kernel.expect_random(fd)
        try:
            _read(fd, missing, limits)
        except OSError as error:
            complaint = f"{words.name(live.path)} cannot be read: {reason(error)}"
        missing = _missing(fd, status, live)
    return live.pages - sum(length for _, length in missing), complaint


def _missing(fd: int, status: os.stat_result, live: Portion) -> list[tuple[int, int]]:
    """Runs of `live` that are not in memory. Raises OSError, ResidencyHidden."""
    base = live.runs[0][0]
    flags = kernel.resident_flags(fd, first=base, count=live.end - base)
    missing = [
        (base + offset, count)
        for first, length in live.runs
        for offset, count in residency.absent(flags, first - base, length)
    ]
    # "Everything is there" is also what the kernel says to those it does not want to tell.
    if not missing and kernel.residency_hidden(fd, status):
        raise ResidencyHidden(words.name(live.path))
    return missing


def _read(fd: int, missing: list[tuple[int, int]], limits: Limits) -> None:
    """Reads pages and throws the bytes away; ends early when it is late. Raises OSError."""
    buffer = bytearray(system.PIECE_LIMIT_BYTES)
    for first, length in missing:
        offset, end = first * PAGE_SIZE, (first + length) * PAGE_SIZE
        while offset < end and limits.stopped() is None:
            got = os.preadv(fd, [memoryview(buffer)[: end - offset]], offset)
            if got == 0:
                break
            offset += got
