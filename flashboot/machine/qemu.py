"""A virtual machine: what it is made of, and a running instance of it that leaves nothing behind.

For the rig of the tests and for certifying images. TCG, never KVM: the same everywhere, and slow
enough that nobody takes its times for a real machine's.
Not a library for QEMU at large: one machine type, NVMe disks, one network card, two serial ports.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from flashboot.errors import MachineError
from flashboot.machine.console import Console, Line
from flashboot.machine.qmp import DiskCounters, Event, Qmp, parse_counters

# Debian's ovmf: code and variables in a 4 MiB flash.
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
# A small buffer for translated code (MiB): QEMU's default of 1 GiB keeps what the kernel before a
# reset or kexec left there, and the next system boots up to four times slower. Measured with 7.2,
# a Debian guest to basic.target in seconds of processor time: 16, after a reset 25; here 12 and 13.
TCG = "tcg,thread=multi,tb-size=64"
# A link-local network with the host's side at a free place, so that guestfwd can put the metadata
# service at its real address; QEMU refuses that address from any other network.
NETWORK = "169.254.0.0/16"
HOST_ADDRESS = "169.254.0.2"
METADATA_ADDRESS = "169.254.169.254"
# How many lines of the console end up in an error.
_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Disk:
    """An NVMe disk; its serial is a volume id without the dash, as on Nitro."""

    path: Path
    serial: str
    format: Literal["raw", "qcow2"] = "raw"
    snapshot: bool = False
    """Writes go to a temporary file and are lost at the end."""
    sector_bytes: int = 512


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """What a machine is made of; the first disk is the root device."""

    name: str
    disks: tuple[Disk, ...]
    firmware: Literal["bios", "uefi"] = "bios"
    memory_mib: int = 1024
    cpus: int = 2
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    network: bool = True
    mac: str = "52:54:00:f1:a5:01"
    ssh_port: int | None = None
    """Port on 127.0.0.1 that leads to the guest's sshd."""
    metadata_port: int | None = None
    """Port on 127.0.0.1 that the guest finds at 169.254.169.254:80."""


def arguments(
    machine: VirtualMachine, *, variables: Path, qmp: int, console: int, rendezvous: int | None
) -> list[str]:
    """QEMU's argument list; the three channels are numbers of connected, inherited sockets."""
    argv = ["qemu-system-x86_64", "-name", machine.name, "-nodefaults", "-no-user-config"]
    argv += ["-machine", "q35", "-accel", TCG, "-cpu", "max", "-display", "none"]
    argv += ["-smp", str(machine.cpus), "-m", f"{machine.memory_mib}M"]
    if machine.firmware == "uefi":
        pflash = "if=pflash,format=raw,unit"
        argv += ["-drive", f"{pflash}=0,readonly=on,file={_escape(OVMF_CODE)}"]
        argv += ["-drive", f"{pflash}=1,file={_escape(variables)}"]
    argv += ["-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"]
    argv += ["-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"]
    if rendezvous is not None:
        argv += ["-chardev", f"socket,id=rendezvous,fd={rendezvous}"]
        argv += ["-serial", "chardev:rendezvous"]
    for number, disk in enumerate(machine.disks):
        # discard=unmap: a trim really punches a hole, so that a test which compares bytes sees it.
        drive = f"if=none,id=disk{number},format={disk.format},discard=unmap"
        drive += ",snapshot=on" if disk.snapshot else ""
        sizes = f"logical_block_size={disk.sector_bytes},physical_block_size={disk.sector_bytes}"
        argv += ["-drive", f"{drive},file={_escape(disk.path)}"]
        argv += ["-device", f"nvme,drive=disk{number},serial={disk.serial},{sizes}"]
        if number == 0 and machine.kernel is None:
            argv[-1] += ",bootindex=0"
    for option, value in (
        ("-kernel", machine.kernel),
        ("-initrd", machine.initrd),
        ("-append", machine.append),
    ):
        argv += [option, str(value)] if value is not None else []
    if machine.network:
        argv += ["-netdev", network(machine)]
        # No option ROM: it would only offer to boot from the network, seconds later.
        argv += ["-device", f"virtio-net-pci,netdev=net,mac={machine.mac},romfile="]
    return argv


def network(machine: VirtualMachine) -> str:
    """The value of -netdev: user networking, the host's loopback at 169.254.0.2."""
    value = f"user,id=net,net={NETWORK},host={HOST_ADDRESS}"
    if machine.ssh_port is not None:
        value += f",hostfwd=tcp:127.0.0.1:{machine.ssh_port}-:22"
    if machine.metadata_port is not None:
        # One small process a connection; a plain forward would serve a single connection only.
        command = f"/bin/busybox nc 127.0.0.1 {machine.metadata_port}"
        value += f",guestfwd=tcp:{METADATA_ADDRESS}:80-cmd:{command}"
    return value


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Qemu:
    """A running virtual machine. Use it as a context manager; `start` may be called by hand.

    `directory` gets console.log, qemu.log and, for UEFI, variables.fd, which stays between starts
    as on a real machine. `rendezvous` is called with every line of one lower-case word that
    the guest writes to its second serial port, on a thread of its own, and what it returns is the
    answer; without it the machine has no second port. While it runs, the guest waits: read the
    counters there.
    """

    console: Console
    """Since `start`."""
    qmp: Qmp
    """Since `start`; after `power_cycle` another one, whose events begin again."""

    def __init__(
        self,
        machine: VirtualMachine,
        directory: Path,
        *,
        rendezvous: Callable[[str], str] | None = None,
    ) -> None:
        self.machine = machine
        self.directory = directory
        self._rendezvous = rendezvous
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()
        self._ended = threading.Event()
        self._first_start: float | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """QEMU's process id, also its process group."""
        assert self._process is not None, f"{self.machine.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether QEMU is there (the guest may be paused)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start QEMU and return when it answers. MachineError when it does not."""
        if self.running:
            raise MachineError(self.machine.name, "runs already")
        self.directory.mkdir(parents=True, exist_ok=True)
        variables = self.directory / "variables.fd"
        if self.machine.firmware == "uefi" and not variables.exists():
            shutil.copyfile(OVMF_VARS, variables)
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as theirs:
            stack.callback(self._end_process)
            pairs = [socket.socketpair() for _ in range(2 if self._rendezvous is None else 3)]
            for _, other in pairs:
                theirs.callback(other.close)
            descriptors: list[int | None] = [other.fileno() for _, other in pairs]
            qmp, console, rendezvous = (*descriptors, None)[:3]
            assert qmp is not None
            assert console is not None
            argv = arguments(
                self.machine, variables=variables, qmp=qmp, console=console, rendezvous=rendezvous
            )
            before: Sequence[Line] = ()
            if self._first_start is None:
                self._first_start = time.monotonic()
            else:
                before = self.console.lines()
            self._spawn(argv, [other.fileno() for _, other in pairs])
            theirs.close()  # else we would not notice when QEMU hangs up
            log = self.directory / "console.log"
            self.console = Console(pairs[1][0], log, start=self._first_start, before=before)
            self.console.start()
            stack.callback(self.console.close)
            self.qmp = Qmp(pairs[0][0])
            stack.callback(self.qmp.close)
            try:
                self.qmp.start()
            except MachineError as error:
                raise MachineError(self.machine.name, f"QEMU said: {self._words()}") from error
            if self._rendezvous is not None:
                meeting = threading.Thread(
                    target=self._meet, args=(pairs[2][0], self._rendezvous), daemon=True
                )
                meeting.start()
                stack.callback(meeting.join)
                stack.callback(functools.partial(_hang_up, pairs[2][0]))
            stack.callback(self._end_process)  # first of all, so that the last words are read
            self._stack = stack.pop_all()

    def wait_for(self, pattern: str, *, timeout_seconds: float, after: int = 0) -> Line:
        """The first console line above number `after` that `pattern` is found in.

        MachineError with the last lines, when time is up or QEMU ends.
        """
        line = self.console.wait_for(pattern, timeout_seconds=timeout_seconds, after=after)
        if line is None:
            what = f"within {timeout_seconds:g} s" if self.running else "and QEMU ended"
            tail = "\n".join(line.text for line in self.console.lines()[-_TAIL_LINES:])
            raise MachineError(
                self.machine.name, f"no line with `{pattern}` {what}; the last lines were:\n{tail}"
            )
        return line

    def mark(self) -> int:
        """The number of the last line so far, for `after=`."""
        lines = self.console.lines()
        return lines[-1].number if lines else 0

    def counters(self) -> Mapping[str, DiskCounters]:
        """What was done to each disk since QEMU's start, by serial."""
        by_drive = parse_counters(self.qmp.execute("query-blockstats"))
        return {
            disk.serial: by_drive[f"disk{number}"] for number, disk in enumerate(self.machine.disks)
        }

    def pause_at_reset(self, *, pause: bool = True) -> None:
        """From now on a reset or power-off by the guest stops the machine for a look at it."""
        self.qmp.execute(
            "set-action",
            {
                "reboot": "shutdown" if pause else "reset",
                "shutdown": "pause" if pause else "poweroff",
            },
        )

    def wait_reset(self, *, timeout_seconds: float, after: int = 0) -> Event:
        """With `pause_at_reset`: wait until the guest asked for a reset; the machine stands then.

        `event.data["reason"]` says which: `guest-reset`, `guest-shutdown`, `guest-panic`.
        """
        return self.qmp.wait_event("SHUTDOWN", timeout_seconds=timeout_seconds, after=after)

    def resume_reset(self) -> None:
        """Carry out the reset at which the machine stands; later ones are not stopped at.

        `power_cycle` is the other way on, with memory lost and counters that begin again at 0.
        """
        self.pause_at_reset(pause=False)
        before = len(self.qmp.events())
        self.qmp.execute("system_reset")
        self.qmp.wait_event("RESET", timeout_seconds=30, after=before)
        self.qmp.execute("cont")

    def power_cycle(self) -> None:
        """Cut the power and start again; console lines and the firmware's variables go on."""
        self.kill()
        self.start()

    def shutdown(self, *, timeout_seconds: float = 60) -> None:
        """Press the power button and wait for the end; the guest's systemd stops orderly."""
        self.qmp.execute("system_powerdown")
        self.wait_exit(timeout_seconds=timeout_seconds)

    def wait_exit(self, *, timeout_seconds: float) -> int:
        """QEMU's exit code, after it ended by itself. MachineError when it goes on."""
        if not self._ended.wait(timeout_seconds):
            raise MachineError(self.machine.name, f"still runs after {timeout_seconds:g} s")
        code = self._process.poll() if self._process is not None else None
        self._stack.close()
        return code if code is not None else 0

    def kill(self) -> None:
        """Cut the power: QEMU is gone when this returns. Harmless when repeated."""
        self._stack.close()

    def _spawn(self, argv: Sequence[str], descriptors: Sequence[int]) -> None:
        """Start QEMU on a thread that lives as long as it does.

        PR_SET_PDEATHSIG fires when the starting *thread* ends (prctl(2)): a worker of some pool
        must not be that thread. A session of its own keeps the terminal's Ctrl-C away from it.
        """
        begun = threading.Event()
        failures: list[OSError] = []
        self._ended.clear()
        self._process = None

        def run() -> None:
            try:
                with (self.directory / "qemu.log").open("wb") as log:
                    self._process = subprocess.Popen(
                        ["setpriv", "--pdeathsig", "KILL", *argv],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=descriptors,
                        start_new_session=True,
                    )
            except OSError as error:
                failures.append(error)
                return
            finally:
                begun.set()
            self._process.wait()
            self._ended.set()

        threading.Thread(target=run, name="qemu", daemon=True).start()
        begun.wait()
        if failures:
            raise MachineError(self.machine.name, "QEMU cannot be started") from failures[0]

    def _end_process(self) -> None:
        if self._process is not None and not self._ended.is_set():
            # The group: helpers of guestfwd, too. It may have ended by itself just now.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._ended.wait()

    def _words(self) -> str:
        return (self.directory / "qemu.log").read_text(errors="replace").strip() or "nothing"

    def _meet(self, channel: socket.socket, answer: Callable[[str], str]) -> None:
        with channel, contextlib.suppress(OSError), channel.makefile("rb") as lines:
            for line in lines:
                word = line.decode(errors="replace").strip()
                # OVMF talks on both serial ports; its words are not for us.
                if not re.fullmatch(r"[a-z]+", word):
                    continue
                try:
                    reply = answer(word)
                except MachineError as error:
                    reply = str(error)
                channel.sendall(reply.replace("\n", " ").encode() + b"\n")


def _hang_up(channel: socket.socket) -> None:
    with contextlib.suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)


def _escape(path: Path) -> str:
    """A path as a value in QEMU's comma-separated options."""
    return str(path).replace(",", ",,")
