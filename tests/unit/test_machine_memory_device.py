"""The memory device's faults: each does what it says, once, where it was told."""

import pytest

from flashboot.errors import DeviceFailed
from flashboot.machine.buffers import AlignedBuffer
from tests.fakes.memory_device import Fault, MemoryDevice


def filled(size: int, byte: int) -> memoryview:
    buffer = AlignedBuffer(size)
    buffer.view[:] = bytes([byte]) * size
    return buffer.view


def test_fails_the_nth_write_once() -> None:
    device = MemoryDevice(4096, faults=[Fault("write", "eio", nth=2)])
    device.write(0, filled(512, 1))
    with pytest.raises(DeviceFailed, match="failed to write 512 bytes at 512"):
        device.write(512, filled(512, 2))
    device.write(512, filled(512, 3))
    assert bytes(device.content[:1024]) == b"\1" * 512 + b"\3" * 512


def test_loses_misdirects_and_tears_writes() -> None:
    device = MemoryDevice(
        8192,
        faults=[
            Fault("write", "lost", nth=1),
            Fault("write", "misdirected", nth=2, shift=4096),
            Fault("write", "torn", nth=3, keep=1),
        ],
    )
    device.write(0, filled(512, 1))
    device.write(512, filled(512, 2))
    with pytest.raises(DeviceFailed):
        device.write(1024, filled(1024, 3))
    assert bytes(device.content[:1024]) == bytes(1024)
    assert bytes(device.content[4608:5120]) == b"\2" * 512
    assert bytes(device.content[1024:2048]) == b"\3" * 512 + bytes(512)


def test_fails_for_ever_at_an_offset() -> None:
    device = MemoryDevice(4096, faults=[Fault("read", "eio", touching=1000, times=None)])
    device.read_into(0, filled(512, 0))
    for _ in range(3):
        with pytest.raises(DeviceFailed):
            device.read_into(512, filled(512, 0))


def test_power_cut_keeps_only_what_was_flushed_or_survives() -> None:
    device = MemoryDevice(2048, faults=[Fault("flush", "eio", nth=2)])
    device.write(0, filled(512, 1))
    device.flush()
    device.write(0, filled(1024, 2))
    with pytest.raises(DeviceFailed):
        device.flush()
    assert device.after_power_cut(lambda _write, _sector: False)[:1024] == b"\1" * 512 + bytes(512)
    assert device.after_power_cut(lambda _write, _sector: True)[:1024] == b"\2" * 1024
    torn = device.after_power_cut(lambda _write, sector: sector == 1)
    assert torn[:1024] == b"\1" * 512 + b"\2" * 512
