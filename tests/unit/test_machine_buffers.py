"""Aligned memory: where it lies, how it compares, and who waits for it."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import NoMemory
from flashboot.machine.buffers import (
    AlignedBuffer,
    BufferPool,
    PoolClosed,
    address_of,
    is_zero,
    same_bytes,
)


def test_lies_on_a_page_and_starts_as_zeroes() -> None:
    buffer = AlignedBuffer(5000)
    assert len(buffer) == buffer.view.nbytes == 5000
    assert address_of(buffer.view) % 4096 == 0
    assert address_of(buffer[512:]) == address_of(buffer.view) + 512
    assert buffer.is_zero(0, 5000)
    buffer.view[4999] = 1
    assert not buffer.is_zero(0, 5000)
    assert buffer.is_zero(0, 4999)
    with pytest.raises(IndexError):
        buffer.is_zero(4000, 1001)
    buffer.close()


def test_read_only_memory_has_an_address() -> None:
    data = b"some bytes"
    assert address_of(memoryview(data)[3:]) == address_of(memoryview(data)) + 3


@given(st.binary(max_size=300), st.integers(0, 299))
def test_compares_as_python_does(data: bytes, place: int) -> None:
    other = bytearray(data)
    assert same_bytes(memoryview(data), memoryview(other))
    assert is_zero(memoryview(data)) == (not any(data))
    if data:
        other[place % len(data)] ^= 1
        assert not same_bytes(memoryview(data), memoryview(other))
        assert not same_bytes(memoryview(data), memoryview(data)[1:])
    assert is_zero(memoryview(bytes(len(data))))


def test_a_pool_keeps_its_budget() -> None:
    pool = BufferPool(10_000, buffer_bytes=4096)
    first, second = pool.acquire(), pool.acquire()
    with pytest.raises(NoMemory):
        pool.acquire(timeout_seconds=0.01)
    pool.release(first)
    assert pool.acquire() is first
    pool.release(second)
    with pytest.raises(NoMemory):
        BufferPool(4095, buffer_bytes=4096)


def test_closing_a_pool_wakes_who_waits() -> None:
    outcome: list[str] = []

    def wait() -> None:
        try:
            pool.acquire()
        except PoolClosed as error:
            outcome.append(str(error))

    with BufferPool(4096, buffer_bytes=4096) as pool:
        pool.acquire()
        waiter = threading.Thread(target=wait)
        waiter.start()
    waiter.join(5)
    assert len(outcome) == 1
