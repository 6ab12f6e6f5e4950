"""An EC2-like instance on this computer: a virtual machine in the rig's cloud, and its story.

    with Cloud(directory) as cloud, Node(cloud, image, key=key, directory=...) as node:
        node.boot()
        node.run("flashboot stage --image app-42")

Every line of its serial console is kept with its time; the machine's own disk counters are read at
the moments that matter; at every restart it stands still until `boot` switches it on again (a new
QEMU with the same disks and firmware variables: under TCG that is 25 s faster than a reset).
"""

import contextlib
import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from flashboot.machine.console import Line
from flashboot.machine.qemu import Disk, Qemu, VirtualMachine, free_port
from flashboot.machine.qmp import DiskCounters
from flashboot.units import MIB
from tests.rig.cloud import MAC, Cloud
from tests.rig.images import make_data_disk, make_root_disk
from tests.rig.ssh import GuestUnreachable, Ssh

DATA_SERIAL = "AWS6AAE3B2F19C7E0D11"  # instance store names itself so, not as a volume
QUIET = "flashboot: data filesystems are unmounted and flushed"
MEMORY_MIB = 768  # what the RAM OS and the flasher promise to work in
BOOT_SECONDS = 180.0
_EXTRA_SIZE = 64 * MIB


@dataclass(frozen=True, slots=True)
class Look:
    """What the host saw of a machine at one moment: counters by serial, and the data's digest."""

    at: float
    counters: Mapping[str, DiskCounters]
    data_digest: str


@dataclass
class Node:
    """An instance with a root volume made from `image` and one data disk."""

    cloud: Cloud
    image: Path
    key: Path
    directory: Path
    firmware: Literal["bios", "uefi"] = "bios"
    root_size: int = 640 * MIB
    memory_mib: int = MEMORY_MIB
    extra_disks: int = 0  # empty ones of 64 MiB, for arrays
    extras: dict[str, Path] = field(default_factory=dict)  # by serial
    premounts: list[Look] = field(default_factory=list)
    _restarts_seen: int = 0
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.root, self.data = self.directory / "root.raw", self.directory / "data.raw"
        make_root_disk(self.image, self.root, size=self.root_size)
        make_data_disk(self.data)
        for number in range(self.extra_disks):
            path = self.directory / f"extra-{number}.raw"
            path.touch()
            os.truncate(path, _EXTRA_SIZE)
            self.extras[f"AWS00000000000000E{number}"] = path
        machine = VirtualMachine(
            name=f"rig-{self.firmware}",
            disks=(
                Disk(self.root, self.root_serial),
                Disk(self.data, DATA_SERIAL),
                *(Disk(path, serial) for serial, path in self.extras.items()),
            ),
            firmware=self.firmware,
            memory_mib=self.memory_mib,
            mac=MAC,
            ssh_port=free_port(),
            metadata_port=self.cloud.imds.port,
        )
        self.qemu = Qemu(machine, self.directory, rendezvous=self._rendezvous)
        assert machine.ssh_port is not None
        self.ssh = Ssh(machine.ssh_port, self.key)
        self._stack.callback(self.ssh.close)
        self._stack.callback(self.qemu.kill)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def root_serial(self) -> str:
        """The root volume's id without its dash, as NVMe tells it on Nitro."""
        return self.cloud.volume_id.replace("-", "")

    def boot(self) -> Line:
        """Switch it on (again) and wait until its services serve; restarts then make it stand."""
        mark = self.qemu.mark() if hasattr(self.qemu, "console") else 0
        self.ssh.disconnect()
        self.qemu.power_cycle()
        self._restarts_seen = 0
        self.qemu.pause_at_reset()
        return self.qemu.wait_for(r"rig: \S+ serves", timeout_seconds=BOOT_SECONDS, after=mark)

    def configure(self) -> None:
        """Tell the guest where its cloud is, as AWS itself tells real instances."""
        environment = self.cloud.guest_environment()
        self.run("cat > /etc/flashboot/environment", input=environment)

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        timeout_seconds: float = 180,
        input: str | None = None,  # noqa: A002
    ) -> subprocess.CompletedProcess[str]:
        """A shell line in the guest, as root."""
        return self.ssh.run(command, check=check, timeout_seconds=timeout_seconds, input=input)

    def wait_arrived(self) -> str:
        """Wait until `flashboot arrive` of this boot has ended; systemd's word for how."""
        state = "$(systemctl is-active flashboot-arrive.service)"
        return self.run(
            f'while [ "{state}" = activating ]; do sleep 0.3; done; echo "{state}"'
        ).stdout.strip()

    def host_key(self) -> str:
        """The ed25519 key that answers on the guest's ssh port now, in OpenSSH's words."""
        port = str(self.ssh.port)
        done = subprocess.run(
            ["ssh-keyscan", "-T", "20", "-t", "ed25519", "-p", port, "127.0.0.1"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def flash(self, options: str = "") -> threading.Thread:
        """Start `flashboot flash` as an operator at a terminal would, and do not wait for it."""

        def leave() -> None:
            # The connection ends with the system that it led to.
            with contextlib.suppress(subprocess.SubprocessError, GuestUnreachable):
                self.run(f"flashboot flash --unprotected --yes {options}", timeout_seconds=300)

        thread = threading.Thread(target=leave, name="flash", daemon=True)
        thread.start()
        return thread

    def look(self) -> Look:
        """Counters and the data disk's digest, now."""
        return Look(time.monotonic(), self.qemu.counters(), file_digest(self.data))

    def wait_quiet(self, *, timeout_seconds: float = 120, after: int = 0) -> Look:
        """Look when the node says that its data filesystems are unmounted."""
        self.qemu.wait_for(QUIET, timeout_seconds=timeout_seconds, after=after)
        return self.look()

    def wait_restart(self, *, timeout_seconds: float = 600) -> tuple[str, Look]:
        """Wait for the guest to restart; the reason that QEMU gives, and a look while it stands."""
        event = self.qemu.wait_reset(timeout_seconds=timeout_seconds, after=self._restarts_seen)
        self._restarts_seen = event.number
        return str(event.data.get("reason")), self.look()

    def _rendezvous(self, line: str) -> str:
        self.premounts.append(self.look())
        return f"{len(self.premounts)}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
