"""A virtual machine's serial port: its lines with the host's times, kept, logged and waited for."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the console."""

    text: str
    at: float
    """When its first byte came, on time.monotonic()'s clock."""
    seconds: float
    """The same since the machine's first start."""
    number: int
    """The first line is number 1."""


class Console:
    """The serial port's lines: kept, written to a log with the host's times, waited for."""

    def __init__(
        self, channel: socket.socket, log: Path, *, start: float, before: Sequence[Line] = ()
    ) -> None:
        self._channel = channel
        self._log = log
        self._start = start
        self._changed = threading.Condition()
        self._lines = list(before)
        self._partial = b""
        self._partial_at = start
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="console", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    def close(self) -> None:
        """Stop reading; what has been read stays."""
        with contextlib.suppress(OSError):  # QEMU hung up first
            self._channel.shutdown(socket.SHUT_RDWR)
        if self._reader.ident is not None:
            self._reader.join()
        self._channel.close()

    def send(self, text: str) -> None:
        """Type `text` on the console."""
        self._channel.sendall(text.encode())

    def lines(self, *, after: int = 0) -> tuple[Line, ...]:
        """Every line above number `after`; the last may be unfinished (a prompt)."""
        with self._changed:
            return tuple(self._visible(after))

    def wait_for(self, pattern: str, *, timeout_seconds: float, after: int = 0) -> Line | None:
        """The first line above number `after` that `pattern` is found in; None when time is up."""
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout_seconds
        seen = after
        with self._changed:
            while True:
                for line in self._visible(seen):
                    if expression.search(line.text):
                        return line
                # The unfinished line is looked at again when there is more of it.
                seen = max(after, len(self._lines))
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    return None
                self._changed.wait(left)

    def _visible(self, after: int) -> list[Line]:
        lines = self._lines[after:]
        if self._partial and len(self._lines) >= after:
            lines.append(self._line(self._partial, self._partial_at, len(self._lines) + 1))
        return lines

    def _line(self, raw: bytes, at: float, number: int) -> Line:
        # Without the colours of systemd and the cursor movements of firmware.
        text = re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()].|.)", "", raw.decode(errors="replace"))
        return Line(text.replace("\r", ""), at, at - self._start, number)

    def _read(self) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            while True:
                try:
                    data = self._channel.recv(65536)
                except OSError:
                    data = b""
                now = time.monotonic()
                with self._changed:
                    for line in self._take(data, now):
                        log.write(f"[{line.seconds:9.3f}] {line.text}\n")
                    log.flush()
                    self._ended = not data
                    self._changed.notify_all()
                if not data:
                    return

    def _take(self, data: bytes, now: float) -> list[Line]:
        """Add `data`; the lines that it finished (at the end of the stream: what is left, too)."""
        if not self._partial:
            self._partial_at = now
        *finished, rest = (self._partial + data).split(b"\n")
        if not data and rest:
            finished, rest = [*finished, rest], b""
        first = len(self._lines)
        for raw in finished:
            self._lines.append(self._line(raw, self._partial_at, len(self._lines) + 1))
            self._partial_at = now
        self._partial = rest
        return self._lines[first:]
