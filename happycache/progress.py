"""How far long work is, for people: a bar on a terminal, a line every few seconds elsewhere."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

# A terminal is redrawn ten times a second; a log or a serial console gets a line in five seconds.
_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 5.0
_BAR = 24


class Progress:
    """Shows `label`, a share if it is known, and a text, no more often than is useful."""

    def __init__(
        self,
        label: str,
        stream: TextIO,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._stream = stream
        self._clock = clock
        self._tty = stream.isatty()
        self._next = clock() + (_REDRAW_SECONDS if self._tty else _LINE_SECONDS)
        self._drawn = False

    def show(self, text: Callable[[], str], *, share: float | None = None) -> None:
        """Draws if it is time; `text` is called only then. share: 0 to 1."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + (_REDRAW_SECONDS if self._tty else _LINE_SECONDS)
        parts = [self._label]
        if share is not None:
            share = min(max(share, 0.0), 1.0)
            if self._tty:
                full = int(share * _BAR)
                parts.append(f"[{'#' * full}{'.' * (_BAR - full)}]")
            parts.append(f"{share:4.0%}")
        line = " ".join([*parts, text()])
        if self._tty:
            self._stream.write(f"\r\x1b[K{line[: self._width()]}")
            self._drawn = True
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Clears the bar, so that what follows starts on a clean line."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

    def _width(self) -> int:
        """Columns a line may have: one that wraps cannot be drawn over."""
        with suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns - 1
        return 79
