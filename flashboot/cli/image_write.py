"""`flashboot image write`: an image onto a device that this machine does not run from."""

import argparse
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashboot.cli import opening, output
from flashboot.cli.parser import add_dry_run, add_store, add_verb, add_yes, size
from flashboot.cli.progress import PhaseMeter
from flashboot.errors import DeviceBusy, MachineError, NotConfirmed, UnfitImage, UsageError
from flashboot.units import MIB, format_rate, format_size

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs
    from flashboot.flasher.write import WriteResult
    from flashboot.image.statement import Statement
    from flashboot.machine.kernelfs import DeviceNumber
    from flashboot.store.base import Store
    from flashboot.store.catalog import Published

_BUDGET = 256 * MIB
_NEW = "new file"


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "write",
        run=run,
        summary="put an image onto a spare device or into a file",
        description=(
            "Make a device hold an image, byte for byte: what differs is written, all of it "
            "is read back, and only then does it get its boot sector. All that was on the "
            "device is lost. The device this machine runs from is refused: `flashboot flash` "
            "is for that one."
        ),
        example="flashboot image write app-42 /dev/sdb --store s3://images/prod --yes",
    )
    parser.add_argument("image", metavar="IMAGE", help="the image's name")
    parser.add_argument("device", metavar="DEVICE|FILE", help="what is overwritten")
    add_store(parser)
    parser.add_argument(
        "--tail",
        choices=("signatures", "zero"),
        default="signatures",
        help="beyond the image: erase old signatures (the default) or zero all",
    )
    parser.add_argument(
        "--budget", type=size, default=_BUDGET, metavar="SIZE", help="memory (default 256M)"
    )
    parser.add_argument(
        "--create", action="store_true", help="make the file if it is missing, as large as needed"
    )
    add_dry_run(parser)
    add_yes(parser)


@dataclass(frozen=True, slots=True)
class _Target:
    """What would be overwritten; `size` in bytes, `model` and `serial` '' where none is known."""

    path: str
    kind: str
    size: int
    model: str = ""
    serial: str = ""

    def __str__(self) -> str:
        about = ", ".join(filter(None, (format_size(self.size), self.model, self.serial)))
        return f"{self.path} ({self.kind}, {about})"


def run(arguments: argparse.Namespace) -> int:
    from flashboot.image.statement import expiry, require_fit
    from flashboot.store import catalog

    store = opening.store_of(arguments)
    image = catalog.fetch_image(store, arguments.image)
    target = _look(arguments.device, image.statement, create=arguments.create)
    require_fit(image.statement, expiry(image.statement, now=int(time.time())))
    _require_room(image.statement, target)
    act = f"overwrite {target} with image {arguments.image}"
    if arguments.dry_run:
        value = _json(target, image.statement, dry_run=True)
        output.result(value, f"would {act}; nothing was changed", as_json=arguments.json)
        return 0
    if not arguments.yes:
        raise NotConfirmed(act)
    result = _write(arguments, store, image, target)
    value = _json(target, image.statement, dry_run=False) | _result_json(result)
    output.result(value, _text(target, image.statement, result), as_json=arguments.json)
    return 0


def _write(
    arguments: argparse.Namespace, store: "Store", image: "Published", target: _Target
) -> "WriteResult":
    from flashboot.flasher.write import write_image
    from flashboot.image.protocol import Tail
    from flashboot.machine.device import open_device

    if target.kind == _NEW:
        _create(target)
    with (
        open_device(target.path, writable=True) as device,
        PhaseMeter(quiet=arguments.quiet) as progress,
    ):
        result = write_image(
            store,
            image,
            device,
            budget=arguments.budget,
            tail=Tail(arguments.tail),
            progress=progress,
        )
        # The kernel still knows the partitions that were there before.
        problem = device.reread_partitions() if device.is_block_device else None
    if problem:
        output.say(problem)
    return result


def _look(path: str, statement: "Statement", *, create: bool) -> _Target:
    """What `path` is. Raises UsageError, MachineError, and DeviceBusy for what is in use."""
    try:
        status = os.stat(path)  # noqa: PTH116  # one stat for kind, size and number
    except FileNotFoundError as error:
        if create:
            return _Target(path, _NEW, statement.image_size)
        raise UsageError(
            f"{path} does not exist",
            hint=f"say --create, or make it first: truncate -s {statement.image_size} {path}",
        ) from error
    except OSError as error:
        raise MachineError(path, f"cannot be looked at ({error.strerror})") from error
    if stat.S_ISREG(status.st_mode):
        return _Target(path, "file", status.st_size)
    if not stat.S_ISBLK(status.st_mode):
        raise UsageError(f"{path} is neither a block device nor a regular file")
    return _look_at_disk(path, status.st_rdev)


def _look_at_disk(path: str, number: int) -> _Target:
    from flashboot.machine.blockdevices import disk_of, users_of
    from flashboot.machine.device import open_device
    from flashboot.machine.kernelfs import DeviceNumber

    disk = disk_of(DeviceNumber.of(number))
    if disk.number in _root_disks():
        raise DeviceBusy(
            path, "this machine runs from it", hint="`flashboot flash` is the way to replace it"
        )
    users = users_of(number)
    if users:
        raise DeviceBusy(path, "; ".join(users))
    with open_device(path, writable=False) as device:
        return _Target(path, "block device", device.size, disk.model or "", disk.serial or "")


def _root_disks() -> "set[DeviceNumber]":
    from flashboot.machine.blockdevices import root_stack

    try:
        return {disk.number for disk in root_stack().disks}
    except MachineError:
        return set()  # '/' is on no block device: a container, a RAM disk


def _require_room(statement: "Statement", target: _Target) -> None:
    if target.size < statement.image_size:
        raise UnfitImage(
            statement.name,
            f"it has {format_size(statement.image_size)}, "
            f"{target.path} only {format_size(target.size)}",
            hint="nothing was changed; name a larger device",
        )


def _create(target: _Target) -> None:
    try:
        with open(target.path, "xb") as file:  # noqa: PTH123  # a path as it was given
            file.truncate(target.size)
    except OSError as error:
        raise MachineError(target.path, f"cannot be made ({error.strerror})") from error


def _json(target: _Target, statement: "Statement", *, dry_run: bool) -> dict[str, Any]:
    return {
        "image": statement.name,
        "image_size": statement.image_size,
        "digest": statement.digest.hex(),
        "device": target.path,
        "device_kind": target.kind,
        "device_size": target.size,
        "device_model": target.model,
        "device_serial": target.serial,
        "dry_run": dry_run,
        "verified": not dry_run,
    }


def _result_json(result: "WriteResult") -> dict[str, Any]:
    return {
        "chunks": result.chunks,
        "chunks_differing": result.differing,
        "bytes_fetched": result.bytes_fetched,
        "bytes_written": result.bytes_written,
        "seconds": {phase: round(value, 3) for phase, value in result.seconds.items()},
    }


def _text(target: _Target, statement: "Statement", result: "WriteResult") -> str:
    seconds = sum(result.seconds.values())
    phases = ", ".join(f"{phase} {value:.1f} s" for phase, value in result.seconds.items())
    return (
        f"{target.path} holds {statement.name}, every byte was read back: "
        f"{format_size(statement.image_size)} in {seconds:.1f} s "
        f"({format_rate(statement.image_size, seconds)}; {phases})\n"
        f"{result.differing} of {result.chunks} chunks differed, "
        f"{format_size(result.bytes_written)} written, {format_size(result.bytes_fetched)} fetched"
    )
