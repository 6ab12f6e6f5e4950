"""Where '/' lies, and what lies on all the other disks: the data that must not be touched."""

from dataclasses import dataclass

from flashboot.errors import MachineError
from flashboot.machine.blockdevices import Disk, Layer, Stack
from flashboot.machine.kernelfs import DeviceNumber
from flashboot.machine.mounts import Mount
from flashboot.node.system import System

# Their numbers are anonymous, so what they lie on is told by their source alone.
_ANONYMOUS = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """A mount on block devices: the paths of the whole disks below it, and the layers between."""

    mount: Mount
    disks: tuple[str, ...]
    layers: tuple[Layer, ...] = ()

    @property
    def target(self) -> str:
        return self.mount.target


@dataclass(frozen=True, slots=True)
class PlacedSwap:
    """A swap on block devices."""

    path: str
    disks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What lies on which disk.

    `root` is None where '/' is on no plain disk, and `root_problem` says why. `disks` are the real
    ones without the root disk. `layers` are those on `disks`, topmost first: in this order they
    can be taken down; `root_layers` are those on the root disk.
    """

    root: Disk | None
    root_problem: str
    disks: tuple[Disk, ...]
    mounts: tuple[Placed, ...]
    swaps: tuple[PlacedSwap, ...]
    layers: tuple[Layer, ...]
    root_layers: tuple[Layer, ...]
    foreign: tuple[Mount, ...]  # filesystems that do not say where they lie: ZFS

    @property
    def _others(self) -> frozenset[str]:
        return frozenset(disk.path for disk in self.disks)

    @property
    def data_mounts(self) -> tuple[Placed, ...]:
        """Mounts on other disks than the root disk, in the order in which they were mounted."""
        return tuple(place for place in self.mounts if self._others & set(place.disks))

    @property
    def data_filesystems(self) -> tuple[Placed, ...]:
        """One mount for each filesystem of `data_mounts`, of its topmost directory if there is."""
        found: dict[DeviceNumber, Placed] = {}
        for place in sorted(self.data_mounts, key=lambda place: place.mount.root != "/"):
            found.setdefault(place.mount.device, place)
        return tuple(place for place in self.data_mounts if place in found.values())

    @property
    def data_swaps(self) -> tuple[PlacedSwap, ...]:
        return tuple(swap for swap in self.swaps if self._others & set(swap.disks))

    @property
    def shared(self) -> tuple[str, ...]:
        """What lies on the root disk and on others at once: it can be neither kept nor replaced."""
        root = self.root.path if self.root else ""
        both = [place.target for place in self.data_mounts if root in place.disks]
        both += [swap.path for swap in self.data_swaps if root in swap.disks]
        names = {layer.name for layer in self.root_layers}
        return (*both, *(str(layer) for layer in self.layers if layer.name in names))

    @property
    def root_extras(self) -> tuple[Placed, ...]:
        """Other filesystems on the root disk than '/' and what it boots from: they get lost."""
        if self.root is None:
            return ()
        slash = next((place.mount.device for place in self.mounts if place.target == "/"), None)
        return tuple(
            place
            for place in self.mounts
            if place.disks == (self.root.path,)
            and place.mount.device != slash
            and place.target not in ("/boot", "/boot/efi", "/efi")
        )


def survey(system: System) -> Layout:
    """The layout of this machine. Raises MachineError where /proc or /sys cannot be read."""
    root, problem = None, ""
    try:
        root = system.root_disk()
    except MachineError as error:
        problem = str(error)
    everything = system.disks()
    disks = tuple(
        disk
        for disk in everything
        if _is_real(disk) and (root is None or disk.number != root.number)
    )
    layers: dict[str, Layer] = {}
    for disk in disks:
        for layer in system.layers_above(disk):
            layers.setdefault(layer.name, layer)
    mounts = system.mounts()
    return Layout(
        root=root,
        root_problem=problem,
        disks=disks,
        mounts=tuple(place for mount in mounts if (place := _place(system, mount))),
        swaps=tuple(
            PlacedSwap(swap.path, tuple(disk.path for disk in stack.disks))
            for swap in system.swaps()
            if (number := system.device_number(swap.path))
            and (stack := _stack(system, number)) is not None
        ),
        layers=tuple(layers.values()),
        root_layers=system.layers_above(root) if root else (),
        foreign=tuple(mount for mount in mounts if mount.filesystem == "zfs"),
    )


def _is_real(disk: Disk) -> bool:
    """Hardware, and not the likes of loop, zram or an empty drive."""
    return disk.transport in ("nvme", "virtio", "xen", "scsi") or (
        disk.transport == "other" and disk.pci_address is not None
    )


def _place(system: System, mount: Mount) -> Placed | None:
    number: DeviceNumber | None = mount.device
    if mount.device.major == _ANONYMOUS:
        # btrfs; overlays, tmpfs and the like name no device.
        number = system.device_number(mount.source) if mount.source.startswith("/dev/") else None
    stack = _stack(system, number) if number else None
    if stack is None:
        return None
    return Placed(mount, tuple(disk.path for disk in stack.disks), stack.layers)


def _stack(system: System, number: DeviceNumber) -> Stack | None:
    try:
        return system.stack_of(number)
    except MachineError:
        return None  # not a block device any more, or none that sysfs knows
