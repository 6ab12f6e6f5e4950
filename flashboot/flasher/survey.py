"""Reading a device against a chunk table: what differs, and what is really there.

Every read is O_DIRECT in requests of several MiB. Zero chunks are compared to zeroes and not
hashed: it is exact, and they are most of a typical image.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable

from flashboot.errors import NotVerified
from flashboot.flasher.pool import for_each, processors
from flashboot.flasher.runs import RUN_BYTES, spans
from flashboot.image.extents import Extent
from flashboot.image.table import CHUNK_SIZE, ChunkTable
from flashboot.machine.buffers import AlignedBuffer, is_zero
from flashboot.machine.device import Device
from flashboot.units import round_up

# Called with the bytes looked at since the last call.
Advance = Callable[[int], None]


class Survey:
    """Which chunks of `table` a device does not hold yet."""

    def __init__(self, device: Device, table: ChunkTable, *, advance: Advance) -> None:
        self._device = device
        self._table = table
        self._advance = advance
        self._local = threading.local()
        self._lock = threading.Lock()
        self._differing: list[int] = []

    @property
    def differing(self) -> tuple[int, ...]:
        """Every chunk that was found to differ so far, ascending."""
        with self._lock:
            return tuple(sorted(self._differing))

    def look(self, span: range) -> tuple[int, ...]:
        """The chunks of `span` that the device does not hold. Chunk 0 always counts as differing:
        the image's head comes out of it.
        """
        view = _read_span(self._device, self._table, span, self._buffer())
        found = tuple(
            index
            for index, plain in _chunks(self._table, span, view)
            if index == 0 or not holds(self._table, index, plain)
        )
        with self._lock:
            self._differing.extend(found)
        self._advance(len(view))
        return found

    def _buffer(self) -> AlignedBuffer:
        buffer = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = AlignedBuffer(RUN_BYTES)
        return buffer


def holds(table: ChunkTable, index: int, plain: memoryview) -> bool:
    """True where `plain` is what chunk `index` must be."""
    return digest_of(table, index, plain) == table.chunks[index].digest


def digest_of(table: ChunkTable, index: int, plain: memoryview) -> bytes:
    """SHA-256 of `plain`, without hashing where the chunk is to be zeroes and is."""
    chunk = table.chunks[index]
    if chunk.is_zero and is_zero(plain):
        return chunk.digest
    return hashlib.sha256(plain).digest()


def read_back(
    device: Device, table: ChunkTable, *, head: bytes = b"", advance: Advance
) -> tuple[bytes, ...]:
    """SHA-256 of every chunk as the device holds it, with `head` in place of its first bytes.

    `head` is what is withheld until the rest is verified; with none, the device is taken as it is.
    """
    observed: dict[int, bytes] = {}
    local = threading.local()

    def look(span: range) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = AlignedBuffer(RUN_BYTES)
        view = _read_span(device, table, span, local.buffer)
        if span.start == 0:
            view[: len(head)] = head
        for index, plain in _chunks(table, span, view):
            observed[index] = digest_of(table, index, plain)
        advance(len(view))

    for_each(spans(table), look, workers=processors(), name="verify")
    return tuple(observed[index] for index in range(len(table.chunks)))


def require_zeroes(device: Device, extents: Iterable[Extent], *, advance: Advance) -> None:
    """Raise NotVerified unless every byte in `extents` reads as zero."""
    buffer = AlignedBuffer(RUN_BYTES)
    for extent in extents:
        for offset in range(extent.offset, extent.end, RUN_BYTES):
            length = min(RUN_BYTES, extent.end - offset)
            device.read_into(offset, buffer.slice(0, length))
            if not buffer.is_zero(0, length):
                raise NotVerified(device.path, f"the tail at {offset} is not zero")
            advance(length)


def _read_span(device: Device, table: ChunkTable, span: range, buffer: AlignedBuffer) -> memoryview:
    """The bytes of `span` on the device; the image's last sector may be read as a whole one."""
    offset = span.start * CHUNK_SIZE
    length = min(len(span) * CHUNK_SIZE, table.image_size - offset)
    device.read_into(offset, buffer.slice(0, round_up(length, device.sector_size)))
    return buffer.slice(0, length)


def _chunks(table: ChunkTable, span: range, view: memoryview) -> Iterable[tuple[int, memoryview]]:
    for index in span:
        start = (index - span.start) * CHUNK_SIZE
        yield index, view[start : start + table.length_of(index)]
