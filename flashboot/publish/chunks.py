"""From a device's bytes to chunks: read, find zeroes, hash, compress; many at once, told in order.

Memory is bounded by the number of cores, not by the image: each span in flight has one buffer of
SPAN bytes and at most as many compressed bytes.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from flashboot.image import codec
from flashboot.image.table import CHUNK_SIZE, zero_digest
from flashboot.machine.buffers import AlignedBuffer, BufferPool, is_zero
from flashboot.machine.device import Device
from flashboot.units import MIB

SPAN = 4 * MIB  # one read; anchors: larger ones bring nothing


@dataclass(frozen=True, slots=True)
class Prepared:
    """A chunk of the source. `stored` is its frame, None where nobody needs it."""

    index: int
    length: int
    digest: bytes
    zero: bool
    stored: bytes | None


def workers() -> int:
    """One a core that this process may use."""
    return len(os.sched_getaffinity(0))


def prepare(device: Device, *, level: int, held: Callable[[bytes], bool]) -> Generator[Prepared]:
    """Every chunk of `device`, in order; close it where not all are taken.

    A chunk whose digest is `held` is not compressed. `held` is asked from other threads, ahead of
    the chunks that were told: it may come to say yes later than it could, never no after yes.
    Raises DeviceFailed.
    """
    threads = workers()
    ahead = threads + 2  # one being read and one being told, so that no core waits for either
    jobs: deque[Future[list[Prepared]]] = deque()
    with (
        BufferPool((ahead + 1) * SPAN, buffer_bytes=SPAN) as buffers,
        ThreadPoolExecutor(threads, thread_name_prefix="prepare") as executor,
    ):
        try:
            for offset in range(0, device.size, SPAN):
                length = min(SPAN, device.size - offset)
                buffer = buffers.acquire()
                device.read_into(offset, buffer.slice(0, length))
                jobs.append(
                    executor.submit(_prepare_span, buffers, buffer, offset, length, level, held)
                )
                if len(jobs) > ahead:
                    yield from jobs.popleft().result()
            while jobs:
                yield from jobs.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)


def _prepare_span(
    buffers: BufferPool,
    buffer: AlignedBuffer,
    offset: int,
    length: int,
    level: int,
    held: Callable[[bytes], bool],
) -> list[Prepared]:
    try:
        result = []
        for start in range(0, length, CHUNK_SIZE):
            index = (offset + start) // CHUNK_SIZE
            piece = buffer.slice(start, min(CHUNK_SIZE, length - start))
            result.append(_prepare_chunk(index, piece, level, held))
        return result
    finally:
        buffers.release(buffer)


def _prepare_chunk(
    index: int, plain: memoryview, level: int, held: Callable[[bytes], bool]
) -> Prepared:
    length = plain.nbytes
    if is_zero(plain):
        return Prepared(index, length, zero_digest(length), zero=True, stored=None)
    digest = hashlib.sha256(plain).digest()
    stored = None if held(digest) else codec.compress(plain, level=level)
    return Prepared(index, length, digest, zero=False, stored=stored)
