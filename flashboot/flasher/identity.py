"""Which device is the root: the one that every identity of the handoff agrees on, or none.

Writing the wrong disk is how data is lost (container-storage-setup#278 wiped one), so this never
guesses: a serial that fits with a size that does not is a refusal.
"""

from collections.abc import Sequence

from flashboot.errors import WrongDevice
from flashboot.handoff import RootDevice
from flashboot.machine.blockdevices import Disk


def find_root(disks: Sequence[Disk], wanted: RootDevice) -> Disk:
    """The one disk that is `wanted`. Raises WrongDevice, saying what does not agree."""
    same = [disk for disk in disks if disk.serial == wanted.serial]
    if len(same) != 1:
        seen = ", ".join(f"{disk.name} ({disk.serial or 'no serial'})" for disk in disks) or "none"
        raise WrongDevice(f"{len(same)} have the serial {wanted.serial}; there are: {seen}")
    disk = same[0]
    problems = [
        f"its {what} is {found}, {promised} was staged"
        for what, found, promised in (
            ("size", disk.size, wanted.size),
            ("sector size", disk.sector_size, wanted.sector_size),
            ("model", disk.model or "", wanted.model),
            ("controller", disk.pci_address or "", wanted.controller),
        )
        if found != promised
    ]
    if disk.is_instance_store:
        problems.append("it is instance store")
    if problems:
        raise WrongDevice(f"{disk.name} has the serial {wanted.serial}, but {'; '.join(problems)}")
    return disk
