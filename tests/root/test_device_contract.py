"""What every `Device` promises, held by memory, a file and real loop devices alike."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flashboot.errors import DeviceFailed
from flashboot.machine.buffers import AlignedBuffer
from flashboot.machine.device import BlockDevice, Device, open_device
from tests.fakes.memory_device import MemoryDevice
from tests.root.conftest import LoopMaker

pytestmark = pytest.mark.root

# A multiple of 4096 but not of 1 MiB, as a last partial run is.
SIZE = 2 * 1024 * 1024 + 4096


@pytest.fixture(params=["memory", "memory-4096", "file", "tmpfs", "loop-512", "loop-4096"])
def device(request: pytest.FixtureRequest, tmp_path: Path, loop: LoopMaker) -> Iterator[Device]:
    """A device of each kind, all zeroes."""
    kind: str = request.param
    with ExitStack() as stack:
        if kind.startswith("memory"):
            yield MemoryDevice(SIZE, 4096 if kind.endswith("4096") else 512)
            return
        if kind in ("file", "tmpfs"):
            path = tmp_path / "disk.img"
            if kind == "tmpfs":
                path = Path("/dev/shm") / f"flashboot-{tmp_path.name}.img"
                stack.callback(path.unlink)
            with path.open("wb") as image:
                image.truncate(SIZE)
            name = str(path)
        else:
            name = loop(SIZE, sector_size=int(kind.split("-")[1]))
        yield stack.enter_context(open_device(name, writable=True))


def pattern(size: int, seed: int = 1) -> AlignedBuffer:
    buffer = AlignedBuffer(size)
    buffer.view[:] = bytes((index * seed + index // 256) % 251 for index in range(size))
    return buffer


def test_knows_its_size_and_sectors(device: Device) -> None:
    assert device.size == SIZE
    assert device.sector_size in (512, 4096)
    assert device.path


def test_reads_what_was_written(device: Device) -> None:
    data = pattern(8192)
    device.write(4096, data.view)
    device.flush()
    back = AlignedBuffer(16384)
    device.read_into(0, back.view)
    assert back.is_zero(0, 4096)
    assert back.equals(data.view, 4096)
    assert back.is_zero(12288, 4096)


def test_the_last_sector_can_be_written_and_read(device: Device) -> None:
    sector = device.sector_size
    data = pattern(sector)
    device.write(SIZE - sector, data.view)
    device.flush()
    back = AlignedBuffer(sector)
    device.read_into(SIZE - sector, back.view)
    assert back.equals(data.view)


def test_read_only_memory_can_be_written(device: Device) -> None:
    data = pattern(4096)
    device.write(0, data.view.toreadonly())
    back = AlignedBuffer(4096)
    device.read_into(0, back.view)
    assert back.equals(data.view)


def test_nothing_at_all_is_no_error(device: Device) -> None:
    empty = AlignedBuffer(4096).view[:0]
    device.read_into(0, empty)
    device.write(0, empty)


@pytest.mark.parametrize("verb", ["read", "write"])
@pytest.mark.parametrize(
    ("offset", "length", "shift", "words"),
    [
        (0, 100, 0, "multiples of"),
        (100, 4096, 0, "multiples of"),
        (0, 4096, 1, "aligned"),
        (SIZE, 4096, 0, "beyond"),
        (SIZE - 4096, 8192, 0, "beyond"),
        (-4096, 4096, 0, "beyond"),
    ],
)
def test_refuses_what_is_not_aligned_or_inside(
    device: Device, verb: str, offset: int, length: int, shift: int, words: str
) -> None:
    view = AlignedBuffer(16384).view[shift : shift + length]
    act = device.read_into if verb == "read" else device.write
    with pytest.raises(DeviceFailed, match=words):
        act(offset, view)
    if isinstance(device, MemoryDevice):
        assert device.writes == []


def test_every_byte_of_a_whole_device(device: Device) -> None:
    data = pattern(SIZE, seed=7)
    middle = SIZE // 2 // 4096 * 4096
    device.write(middle, data.view[middle:])
    device.write(0, data.view[:middle])
    device.flush()
    back = AlignedBuffer(SIZE)
    device.read_into(0, back.view)
    assert back.equals(data.view)


def test_reads_bypass_the_cache_where_they_say_so(device: Device) -> None:
    if isinstance(device, BlockDevice) and device.is_block_device:
        assert device.direct
        device.drop_cache()
        assert device.physical_sector_size >= device.sector_size
        assert not device.read_only
