"""The source: a regular file or a block device that nobody changes while it is read."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flashboot.errors import DeviceBusy, PublishFailed
from flashboot.image.table import CHUNK_SIZE, MAX_CHUNKS, SECTOR
from flashboot.machine.device import Device, open_device
from flashboot.units import format_size

MAX_IMAGE_SIZE = MAX_CHUNKS * CHUNK_SIZE  # bytes


@dataclass(frozen=True, slots=True)
class Source:
    """What is published. `require_unchanged` raises PublishFailed where it was changed meanwhile.

    `consistent` is False for a device that is mounted for writing and was read all the same.
    """

    device: Device
    require_unchanged: Callable[[], None] = lambda: None
    consistent: bool = True


@contextmanager
def opened(path: str | os.PathLike[str], *, live: bool = False) -> Iterator[Source]:
    """The source at `path`, opened read-only. `live` accepts a device that is written to.

    Raises PublishFailed for what cannot be an image, DeviceBusy and MachineError.
    """
    name = os.fspath(path)
    try:
        status = os.stat(name)  # noqa: PTH116  # one stat for kind, size and times
    except OSError as error:
        raise PublishFailed(name, f"it cannot be read ({error.strerror})") from error
    if stat.S_ISREG(status.st_mode):
        require_size(name, status.st_size)
        with open_device(name, writable=False) as device:
            yield Source(device, lambda: _require_same(name, _print_of(status)))
    elif stat.S_ISBLK(status.st_mode):
        writers = _writers(name)
        if writers and not live:
            raise DeviceBusy(
                name,
                writers,
                hint="unmount it or mount it read-only; --live reads it all the same, "
                "and such an image may be inconsistent",
            )
        with open_device(name, writable=False) as device:
            require_size(name, device.size)
            yield Source(device, consistent=not writers)
    else:
        raise PublishFailed(name, "it is neither a regular file nor a block device")


def require_size(name: str, size: int) -> None:
    """Raise PublishFailed where no image has `size` bytes."""
    if size == 0:
        raise PublishFailed(name, "it is empty")
    if size % SECTOR:
        raise PublishFailed(
            name,
            f"its {size} bytes are no whole number of {SECTOR} byte sectors",
            hint="is this a compressed image, or a copy that broke off?",
        )
    if size > MAX_IMAGE_SIZE:
        limit = format_size(MAX_IMAGE_SIZE)
        raise PublishFailed(name, f"it has {format_size(size)}, an image at most {limit}")


def _print_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _require_same(name: str, before: tuple[int, ...]) -> None:
    try:
        after = _print_of(os.stat(name))  # noqa: PTH116
    except OSError as error:
        raise PublishFailed(name, f"it went away while it was read ({error.strerror})") from error
    if after != before:
        raise PublishFailed(
            name,
            "it was changed while it was read",
            hint="publish again when nobody writes to it; no image was made",
        )


def _writers(name: str) -> str:
    """Who may write to the device, its partitions or what is built on them; '' for nobody."""
    from flashboot.machine.blockdevices import disk_of, layers_above
    from flashboot.machine.kernelfs import DeviceNumber
    from flashboot.machine.mounts import mounts_of, swaps_of

    number = DeviceNumber.of(os.stat(name).st_rdev)  # noqa: PTH116
    disk = disk_of(number)
    paths = {number: name}
    if number == disk.number:
        layers = layers_above(disk)
        paths |= {partition.number: partition.path for partition in disk.partitions}
        paths |= {layer.number: f"/dev/{layer.name}" for layer in layers}
    words = [
        f"{paths[mount.device]} is mounted for writing at {mount.target}"
        for mount in mounts_of(paths)
        if not mount.read_only
    ]
    words += [f"{swap.path} is swapped on" for swap in swaps_of(paths.values())]
    return "; ".join(words)
