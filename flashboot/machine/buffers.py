"""Memory for O_DIRECT: page-aligned buffers, compared and tested for zeroes without the GIL.

Python compares `bytes` under the GIL and a `memoryview` element by element (992 MB/s, where
memcmp does 7412 and scales with threads; anchors/performance.md, section 3), so both go through
libc. ctypes releases the GIL around a CDLL call.
"""

import ctypes
import mmap
import threading
from types import TracebackType
from typing import Self

from flashboot.errors import MachineError, NoMemory
from flashboot.units import round_up

PAGE_BYTES = mmap.PAGESIZE

_libc = ctypes.CDLL(None)
# int memcmp(const void *s1, const void *s2, size_t n); string.h, memcmp(3)
_memcmp = _libc.memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int


class _PyBuffer(ctypes.Structure):
    # Py_buffer of CPython's pybuffer.h, part of the stable ABI since 3.11.
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_PYBUF_SIMPLE = 0


def address_of(view: memoryview) -> int:
    """Where `view`'s bytes lie in memory; valid while the caller holds the view.

    ctypes' own from_buffer() refuses read-only views, hence the C API. Raises BufferError
    where the view is not contiguous.
    """
    raw = _PyBuffer()
    _get_buffer(view, ctypes.byref(raw), _PYBUF_SIMPLE)
    try:
        return int(raw.buf or 0)
    finally:
        _release_buffer(ctypes.byref(raw))


def same_bytes(one: memoryview, other: memoryview) -> bool:
    """True where both views hold the same bytes; runs without the GIL."""
    size = one.nbytes
    if size != other.nbytes:
        return False
    return size == 0 or bool(_memcmp(address_of(one), address_of(other), size) == 0)


def is_zero(view: memoryview) -> bool:
    """True where every byte of `view` is zero (or it has none); runs without the GIL."""
    size = view.nbytes
    if size == 0:
        return True
    if view[0] != 0:
        return False
    # The first byte is zero and each byte equals the one before it.
    start = address_of(view)
    return bool(_memcmp(start, start + 1, size - 1) == 0)


class AlignedBuffer:
    """`size` bytes of page-aligned anonymous memory, zeroed at first."""

    __slots__ = ("_map", "size", "view")

    def __init__(self, size: int) -> None:
        if size <= 0:
            raise ValueError(f"a buffer of {size} bytes")
        self.size = size
        try:
            self._map = mmap.mmap(
                -1, round_up(size, PAGE_BYTES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )
        except OSError as error:
            raise MachineError("memory", f"cannot map a buffer of {size} bytes") from error
        self.view = memoryview(self._map)[:size]

    def __getitem__(self, piece: slice) -> memoryview:
        return self.view[piece]

    def __len__(self) -> int:
        return self.size

    def slice(self, offset: int, length: int) -> memoryview:
        """The bytes [offset, offset + length); IndexError where they are not all here."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise IndexError(f"[{offset}, {offset + length}) of a buffer of {self.size} bytes")
        return self.view[offset : offset + length]

    def is_zero(self, offset: int, length: int) -> bool:
        """True where `length` bytes from `offset` are all zero."""
        return is_zero(self.slice(offset, length))

    def equals(self, other: memoryview, offset: int = 0) -> bool:
        """True where the bytes from `offset` equal all of `other`."""
        return same_bytes(self.slice(offset, other.nbytes), other)

    def close(self) -> None:
        """Give the memory back; slices still alive keep it until they are gone."""
        self.view.release()
        try:
            self._map.close()
        except BufferError:
            # A slice is alive; the mapping goes when the last one does.
            return


class PoolClosed(MachineError):
    """{}: {}."""


class BufferPool:
    """At most `budget_bytes` of equal buffers; who finds none waits for one to come back.

    Buffers are made on demand and kept, so that their pages are touched once only.
    """

    def __init__(self, budget_bytes: int, *, buffer_bytes: int) -> None:
        if buffer_bytes <= 0 or budget_bytes < buffer_bytes:
            raise NoMemory(f"{buffer_bytes} bytes for one buffer", f"{budget_bytes} in the budget")
        self.buffer_bytes = buffer_bytes
        self.count = budget_bytes // buffer_bytes
        self._made = 0
        self._free: list[AlignedBuffer] = []
        self._closed = False
        self._change = threading.Condition()

    def acquire(self, *, timeout_seconds: float | None = None) -> AlignedBuffer:
        """A buffer with whatever bytes it held last.

        PoolClosed after close(), which also wakes all who wait; NoMemory where
        `timeout_seconds` pass without one.
        """
        with self._change:
            if not self._change.wait_for(self._has_answer, timeout_seconds):
                raise NoMemory(
                    "a buffer", f"none came back in {timeout_seconds} s ({self.count} are out)"
                )
            if self._closed:
                raise PoolClosed("buffer pool", "it was closed, the work is being given up")
            if self._free:
                return self._free.pop()
            self._made += 1
        return AlignedBuffer(self.buffer_bytes)

    def _has_answer(self) -> bool:
        return self._closed or bool(self._free) or self._made < self.count

    def release(self, buffer: AlignedBuffer) -> None:
        """Give `buffer` back; the caller must not touch it any more."""
        with self._change:
            self._free.append(buffer)
            self._change.notify()

    def close(self) -> None:
        """No more buffers: everyone who waits or asks gets PoolClosed. May be called twice."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
