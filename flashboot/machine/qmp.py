"""QMP, QEMU's control protocol (JSON lines on a socket): commands, their answers, events.

Only what `qemu.py` needs. docs: QEMU's interop/qmp-spec.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashboot.errors import MachineError


@dataclass(frozen=True, slots=True)
class Event:
    """Something QEMU told unasked: RESET, SHUTDOWN, STOP, RESUME ..."""

    name: str
    data: Mapping[str, Any]
    at: float
    """When we read it, on time.monotonic()'s clock."""
    number: int
    """The first event is number 1."""


@dataclass(frozen=True, slots=True)
class DiskCounters:
    """What the virtual machine did to one disk since QEMU's start.

    Flushes are left out: QEMU 7.2 does not count those of NVMe disks.
    """

    reads: int
    read_bytes: int
    writes: int
    write_bytes: int
    discards: int
    """Trims, counted where they reach the file: QEMU does not count NVMe's at the device."""
    discard_bytes: int


def parse_counters(answer: list[dict[str, Any]]) -> dict[str, DiskCounters]:
    """The answer of `query-blockstats` by drive id; drives without an id are left out."""
    counters = {}
    for entry in answer:
        if name := entry.get("device"):
            stats = entry["stats"]
            below = entry.get("driver-specific") or entry.get("parent", {}).get("driver-specific")
            discards = below or {}
            counters[name] = DiskCounters(
                reads=stats["rd_operations"],
                read_bytes=stats["rd_bytes"],
                writes=stats["wr_operations"],
                write_bytes=stats["wr_bytes"],
                discards=discards.get("discard-nb-ok", 0) + discards.get("discard-nb-failed", 0),
                discard_bytes=discards.get("discard-bytes-ok", 0),
            )
    return counters


class Qmp:
    """The client on a connected socket; safe to call from several threads.

    A thread of its own reads answers and events, so that none waits for another.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[Event] = []
        self._last_id = 0
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="qmp", daemon=True)

    def start(self) -> None:
        """Leave negotiation mode. MachineError where nobody answers."""
        self._reader.start()
        self.execute("qmp_capabilities")

    def close(self) -> None:
        """Hang up; waiting callers get MachineError."""
        with contextlib.suppress(OSError):  # QEMU hung up first
            self._channel.shutdown(socket.SHUT_RDWR)
        if self._reader.ident is not None:
            self._reader.join()
        self._channel.close()

    def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float = 30,
    ) -> Any:
        """Run one command and return its answer. MachineError for a refusal or silence."""
        with self._changed:
            self._last_id += 1
            number = self._last_id
            message = {"execute": command, "id": number}
            if arguments is not None:
                message["arguments"] = dict(arguments)
            try:
                self._channel.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                raise MachineError("QEMU", f"`{command}` could not be sent") from error
            self._changed.wait_for(
                lambda: number in self._answers or self._ended, timeout=timeout_seconds
            )
            answer = self._answers.pop(number, None)
        if answer is None:
            raise MachineError("QEMU", f"`{command}` was not answered")
        if "error" in answer:
            raise MachineError("QEMU", f"`{command}` was refused, {answer['error'].get('desc')}")
        return answer["return"]

    def events(self, *, after: int = 0) -> tuple[Event, ...]:
        """The events so far with a number above `after`."""
        with self._changed:
            return tuple(self._events[after:])

    def wait_event(self, name: str, *, timeout_seconds: float, after: int = 0) -> Event:
        """The first `name` with a number above `after`. MachineError when none comes."""
        found: list[Event] = []

        def look() -> bool:
            found[:] = [event for event in self._events[after:] if event.name == name][:1]
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(look, timeout=timeout_seconds)
        if not found:
            raise MachineError("QEMU", f"no event {name} within {timeout_seconds:g} s")
        return found[0]

    def _read(self) -> None:
        try:
            with self._channel.makefile("rb") as lines:
                for line in lines:
                    self._take(json.loads(line))
        except (OSError, ValueError):
            pass  # QEMU is gone, or was killed within a line
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "event" in message:
                number = len(self._events) + 1
                data = message.get("data", {})
                self._events.append(Event(message["event"], data, time.monotonic(), number))
            elif "id" in message:
                self._answers[message["id"]] = message
            self._changed.notify_all()
