"""A `Device` in memory that counts, records, and fails on demand.

It holds the rules of `flashboot.machine.device.Device` (tests/root/test_device_contract.py) and
models what a disk's volatile cache may do: what was written since the last good flush may be
lost, kept or torn by a power cut (`after_power_cut`).
"""

import errno
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from flashboot.errors import DeviceFailed
from flashboot.machine.device import check_access

Verb = Literal["read", "write", "flush"]
Effect = Literal["eio", "lost", "misdirected", "torn"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and when.

    It strikes from the `nth` call of `on` (counted from 1) whose bytes cover the offset
    `touching`, where given, and then `times` times in all; None is for ever.
    eio: the call fails (a write leaves no trace, a failed flush keeps nothing safe).
    lost: the write says it is done and is not. misdirected: it lands `shift` bytes further on.
    torn: the first `keep` sectors are written, then the call fails with EIO.
    """

    on: Verb
    effect: Effect
    nth: int | None = None
    touching: int | None = None
    times: int | None = 1
    shift: int = 0
    keep: int = 0


@dataclass(frozen=True, slots=True)
class Write:
    """One write as it reached the medium."""

    offset: int
    data: bytes = field(repr=False)

    @property
    def end(self) -> int:
        """First byte behind it."""
        return self.offset + len(self.data)


class MemoryDevice:
    """`size` bytes in memory; `content` is what stands at its start."""

    def __init__(
        self,
        size: int,
        sector_size: int = 512,
        *,
        content: bytes = b"",
        path: str = "memory",
        faults: Iterable[Fault] = (),
    ) -> None:
        if size % sector_size or len(content) > size:
            raise ValueError(f"{size} bytes, sectors of {sector_size}, {len(content)} of content")
        self._path = path
        self._size = size
        self._sector_size = sector_size
        self._lock = threading.Lock()
        self._strikes: dict[int, int] = {}
        self.faults = list(faults)
        self.content = bytearray(size)
        self.content[: len(content)] = content
        # The content at the last good flush; a power cut starts from here.
        self.durable = bytes(self.content)
        self.unflushed: list[Write] = []
        # Everything that was asked, in order: ("write", offset, length), ("flush", 0, 0) ...
        self.log: list[tuple[Verb, int, int]] = []
        self.writes: list[Write] = []
        self.reads = 0
        self.write_calls = 0
        self.flushes = 0
        self.bytes_read = 0
        self.bytes_written = 0
        self.on_call: Callable[[Verb, int, int], None] | None = None

    @property
    def path(self) -> str:
        """Its name in errors."""
        return self._path

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    @property
    def sector_size(self) -> int:
        """Bytes."""
        return self._sector_size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with what the medium holds."""
        check_access(self, "read", offset, buffer)
        length = buffer.nbytes
        with self._lock:
            self.reads += 1
            fault = self._strike("read", self.reads, offset, length)
            if fault is not None:
                raise self._failed("read", length, offset)
            buffer.cast("B")[:] = self.content[offset : offset + length]
            self.bytes_read += length

    def write(self, offset: int, data: memoryview) -> None:
        """Write `data`, or do what the fault in turn says."""
        check_access(self, "write", offset, data)
        length = data.nbytes
        with self._lock:
            self.write_calls += 1
            fault = self._strike("write", self.write_calls, offset, length)
            effect = None if fault is None else fault.effect
            if fault is None:
                self._apply(offset, bytes(data))
            elif effect == "misdirected":
                target = (offset + fault.shift) % self._size
                self._apply(target, bytes(data)[: self._size - target])
            elif effect == "torn":
                self._apply(offset, bytes(data)[: fault.keep * self._sector_size])
            self.bytes_written += length
            if effect in ("eio", "torn"):
                raise self._failed("write", length, offset)

    def flush(self) -> None:
        """Make what was written durable."""
        with self._lock:
            self.flushes += 1
            if self._strike("flush", self.flushes, 0, 0) is not None:
                raise self._failed("flush", self._size, 0)
            self.durable = bytes(self.content)
            self.unflushed.clear()

    def after_power_cut(self, survives: Callable[[int, int], bool]) -> bytes:
        """The content after a power cut now.

        `survives(write, sector)` says for each unflushed write (its index in `unflushed`) and each
        sector of it (from 0) whether it reached the medium: never, always, or at random.
        """
        medium = bytearray(self.durable)
        for index, write in enumerate(self.unflushed):
            for sector in range(len(write.data) // self._sector_size):
                if survives(index, sector):
                    start = sector * self._sector_size
                    piece = write.data[start : start + self._sector_size]
                    medium[write.offset + start : write.offset + start + len(piece)] = piece
        return bytes(medium)

    def _apply(self, offset: int, data: bytes) -> None:
        if data:
            self.content[offset : offset + len(data)] = data
            write = Write(offset, data)
            self.writes.append(write)
            self.unflushed.append(write)

    def _strike(self, verb: Verb, nth: int, offset: int, length: int) -> Fault | None:
        self.log.append((verb, offset, length))
        if self.on_call is not None:
            self.on_call(verb, offset, length)
        for index, fault in enumerate(self.faults):
            if fault.on != verb or (fault.nth is not None and nth < fault.nth):
                continue
            if fault.touching is not None and not offset <= fault.touching < offset + length:
                continue
            struck = self._strikes.get(index, 0)
            if fault.times is None or struck < fault.times:
                self._strikes[index] = struck + 1
                return fault
        return None

    def _failed(self, verb: Verb, length: int, offset: int) -> DeviceFailed:
        return DeviceFailed(self._path, verb, length, offset, os.strerror(errno.EIO))
