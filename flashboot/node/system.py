"""The doors: everything that the node's verbs see of the computer, the stores and the cloud.

local.py opens them on a real machine; unit tests put fakes in their place. Values are those of
flashboot.machine; only what it has no value for is defined here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flashboot.machine.blockdevices import Disk, Layer, Stack
from flashboot.machine.host import Host
from flashboot.machine.kernelfs import DeviceNumber
from flashboot.machine.memory import Memory
from flashboot.machine.mounts import Mount, Swap
from flashboot.machine.process import Completed, Holder
from flashboot.node.door import Person
from flashboot.store.base import Store

# What cloud/settings.py makes of itself: region, endpoints, proxy. No secrets.
Cloud = Mapping[str, str | Mapping[str, str]]


class System(Protocol):
    """One computer. Every method raises MachineError or one of its kin where it fails."""

    # What it is

    def now(self) -> int:
        """Milliseconds since 1970."""

    def pause(self, seconds: float) -> None:
        """Sleep."""

    def host(self) -> Host:
        """Architecture, boot mode, and the boot id, which is another one in every boot."""

    def memory(self) -> Memory: ...

    def command_line(self) -> str:
        """The running kernel's."""

    def mac_address(self) -> str:
        """Of the interface with the default route: 'aa:bb:cc:dd:ee:ff'."""

    # Its disks

    def mounts(self) -> tuple[Mount, ...]: ...

    def swaps(self) -> tuple[Swap, ...]: ...

    def disks(self) -> tuple[Disk, ...]:
        """All whole block devices, layers and loops among them."""

    def root_disk(self) -> Disk: ...

    def device_number(self, path: str) -> DeviceNumber | None:
        """Of the block device at `path`, or the one a file lies on; None where there is none."""

    def stack_of(self, device: DeviceNumber) -> Stack: ...

    def layers_above(self, disk: Disk) -> tuple[Layer, ...]: ...

    def disk_guid(self, disk: Disk) -> str:
        """The GPT's GUID, else the MBR's signature in hexadecimal; '' where there is neither."""

    def users(self, targets: Sequence[str], devices: Sequence[DeviceNumber]) -> tuple[Holder, ...]:
        """The processes, ourselves included, that hold these mounted filesystems or devices."""

    def claimed(self, disk: Disk) -> str | None:
        """Who claims the disk or a part of it, in any mount namespace; None: nobody does."""

    # kexec

    def kexec_refusals(self) -> tuple[str, ...]: ...

    def kexec_loaded(self) -> bool: ...

    def load_kexec(self, kernel: bytes, initramfs: Sequence[bytes], *, command_line: str) -> None:
        """Load exactly these bytes, the pieces of `initramfs` one after another."""

    def unload_kexec(self) -> None: ...

    def leave(self) -> None:
        """Let systemd begin the orderly way into the loaded kernel; returns while it goes on."""

    # What can be done to it

    def say(self, text: str) -> None:
        """A line for people: stderr, and the kernel's log, so that the console tells the story."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_seconds: float,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Completed: ...

    def unit(self) -> str | None:
        """systemd's unit that we run in ourselves."""

    def pid(self) -> int: ...

    def end_process(self, pid: int, *, force: bool) -> None:
        """SIGTERM, or with `force` SIGKILL. A process that is gone already is no error."""

    def unmount(self, target: str, *, timeout_seconds: float) -> None: ...

    def stop_md(self, name: str, *, timeout_seconds: float) -> None: ...

    def deactivate_lvm(self, group: str, *, timeout_seconds: float) -> None: ...

    def flush(self, disks: Sequence[Disk], *, timeout_seconds: float) -> None:
        """Write back everything (sync(2)) and drop the disks' own buffers (BLKFLSBUF)."""

    def set_read_only(self, disk: Disk, *, flag: bool) -> None: ...


class Tags(Protocol):
    """One instance's tags, named without 'flashboot:'. Both methods raise CloudError."""

    def read(self) -> Mapping[str, str]: ...

    def write(self, values: Mapping[str, str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Places:
    """Where files lie on the node."""

    state: Path = Path("/var/lib/flashboot/state.json")
    # In memory (tmpfs): what `stage` has loaded, for `flash` to load once more, armed.
    staged: Path = Path("/run/flashboot/staged")
    hooks: Path = Path("/etc/flashboot/hooks.d")
    host_keys: Path = Path("/etc/ssh")
    # passwd, group and sudoers.d are read for the rescue door's guests; under sudo, who called it.
    etc: Path = Path("/etc")
    people: tuple[Person, ...] = ()
    ca_bundle: Path | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A computer, its cloud and where things lie on it: what every verb works on.

    A run remembers `cloud`, so that another system can reach the same store: that is the second
    argument of `open_store` and `open_tags`.
    """

    system: System
    places: Places
    cloud: Cloud
    open_store: Callable[[str, Cloud], Store]
    open_tags: Callable[[str, Cloud], Tags]
    # The metadata service's; raises NoMetadata.
    instance: Callable[[], str]
