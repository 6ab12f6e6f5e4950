"""How far long work has come: a bar on a terminal, a line every few seconds anywhere else.

Programs know nothing of this: they call what they are given with (bytes done, bytes in all).
"""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from flashboot.units import format_rate, format_size

TERMINAL_SECONDS = 0.2  # between two paintings of the bar
LINE_SECONDS = 5.0  # between two lines on a serial console or in a log
_BAR = 24


class Meter:
    """Prints how far `what` has come; safe to call from many threads.

    `with Meter("publishing") as progress: work(progress=progress)`.
    """

    def __init__(
        self,
        what: str,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._pause = TERMINAL_SECONDS if self._terminal else LINE_SECONDS
        self._start = self._shown = clock()
        self._width = 0
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` bytes."""
        if self._quiet:
            return
        now = self._clock()
        with self._lock:
            if now - self._shown < self._pause:
                return
            self._shown = now
            line = describe(self._what, done, total, seconds=now - self._start)
            if self._terminal:
                self._width = max(self._width, len(line))
                print("\r" + line.ljust(self._width), end="", file=self._stream, flush=True)
            else:
                print(f"flashboot: {line}", file=self._stream, flush=True)

    def counter(self, total: int) -> Callable[[int], None]:
        """A function that takes what was done since its last call, from any thread."""
        lock = threading.Lock()
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                now = done
            self(now, total)

        return advance

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._width:  # wipe the bar: what follows says how it ended
            print("\r" + " " * self._width + "\r", end="", file=self._stream, flush=True)


class PhaseMeter:
    """A meter for work in phases: called with (phase, bytes done, bytes in all)."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._phase = ""
        self._meter: Meter | None = None
        self._lock = threading.Lock()

    def __call__(self, phase: str, done: int, total: int) -> None:
        with self._lock:
            if phase != self._phase or self._meter is None:
                self.__exit__(None, None, None)
                self._phase, self._meter = phase, Meter(phase, quiet=self._quiet)
            meter = self._meter
        meter(done, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._meter is not None:
            self._meter.__exit__(kind, error, trace)
            self._meter = None


def describe(what: str, done: int, total: int, *, seconds: float) -> str:
    """One line, at most 79 columns wide for a `what` of up to 12."""
    share = min(1.0, done / total) if total else 1.0
    filled = int(share * _BAR)
    bar = "#" * filled + "." * (_BAR - filled)
    rate = format_rate(done, seconds)
    left = f"{clock_text(seconds / share - seconds)} left" if share > 0 and seconds > 0 else ""
    return f"{what} [{bar}] {share:4.0%} of {format_size(total)}, {rate}, {left}".rstrip(", ")


def clock_text(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
