"""Opening files in a device's place. What all devices promise is in tests/root."""

from pathlib import Path

import pytest

from flashboot.errors import DeviceFailed, MachineError
from flashboot.machine.buffers import AlignedBuffer
from flashboot.machine.device import open_device


def image(tmp_path: Path, size: int) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(size))
    return str(path)


def test_a_file_of_whole_sectors_is_a_device(tmp_path: Path) -> None:
    with open_device(image(tmp_path, 4096 + 512), writable=True) as device:
        assert (device.size, device.sector_size) == (4608, 512)
        assert not device.is_block_device
        assert not device.read_only
        assert device.physical_sector_size == 512
        buffer = AlignedBuffer(512)
        buffer.view[:] = b"x" * 512
        device.write(4096, buffer.view)
        device.flush()
        device.drop_cache()
    assert Path(device.path).read_bytes() == bytes(4096) + b"x" * 512
    device.close()


def test_a_file_has_neither_partitions_nor_a_read_only_flag(tmp_path: Path) -> None:
    with open_device(image(tmp_path, 512), writable=False) as device:
        assert "no partitions" in (device.reread_partitions() or "")
        with pytest.raises(MachineError, match="read-only flag"):
            device.set_read_only(flag=True)


def test_opened_for_reading_it_does_not_write(tmp_path: Path) -> None:
    with open_device(image(tmp_path, 512), writable=False) as device:
        with pytest.raises(DeviceFailed, match=r"not opened for this \(EBADF\)"):
            device.write(0, AlignedBuffer(512).view)


def test_a_file_cut_short_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = image(tmp_path, 8192)
    with open_device(path, writable=False) as device:
        with Path(path).open("r+b") as file:
            file.truncate(4096)
        with pytest.raises(DeviceFailed, match="only 4096 bytes came"):
            device.read_into(0, AlignedBuffer(8192).view)


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing", "no such"), ("", "neither"), ("odd", "no multiple of 512")],
)
def test_says_why_it_cannot_be_opened(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "odd").write_bytes(bytes(700))
    with pytest.raises(MachineError, match=words):
        open_device(str(tmp_path / name), writable=False)


def test_a_character_device_is_none() -> None:
    with pytest.raises(MachineError, match="neither"):
        open_device("/dev/zero", writable=True)
