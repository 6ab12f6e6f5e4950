"""The rig boots for real, from both kinds of firmware, and its instruments tell the truth."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from flashboot.machine.qemu import Disk, Qemu, VirtualMachine, free_port
from flashboot.machine.qmp import DiskCounters
from tests.rig import images
from tests.rig.layout import MIB
from tests.rig.ssh import Ssh

pytestmark = pytest.mark.vm

ROOT = "vol0123456789abcdef0"
DATA = "AWS0123456789abcdef0"
# 30 s on two free cores; three times as much on a busy host.
BOOT_SECONDS = 120


@pytest.fixture(scope="module")
def built() -> images.Images:
    return images.build()


class Rendezvous:
    """Keeps what the machine did to its disks by the moment before /data was mounted."""

    def __init__(self) -> None:
        self.machine: Qemu | None = None
        self.seen: list[Mapping[str, DiskCounters]] = []

    def __call__(self, line: str) -> str:
        assert line == "premount"
        assert self.machine is not None
        self.seen.append(self.machine.counters())
        return "go"


def prepare(
    directory: Path, image: Path, *, firmware: str, meeting: Rendezvous
) -> tuple[Qemu, int]:
    images.make_root_disk(image, directory / "root.raw", size=1024 * MIB)
    images.make_data_disk(directory / "data.raw")
    port = free_port()
    machine = VirtualMachine(
        "rig",
        (Disk(directory / "root.raw", ROOT), Disk(directory / "data.raw", DATA)),
        firmware="uefi" if firmware == "uefi" else "bios",
        ssh_port=port,
    )
    meeting.machine = Qemu(machine, directory, rendezvous=meeting)
    return meeting.machine, port


def test_old_boots_from_bios_and_restarts(built: images.Images, tmp_path: Path) -> None:
    meeting = Rendezvous()
    machine, port = prepare(tmp_path, built.old, firmware="bios", meeting=meeting)
    with machine, Ssh(port, built.key) as guest:
        machine.wait_for("rig: before mounting data: OLD writes=0", timeout_seconds=BOOT_SECONDS)
        ready = machine.wait_for("rig: OLD serves", timeout_seconds=BOOT_SECONDS)
        print(f"OLD serves from BIOS after {ready.seconds:.1f} s")
        guest.wait(timeout_seconds=30)
        assert "NAME=OLD" in guest.run("cat /etc/rig-release").stdout
        assert guest.run("findmnt -no SOURCE /data").stdout.strip() == "/dev/nvme1n1"
        assert guest.run("cat /sys/block/nvme0n1/device/serial").stdout.strip() == ROOT
        guest.run("cd /data/db && sha256sum --quiet -c SHA256SUMS")
        assert "flashboot" in guest.run("flashboot --help").stdout
        assert "happycache" in guest.run("happycache --help").stdout
        # Premount saw a disk that nobody had written to; the database has written since.
        assert (meeting.seen[0][DATA].writes, meeting.seen[0][DATA].discards) == (0, 0)
        assert meeting.seen[0][DATA].reads > 0
        assert machine.counters()[DATA].writes > 0
        # A trim is counted, too: the promise "no trim" could otherwise not be tested.
        guest.run("fstrim /data")
        assert machine.counters()[DATA].discard_bytes > 0

        machine.pause_at_reset()
        mark = machine.mark()
        guest.run("systemctl reboot", check=False)
        assert machine.wait_reset(timeout_seconds=60).data["reason"] == "guest-reset"
        at_reset = machine.counters()[DATA]
        machine.resume_reset()
        machine.wait_for("rig: OLD serves", timeout_seconds=BOOT_SECONDS, after=mark)
        assert meeting.seen[1][DATA].writes == at_reset.writes
        assert meeting.seen[1][DATA].discards == at_reset.discards
        guest.disconnect()
        guest.wait(timeout_seconds=60)
        log = guest.run("cat /data/db/commit.log").stdout
        assert "stopped" in log.split("started on OLD")[1], "the database was not stopped orderly"
        machine.shutdown()


def test_new_boots_from_uefi(built: images.Images, tmp_path: Path) -> None:
    meeting = Rendezvous()
    machine, port = prepare(tmp_path, built.new, firmware="uefi", meeting=meeting)
    with machine, Ssh(port, built.key) as guest:
        ready = machine.wait_for("rig: NEW serves", timeout_seconds=BOOT_SECONDS)
        print(f"NEW serves from UEFI after {ready.seconds:.1f} s")
        guest.wait(timeout_seconds=30)
        assert "rig image NEW" in guest.run("cat /etc/os-release").stdout
        guest.run("test -d /sys/firmware/efi && test -s /opt/application/feature")
        assert guest.run("findmnt -no SOURCE /data").stdout.strip() == "/dev/nvme1n1"
    assert meeting.seen[0][DATA].writes == 0


def test_nothing_survives_the_death_of_its_starter(tmp_path: Path) -> None:
    """SIGKILL for the Python process that started it: QEMU goes as well."""
    program = f"""
import sys, time
from pathlib import Path
from flashboot.machine.qemu import Qemu, VirtualMachine
machine = Qemu(VirtualMachine("orphan", (), network=False, memory_mib=64), Path({str(tmp_path)!r}))
machine.start()
print(machine.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        # Before the kill: a process that is gone already could not be opened.
        watch = os.pidfd_open(pid)
        starter.send_signal(signal.SIGKILL)
    ended, _, _ = select.select([watch], [], [], 10)
    os.close(watch)
    assert ended, "QEMU still runs"
