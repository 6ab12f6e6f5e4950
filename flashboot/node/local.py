"""The doors on a real machine: flashboot.machine, the stores and AWS, each imported when used.

botocore is the dearest import: only an s3:// store and tags pay for it.
"""

import contextlib
import errno
import os
import pwd
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flashboot.errors import MachineError, NoMetadata
from flashboot.machine import blockdevices, kexec, mounts, process
from flashboot.machine.blockdevices import Disk, Layer, Stack
from flashboot.machine.host import Host, host
from flashboot.machine.kernelfs import LIVE, DeviceNumber, Tree, attribute, read_text
from flashboot.machine.kmsg import NOTICE, kmsg
from flashboot.machine.memory import Memory, memory
from flashboot.machine.mounts import Mount, Swap
from flashboot.machine.process import Completed, Holder
from flashboot.machine.reasons import reason
from flashboot.node.door import Person
from flashboot.node.system import Cloud, Node, Places
from flashboot.store.base import Store

if TYPE_CHECKING:
    from flashboot.cloud.metadata import Metadata
    from flashboot.cloud.settings import CloudSettings

# include/uapi/linux/route.h: RTF_UP
_ROUTE_UP = 0x1
_MAC_ZERO = "00:00:00:00:00:00"


class LocalSystem:
    """system.System on the computer that this runs on."""

    def now(self) -> int:
        return time.time_ns() // 10**6

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def host(self) -> Host:
        return host()

    def memory(self) -> Memory:
        return memory()

    def command_line(self) -> str:
        return read_text(f"{LIVE.proc}/cmdline")

    def mac_address(self) -> str:
        return mac_address()

    def mounts(self) -> tuple[Mount, ...]:
        return mounts.mounts()

    def swaps(self) -> tuple[Swap, ...]:
        return mounts.swaps()

    def disks(self) -> tuple[Disk, ...]:
        return blockdevices.disks()

    def root_disk(self) -> Disk:
        return blockdevices.root_disk()

    def device_number(self, path: str) -> DeviceNumber | None:
        try:
            status = os.stat(path)  # noqa: PTH116  # paths from /proc are texts
        except OSError:
            return None
        return DeviceNumber.of(status.st_rdev or status.st_dev)

    def stack_of(self, device: DeviceNumber) -> Stack:
        return blockdevices.stack_of(device)

    def layers_above(self, disk: Disk) -> tuple[Layer, ...]:
        return blockdevices.layers_above(disk)

    def disk_guid(self, disk: Disk) -> str:
        from flashboot.machine.device import open_device
        from flashboot.machine.heads import read_disk_identity

        with open_device(disk.path, writable=False) as device:
            return read_disk_identity(device)

    def users(self, targets: Sequence[str], devices: Sequence[DeviceNumber]) -> tuple[Holder, ...]:
        numbers = {os.makedev(*device) for device in devices}
        for target in targets:
            try:
                numbers.add(os.stat(target).st_dev)  # noqa: PTH116
            except OSError as error:
                raise MachineError(target, f"cannot be looked at: {reason(error)}") from error
        return process.users_of_filesystems(numbers) if numbers else ()

    def claimed(self, disk: Disk) -> str | None:
        """O_EXCL claims the disk with all partitions: refused while anybody else has a claim, a
        mount in another namespace or a ZFS pool too (open(2); bd_prepare_to_claim, block/bdev.c).
        """
        try:
            descriptor = os.open(disk.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                words = "; ".join(blockdevices.users_of(os.makedev(*disk.number)))
                return words or "the kernel, on behalf of a mount elsewhere or a storage driver"
            if error.errno == errno.ENOMEDIUM:
                return None
            raise MachineError(disk.path, f"cannot be claimed: {reason(error)}") from error
        os.close(descriptor)
        return None

    def kexec_refusals(self) -> tuple[str, ...]:
        return kexec.refusals()

    def kexec_loaded(self) -> bool:
        return kexec.loaded()

    def load_kexec(self, kernel: bytes, initramfs: Sequence[bytes], *, command_line: str) -> None:
        descriptors: list[int] = []
        try:
            descriptors.append(kexec.memory_file("kernel", [kernel]))
            descriptors.append(kexec.memory_file("initramfs", initramfs))
            kexec.load(*descriptors, command_line=command_line)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def unload_kexec(self) -> None:
        kexec.unload()

    def leave(self) -> None:
        kexec.leave()

    def say(self, text: str) -> None:
        """To stderr and to the kernel's log; to the console too where its level hides the log."""
        with contextlib.suppress(OSError, ValueError):  # a terminal may be gone: go on
            sys.stderr.write(f"flashboot: {text}\n")
            sys.stderr.flush()
        kmsg(text, priority=NOTICE)
        if _console_hides(NOTICE):
            _write_console(f"flashboot: {text}\r\n")

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_seconds: float,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Completed:
        return process.run(argv, timeout_seconds=timeout_seconds, env=env, check=check)

    def unit(self) -> str | None:
        text = attribute(f"{LIVE.proc}/self/cgroup")
        return None if text is None else process.unit_of_cgroup(text)

    def pid(self) -> int:
        return os.getpid()

    def end_process(self, pid: int, *, force: bool) -> None:
        try:
            os.kill(pid, signal.SIGKILL if force else signal.SIGTERM)
        except ProcessLookupError:
            return
        except OSError as error:
            raise MachineError(f"process {pid}", f"was not ended: {reason(error)}") from error

    def unmount(self, target: str, *, timeout_seconds: float) -> None:
        mounts.unmount(target, timeout_seconds=timeout_seconds)

    def stop_md(self, name: str, *, timeout_seconds: float) -> None:
        blockdevices.stop_md(name, timeout_seconds=timeout_seconds)

    def deactivate_lvm(self, group: str, *, timeout_seconds: float) -> None:
        blockdevices.deactivate_lvm(group, timeout_seconds=timeout_seconds)

    def flush(self, disks: Sequence[Disk], *, timeout_seconds: float) -> None:
        from flashboot.machine.device import open_device

        mounts.sync(timeout_seconds=timeout_seconds)
        for disk in disks:
            # Partitions have page caches of their own.
            for path in (*(partition.path for partition in disk.partitions), disk.path):
                with open_device(path, writable=False) as device:
                    device.drop_cache()

    def set_read_only(self, disk: Disk, *, flag: bool) -> None:
        blockdevices.set_read_only(disk, flag=flag)


@dataclass(frozen=True, slots=True)
class LocalTags:
    """system.Tags by EC2, with the role's credentials."""

    instance: str
    settings: "CloudSettings"

    def read(self) -> Mapping[str, str]:
        from flashboot.cloud.clients import ec2_client
        from flashboot.cloud.tags import read_tags

        return read_tags(ec2_client(self.settings), self.instance)

    def write(self, values: Mapping[str, str]) -> None:
        from flashboot.cloud.clients import ec2_client
        from flashboot.cloud.tags import write_tags

        write_tags(ec2_client(self.settings), self.instance, values)


def open_node(*, ask_region: bool = False) -> Node:
    """This machine. Raises UsageError where the environment's AWS settings make no sense.

    With `ask_region` the metadata service tells the region where the environment does not: the
    RAM OS and the new system will not have this environment.
    """
    from flashboot.cloud.settings import CloudSettings

    settings = CloudSettings.from_environment()
    if ask_region and settings.region is None:
        settings = _with_region(settings)
    # The bundle travels as a file of the handoff, and its path means nothing elsewhere.
    cloud = {name: value for name, value in settings.as_dict().items() if name != "ca_bundle"}
    clients: dict[str, object] = {}

    def settings_of(travelled: Cloud) -> CloudSettings:
        """What a run remembers, and this machine's own where it remembers nothing."""
        return CloudSettings.from_dict({**settings.as_dict(), **travelled})

    def client(found: CloudSettings) -> object:
        from flashboot.cloud.clients import s3_client

        key = repr(found)
        if key not in clients:
            clients[key] = s3_client(found)
        return clients[key]

    def open_store(url: str, travelled: Cloud) -> Store:
        from flashboot.store import open as opening
        from flashboot.store.retry import RetryingStore, RetryPolicy

        store = opening.open_store(url, s3_client=lambda: client(settings_of(travelled)))
        return RetryingStore(store, RetryPolicy(attempts=5, deadline_seconds=30))

    return Node(
        system=LocalSystem(),
        places=_places(settings.ca_bundle),
        cloud=cloud,
        open_store=open_store,
        open_tags=lambda instance, travelled: LocalTags(instance, settings_of(travelled)),
        instance=lambda: _metadata(settings).instance_id(),
    )


def _metadata(settings: "CloudSettings") -> "Metadata":
    from flashboot.cloud.metadata import DEFAULT_ENDPOINT, Metadata

    return Metadata(settings.endpoints.get("imds", DEFAULT_ENDPOINT), attempts=3)


def _with_region(settings: "CloudSettings") -> "CloudSettings":
    try:
        return replace(settings, region=_metadata(settings).region())
    except NoMetadata:
        return settings


def _places(ca_bundle: str | None) -> Places:
    people: list[Person] = []
    user = os.environ.get("SUDO_USER")
    if user:
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(user)
            people.append(Person(found.pw_name, found.pw_uid, Path(found.pw_dir)))
    return Places(people=tuple(people), ca_bundle=Path(ca_bundle) if ca_bundle else None)


def mac_address(*, tree: Tree = LIVE) -> str:
    """Of the interface with the default route, IPv4's before IPv6's. Raises MachineError."""
    interface = default_interface(
        attribute(f"{tree.proc}/net/route") or "", attribute(f"{tree.proc}/net/ipv6_route") or ""
    )
    if interface is None:
        raise MachineError("the network", "has no default route")
    found = attribute(f"{tree.sys}/class/net/{interface}/address")
    if not found or found == _MAC_ZERO:
        raise MachineError(f"the interface {interface}", "has no MAC address")
    return found.lower()


def default_interface(route: str, ipv6_route: str) -> str | None:
    """The interface of the default route with the lowest metric; None where there is none.

    `route` is /proc/net/route: interface, destination, gateway, flags, two counters, metric, mask.
    `ipv6_route` is /proc/net/ipv6_route: destination, length, source, length, next hop, metric,
    two counters, flags, interface.
    """
    found: list[tuple[int, str]] = []
    for line in route.splitlines()[1:]:
        fields = line.split()
        is_default = len(fields) >= 8 and fields[1] == fields[7] == "0" * 8
        if is_default and int(fields[3], 16) & _ROUTE_UP:
            found.append((int(fields[6]), fields[0]))
    if not found:
        for line in ipv6_route.splitlines():
            fields = line.split()
            is_default = len(fields) >= 10 and fields[0] == "0" * 32 and fields[1] == "00"
            if is_default and fields[9] != "lo":
                found.append((int(fields[5], 16), fields[9]))
    return min(found)[1] if found else None


def _console_hides(priority: int) -> bool:
    # Documentation/admin-guide/sysctl/kernel.rst, printk: the first number is the console's level.
    levels = (attribute(f"{LIVE.proc}/sys/kernel/printk") or "").split()
    return bool(levels) and levels[0].isdigit() and int(levels[0]) <= priority


def _write_console(text: str) -> None:
    with contextlib.suppress(OSError):
        # A console that is held up (flow control) must not hold us up.
        descriptor = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            os.write(descriptor, text.encode("utf-8", "replace"))
        finally:
            os.close(descriptor)
