"""Which disks there are, what lies on what, and which one '/' is on, as sysfs tells it.

Never by a guessed name: device numbers are followed, since NVMe names change from boot to boot and
/dev/root names nothing. Nothing here opens a disk for writing.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flashboot.errors import CommandFailed, MachineError
from flashboot.machine.kernelfs import LIVE, DeviceNumber, Tree, attribute, names, number
from flashboot.machine.mounts import mounts_of, root_mount, swaps_of

# sysfs counts in these whatever the device's own sector is (Documentation/ABI/stable/sysfs-block).
_SYSFS_SECTOR_BYTES: Final = 512

# "Identify NVMe volumes", Amazon EC2 User Guide.
EBS_MODEL: Final = "Amazon Elastic Block Store"
INSTANCE_STORE_MODEL: Final = "Amazon EC2 NVMe Instance Storage"

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a disk; start and size in bytes."""

    name: str
    path: str
    number: DeviceNumber
    index: int
    start: int
    size: int
    read_only: bool
    # What was built on it: 'md0', 'dm-1'.
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole block device: a real disk, or one made of others (md, dm, loop). Sizes in bytes."""

    name: str
    path: str
    number: DeviceNumber
    size: int
    sector_size: int
    serial: str | None
    model: str | None
    # 'nvme', 'virtio', 'xen', 'scsi', 'md', 'dm', 'loop', or 'other'
    transport: str
    # The controller's PCI address, such as '0000:00:04.0'; None where it has none.
    pci_address: str | None
    removable: bool
    read_only: bool
    partitions: tuple[Partition, ...]
    # What was built on the whole disk, and what this one was built on.
    holders: tuple[str, ...]
    slaves: tuple[str, ...]

    @property
    def volume_id(self) -> str | None:
        """The EBS volume ('vol-0123...') that an NVMe serial number names; None for others."""
        serial = self.serial or ""
        if self.transport == "nvme" and re.fullmatch(r"vol-?[0-9a-f]{8,17}", serial):
            return "vol-" + serial.removeprefix("vol").removeprefix("-")
        return None

    @property
    def is_instance_store(self) -> bool:
        """True for EC2's local NVMe disks, which hold data that nothing else holds."""
        return self.model == INSTANCE_STORE_MODEL

    @property
    def numbers(self) -> frozenset[DeviceNumber]:
        """The device numbers of the disk and of its partitions."""
        return frozenset((self.number, *(partition.number for partition in self.partitions)))


@dataclass(frozen=True, slots=True)
class Layer:
    """A block device made of others; kind is 'md', 'lvm', 'crypt', 'dm' or 'other'."""

    name: str
    kind: str
    # 'vg0-data' for a device-mapper device, the md name otherwise.
    label: str
    # The volume group of an LVM volume.
    group: str | None
    number: DeviceNumber

    def __str__(self) -> str:
        return f"{self.name} ({self.kind} {self.label})"


@dataclass(frozen=True, slots=True)
class Stack:
    """What a block device rests on: the layers, topmost first, and the whole disks below them."""

    top: str
    # The partition of the disk where there are no layers; None on the whole disk.
    partition: Partition | None
    layers: tuple[Layer, ...]
    disks: tuple[Disk, ...]

    @property
    def disk(self) -> Disk:
        """The one plain disk below; MachineError where layers lie between, or several disks."""
        if self.layers or len(self.disks) != 1:
            below = ", ".join(disk.path for disk in self.disks) or "no disk at all"
            over = " on ".join(map(str, self.layers)) or self.top
            raise MachineError(f"/dev/{self.top}", f"is no plain disk: {over} on {below}")
        return self.disks[0]


def disks(*, tree: Tree = LIVE) -> tuple[Disk, ...]:
    """All whole block devices with any bytes (unbound loop devices have none), by name."""
    found: list[Disk] = []
    for name in names(f"{tree.sys}/block"):
        try:
            disk = _disk(f"{tree.sys}/block/{name}", tree)
        except MachineError:
            if os.path.exists(f"{tree.sys}/block/{name}/dev"):
                raise
            continue  # it was unplugged in between
        if disk.size > 0:
            found.append(disk)
    return tuple(found)


def disk_named(name: str, *, tree: Tree = LIVE) -> Disk:
    """The disk of this kernel name, such as 'nvme0n1'; MachineError where there is none."""
    return _disk(f"{tree.sys}/block/{name.replace('/', '!')}", tree)


def disk_of(device: DeviceNumber, *, tree: Tree = LIVE) -> Disk:
    """The whole disk that a disk or partition belongs to; layers are not followed."""
    home = _home(device, tree)
    return _disk(os.path.dirname(home) if _is_partition(home) else home, tree)


def stack_of(device: DeviceNumber, *, tree: Tree = LIVE) -> Stack:
    """What `device` rests on, through partitions, md and device-mapper down to whole disks."""
    home = _home(device, tree)
    layers: dict[str, Layer] = {}
    found: dict[str, Disk] = {}
    _descend(home, tree, layers, found)
    partition = None
    if _is_partition(home) and not layers:
        partition = _partition(home, tree)
    return Stack(os.path.basename(home), partition, tuple(layers.values()), tuple(found.values()))


def layers_above(disk: Disk, *, tree: Tree = LIVE) -> tuple[Layer, ...]:
    """The md and device-mapper devices made of `disk` or its partitions, topmost first.

    In this order they can be taken down.
    """
    depth: dict[str, int] = {}

    def climb(holders: tuple[str, ...], level: int) -> None:
        for name in holders:
            if level > 16:
                raise MachineError(disk.path, f"more than 16 layers lie on it, {name} among them")
            depth[name] = max(level, depth.get(name, 0))
            upper = disk_named(name, tree=tree)
            climb(_all_holders(upper), level + 1)

    climb(_all_holders(disk), 1)
    order = sorted(depth, key=lambda name: (-depth[name], name))
    return tuple(_layer(f"{tree.sys}/block/{name}") for name in order)


def root_stack(*, tree: Tree = LIVE) -> Stack:
    """What '/' rests on; MachineError where it is on no single block device."""
    mount = root_mount(tree=tree)
    if mount.device.major == 0:
        # Anonymous device numbers: btrfs, overlay, tmpfs, nfs (Documentation/admin-guide/devices).
        words = "which may lie on several disks" if mount.filesystem == "btrfs" else "not a disk"
        raise MachineError("/", f"is {mount.filesystem} from {mount.source}, {words}")
    return stack_of(mount.device, tree=tree)


def root_disk(*, tree: Tree = LIVE) -> Disk:
    """The whole disk that '/' is on; MachineError with the reason where it is no plain disk."""
    return root_stack(tree=tree).disk


def users_of(device: int, *, tree: Tree = LIVE) -> tuple[str, ...]:
    """Who uses this disk (an st_rdev), its partitions or the layers on them, in words.

    A partition's whole disk counts too: who claims the disk claims its partitions.
    """
    disk = disk_of(DeviceNumber.of(device), tree=tree)
    layers = layers_above(disk, tree=tree)
    paths = {disk.number: disk.path}
    paths |= {partition.number: partition.path for partition in disk.partitions}
    paths |= {layer.number: f"/dev/{layer.name}" for layer in layers}
    words = [f"{layer} is built on it" for layer in layers]
    words += [
        f"{paths[mount.device]} is mounted at {mount.target}"
        for mount in mounts_of(paths, tree=tree)
    ]
    words += [f"{swap.path} is swapped on" for swap in swaps_of(paths.values(), tree=tree)]
    if not words:
        from flashboot.machine.process import device_holders  # scans all of /proc: last resort

        for known in sorted(paths):
            words += map(str, device_holders(known, tree=tree))
    return tuple(words)


def set_read_only(disk: Disk, *, flag: bool) -> None:
    """Set or clear the kernel's read-only flag of a disk and its partitions (BLKROSET).

    Setting starts with the partitions, clearing with the disk, so that nothing is writable longer
    than asked for.
    """
    from flashboot.machine.device import open_device

    paths = [*(partition.path for partition in disk.partitions), disk.path]
    for path in paths if flag else reversed(paths):
        with open_device(path, writable=False) as device:
            device.set_read_only(flag=flag)


def stop_md(name: str, *, timeout_seconds: float = 60, tree: Tree = LIVE) -> None:
    """Stop the md array `name` ('md0') and leave its members as they are.

    mdadm(8) --stop where mdadm is; else sysfs, where 'clear' is the same STOP_ARRAY
    (Documentation/admin-guide/md.rst, array_state).
    """
    state_file = f"{tree.sys}/block/{name}/md/array_state"
    if attribute(state_file) is None:
        raise MachineError(f"/dev/{name}", "is no md array")
    from flashboot.machine.process import run

    try:
        run(["mdadm", "--stop", f"/dev/{name}"], timeout_seconds=timeout_seconds)
    except CommandFailed as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        try:
            with open(state_file, "w", encoding="ascii") as file:
                file.write("clear\n")
        except OSError as refusal:
            raise MachineError(f"/dev/{name}", "did not stop") from refusal
    state = attribute(state_file)
    if state not in (None, "clear", "inactive"):
        raise MachineError(f"/dev/{name}", f"is still {state} after it was stopped")


def deactivate_lvm(group: str, *, timeout_seconds: float = 60, tree: Tree = LIVE) -> None:
    """Deactivate all volumes of a volume group (vgchange(8)); nothing on the disks changes."""
    from flashboot.machine.process import run

    run(["vgchange", "--activate", "n", "--", group], timeout_seconds=timeout_seconds)
    for disk in disks(tree=tree):
        if disk.transport == "dm":
            layer = _layer(f"{tree.sys}/block/{disk.name}")
            if layer.group == group:
                raise MachineError(disk.path, f"({layer.label}) is still active")


def _home(device: DeviceNumber, tree: Tree) -> str:
    """The sysfs directory of a block device."""
    link = f"{tree.sys}/dev/block/{device}"
    if not os.path.exists(link):
        raise MachineError(f"block device {device}", "is not known to the kernel")
    return os.path.realpath(link)


def _is_partition(home: str) -> bool:
    return os.path.exists(f"{home}/partition")


def _descend(home: str, tree: Tree, layers: dict[str, Layer], found: dict[str, Disk]) -> None:
    whole = os.path.dirname(home) if _is_partition(home) else home
    name = os.path.basename(whole)
    slaves = names(f"{whole}/slaves")
    if not slaves:
        found.setdefault(name, _disk(whole, tree))
        return
    layers.setdefault(name, _layer(whole))
    for slave in slaves:
        _descend(os.path.realpath(f"{whole}/slaves/{slave}"), tree, layers, found)


def _all_holders(disk: Disk) -> tuple[str, ...]:
    held = [*disk.holders]
    for partition in disk.partitions:
        held += partition.holders
    return tuple(dict.fromkeys(held))


def _layer(home: str) -> Layer:
    name = os.path.basename(home)
    device = _number_of(home)
    label = attribute(f"{home}/dm/name")
    if label is None:
        kind = "md" if os.path.isdir(f"{home}/md") else "other"
        return Layer(name, kind, attribute(f"{home}/md/level") or name, None, device)
    # The owner of a device-mapper device leaves its mark before the first hyphen of the uuid.
    owner = (attribute(f"{home}/dm/uuid") or "").partition("-")[0]
    kind = {"LVM": "lvm", "CRYPT": "crypt"}.get(owner, "dm")
    group = None
    if kind == "lvm":
        # VG-LV; hyphens within either are doubled (lvm2, lib/misc/lvm-string.c).
        group = label.replace("--", "\0").split("-")[0].replace("\0", "-")
    return Layer(name, kind, label, group, device)


def _number_of(home: str) -> DeviceNumber:
    try:
        return DeviceNumber.parse(attribute(f"{home}/dev") or "")
    except ValueError as error:
        raise MachineError(home, "names no device number") from error


def _path_of(home: str, tree: Tree) -> str:
    # sysfs writes '!' for the '/' of names such as cciss/c0d0.
    return f"{tree.dev}/{os.path.basename(home).replace('!', '/')}"


def _partition(home: str, tree: Tree) -> Partition:
    return Partition(
        name=os.path.basename(home),
        path=_path_of(home, tree),
        number=_number_of(home),
        index=number(f"{home}/partition") or 0,
        start=(number(f"{home}/start") or 0) * _SYSFS_SECTOR_BYTES,
        size=(number(f"{home}/size") or 0) * _SYSFS_SECTOR_BYTES,
        read_only=number(f"{home}/ro") == 1,
        holders=names(f"{home}/holders"),
    )


def _disk(home: str, tree: Tree) -> Disk:
    home = os.path.realpath(home)
    if not os.path.isdir(home):
        raise MachineError(_path_of(home, tree), "there is no such disk")
    name = os.path.basename(home)
    partitions = (_partition(f"{home}/{entry}", tree) for entry in _partition_names(home))
    return Disk(
        name=name,
        path=_path_of(home, tree),
        number=_number_of(home),
        size=(number(f"{home}/size") or 0) * _SYSFS_SECTOR_BYTES,
        sector_size=number(f"{home}/queue/logical_block_size") or _SYSFS_SECTOR_BYTES,
        # virtio keeps the serial beside the queue, NVMe and SCSI with the controller.
        serial=attribute(f"{home}/device/serial") or attribute(f"{home}/serial") or None,
        model=attribute(f"{home}/device/model") or None,
        transport=_transport(name, home),
        pci_address=_pci_address(home),
        removable=number(f"{home}/removable") == 1,
        read_only=number(f"{home}/ro") == 1,
        partitions=tuple(sorted(partitions, key=lambda partition: partition.start)),
        holders=names(f"{home}/holders"),
        slaves=names(f"{home}/slaves"),
    )


def _partition_names(home: str) -> Iterator[str]:
    return (entry for entry in names(home) if os.path.exists(f"{home}/{entry}/partition"))


def _transport(name: str, home: str) -> str:
    if name.startswith("nvme"):
        return "nvme"
    if os.path.isdir(f"{home}/dm"):
        return "dm"
    if os.path.isdir(f"{home}/md"):
        return "md"
    if name.startswith("loop"):
        return "loop"
    subsystem = os.path.basename(os.path.realpath(f"{home}/device/subsystem"))
    return subsystem if subsystem in ("virtio", "xen", "scsi") else "other"


def _pci_address(home: str) -> str | None:
    # The namespace of a multipath NVMe device hangs under /sys/devices/virtual; its controllers
    # are links in the subsystem, and each tells its address (drivers/nvme/host/sysfs.c).
    candidates = [f"{home}/device"]
    candidates += [
        f"{home}/device/{entry}"
        for entry in names(f"{home}/device")
        if re.fullmatch(r"nvme\d+", entry)
    ]
    for candidate in candidates:
        found = _PCI_ADDRESS.fullmatch(attribute(f"{candidate}/address") or "")
        if found:
            return found[0]
    addresses: list[str] = _PCI_ADDRESS.findall(home)
    return addresses[-1] if addresses else None
