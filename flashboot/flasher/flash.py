"""One flash of one device: rehearse, clear, write, verify, commit; each a function on values.

This is the order that the write protocol (image/protocol.py) gives; what to do when one of them
fails is the caller's: phases.py in the RAM OS, write.py for a device that is not the root.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flashboot.errors import NotVerified
from flashboot.flasher.pipeline import Pipeline
from flashboot.flasher.pool import for_each, processors
from flashboot.flasher.runs import RUN_BYTES, Run, runs_of, spans
from flashboot.flasher.source import Payload, Source
from flashboot.flasher.survey import Survey, read_back, require_zeroes
from flashboot.image import protocol
from flashboot.image.extents import Extent
from flashboot.image.protocol import Verified
from flashboot.image.table import ChunkTable
from flashboot.machine import heads
from flashboot.machine.buffers import AlignedBuffer
from flashboot.machine.device import Device

VERIFY_TRIES = 3  # rounds of reading back and writing again what is wrong

# Called with bytes done and bytes in all.
Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """For callers that do not show any."""


@dataclass(frozen=True, slots=True)
class Target:
    """The image `name`, its table, and the device that shall hold it. `budget` is bytes."""

    name: str
    table: ChunkTable
    device: Device
    steps: tuple[protocol.Step, ...]
    budget: int


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What differs on the device, all of which was fetched and found right once.

    `first_bytes` are the image's first 64 KiB, `payload` supplies what was kept.
    """

    differing: tuple[int, ...]
    first_bytes: bytes
    payload: Payload


@dataclass(frozen=True, slots=True)
class Written:
    """The head that is still withheld, how many chunks differed, and the bytes written."""

    head: bytes
    differing: int
    written: int


class Meter:
    """Adds up bytes from many threads and tells a Progress."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._lock = threading.Lock()
        self.done = 0

    def __call__(self, count: int) -> None:
        with self._lock:
            self.done += count
            self._progress(self.done, self._total)


def rehearse(target: Target, source: Source, *, progress: Progress = no_progress) -> Rehearsed:
    """Read the device, find what differs, fetch all of that and verify it; write nothing.

    After this the store holds, or memory keeps, every byte that the flash will need: a wrong
    chunk, a refusal or an unreachable store is found while OLD is still whole.
    """
    table = target.table
    survey = Survey(target.device, table, advance=Meter(table.image_size, progress))
    in_flight = target.budget // 4
    payload = Payload(source, room=target.budget - in_flight)
    head = _HeadKeeper()

    def keep(run: Run, stored: bytes, plain: memoryview) -> None:
        head.look(run, plain)
        if not run.is_zero:
            payload.keep(run, stored)

    pipeline = Pipeline(target.name, table, source, in_flight)
    pipeline.run(spans(table), keep, runs=lambda span: runs_of(survey.look(span), table))
    return Rehearsed(survey.differing, head.require(), payload)


def clear(target: Target) -> None:
    """The first write: nothing on the device boots from here on. The point of no return."""
    heads.clear_boot_sector(target.device)


def write(target: Target, plan: Rehearsed, *, progress: Progress = no_progress) -> Written:
    """Write what differs, all but the head, erase the tail, flush."""
    table = target.table
    runs = tuple(runs_of(plan.differing, table))
    zeroes = _tail(target)
    total = sum(run.extent(table).length for run in runs) + sum(gap.length for gap in zeroes)
    meter = Meter(total, progress)
    pipeline = Pipeline(target.name, table, plan.payload, target.budget // 4)
    pipeline.run(iter(runs), _writer(target, meter), runs=lambda run: (run,))
    _write_zeroes(target.device, zeroes, meter)
    target.device.flush()
    head = plan.first_bytes[: target.device.sector_size]
    return Written(head, len(plan.differing), meter.done)


def write_streaming(target: Target, source: Source, *, progress: Progress = no_progress) -> Written:
    """Compare, fetch and write in one pass: for devices whose old content nobody needs."""
    table = target.table
    zeroes = _tail(target)
    survey = Survey(target.device, table, advance=Meter(table.image_size, progress))
    meter = Meter(0, no_progress)
    head = _HeadKeeper()
    to_device = _writer(target, meter)

    def sink(run: Run, stored: bytes, plain: memoryview) -> None:
        head.look(run, plain)
        to_device(run, stored, plain)

    pipeline = Pipeline(target.name, table, source, target.budget)
    pipeline.run(spans(table), sink, runs=lambda span: runs_of(survey.look(span), table))
    _write_zeroes(target.device, zeroes, meter)
    target.device.flush()
    first = head.require()[: target.device.sector_size]
    return Written(first, len(survey.differing), meter.done)


def verify(
    target: Target, source: Source, written: Written, *, progress: Progress = no_progress
) -> Verified:
    """Read every byte back; write again what is wrong, and read all of it again.

    Raises NotVerified where the device does not keep what it is given.
    """
    table = target.table
    zeroes = _tail(target)
    total = table.image_size + sum(gap.length for gap in zeroes)
    for _ in range(VERIFY_TRIES - 1):
        meter = Meter(total, progress)
        observed = read_back(target.device, table, head=written.head, advance=meter)
        wrong = protocol.mismatches(table, observed)
        if not wrong:
            require_zeroes(target.device, zeroes, advance=meter)
            return Verified(table, observed, written.head)
        again = Pipeline(target.name, table, source, target.budget // 4)
        again.run(
            runs_of(wrong, table), _writer(target, Meter(0, no_progress)), runs=lambda run: (run,)
        )
        target.device.flush()
    observed = read_back(target.device, table, head=written.head, advance=Meter(total, progress))
    require_zeroes(target.device, zeroes, advance=lambda count: None)
    return Verified(table, observed, written.head)


def commit(target: Target, verified: Verified) -> None:
    """Write the image's sector 0 and read it back: the device boots NEW from here on."""
    if verified.table is not target.table:
        raise NotVerified(target.device.path, "the proof is for another image")
    heads.write_boot_sector(target.device, verified.head)


def _writer(target: Target, meter: Meter) -> Callable[[Run, bytes, memoryview], None]:
    """A sink that writes runs to the device, sector 0 and the like left out."""
    protected = tuple(
        extent
        for step in target.steps
        if isinstance(step, protocol.WriteBody)
        for extent in step.protected
    )

    def sink(run: Run, stored: bytes, plain: memoryview) -> None:
        whole = run.extent(target.table)
        for extent in protocol.writable(whole, protected):
            start = extent.offset - whole.offset
            target.device.write(extent.offset, plain[start : start + extent.length])
        meter(whole.length)

    return sink


def _write_zeroes(device: Device, extents: Iterable[Extent], meter: Meter) -> None:
    zeroes = AlignedBuffer(RUN_BYTES)
    pieces = (
        (offset, min(RUN_BYTES, extent.end - offset))
        for extent in extents
        for offset in range(extent.offset, extent.end, RUN_BYTES)
    )

    def work(piece: tuple[int, int]) -> None:
        offset, length = piece
        device.write(offset, zeroes.slice(0, length))
        meter(length)

    for_each(pieces, work, workers=processors(), name="zero")


def _tail(target: Target) -> tuple[Extent, ...]:
    """The extents beyond the image that become zeroes."""
    return tuple(
        extent
        for step in target.steps
        if isinstance(step, protocol.EraseTail)
        for extent in step.extents
    )


class _HeadKeeper:
    """Takes the image's first bytes, sector 0 among them, out of its first chunk as it passes."""

    def __init__(self) -> None:
        self._bytes = b""

    def look(self, run: Run, plain: memoryview) -> None:
        if run.first == 0:
            self._bytes = bytes(plain[: heads.IDENTITY_BYTES])

    def require(self) -> bytes:
        if not self._bytes:
            raise NotVerified("the image", "its first chunk never came")
        return self._bytes
