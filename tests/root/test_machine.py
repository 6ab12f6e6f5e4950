"""The machine's doors on a real kernel: loop devices, mounts, and a restart in a namespace."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flashboot.errors import DeviceBusy, DeviceFailed, MachineError
from flashboot.machine import device as device_module
from flashboot.machine import mounts as mounts_module
from flashboot.machine.blockdevices import disk_named, disk_of, root_stack, set_read_only
from flashboot.machine.buffers import AlignedBuffer
from flashboot.machine.clock import set_wall_clock
from flashboot.machine.device import open_device
from flashboot.machine.heads import read_head
from flashboot.machine.kernelfs import DeviceNumber
from flashboot.machine.kmsg import kmsg
from flashboot.machine.mounts import mount_at, mounts_of, remount_read_only, sync, unmount
from flashboot.machine.process import who_uses
from tests.root.conftest import LoopMaker

pytestmark = pytest.mark.root

MIB = 1024 * 1024

Mounter = Callable[[str], Path]


@pytest.fixture
def ext4(loop: LoopMaker) -> str:
    """A loop device with an ext4 filesystem."""
    path = loop(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    return path


def test_a_mounted_device_is_busy_and_the_mount_is_named(ext4: str, mounted: Mounter) -> None:
    point = mounted(ext4)
    with pytest.raises(DeviceBusy, match=f"{ext4} is mounted at {point}") as caught:
        open_device(ext4, writable=True)
    assert caught.value.exit_code == 31
    with open_device(ext4, writable=False) as device:
        assert device.size == 16 * MIB
    unmount(str(point), timeout_seconds=10)
    with open_device(ext4, writable=True):
        pass


def test_a_device_swapped_on_is_busy(loop: LoopMaker) -> None:
    path = loop(MIB)
    subprocess.run(["mkswap", "-q", path], check=True, capture_output=True)
    subprocess.run(["swapon", path], check=True)
    try:
        with pytest.raises(DeviceBusy, match="swapped on"):
            open_device(path, writable=True)
    finally:
        subprocess.run(["swapoff", path], check=True)


def test_a_device_that_another_program_claims_is_busy(loop: LoopMaker) -> None:
    path = loop(MIB)
    with open_device(path, writable=True):
        with pytest.raises(DeviceBusy, match=rf"pid {os.getpid()}.*{path}"):
            open_device(path, writable=True)


def test_a_lock_is_waited_for_and_then_busy(
    loop: LoopMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "LOCK_PATIENCE_SECONDS", 0.2)
    path = loop(MIB)
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(DeviceBusy, match="holds its lock"):
            open_device(path, writable=True)
        fcntl.flock(other, fcntl.LOCK_UN)
        with open_device(path, writable=True):
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_the_read_only_flag(loop: LoopMaker) -> None:
    path = loop(MIB)
    disk = disk_named(path.removeprefix("/dev/"))
    assert (disk.transport, disk.size, disk.read_only) == ("loop", MIB, False)
    with open_device(path, writable=True) as device:
        set_read_only(disk, flag=True)
        assert device.read_only
        with pytest.raises(DeviceFailed, match="read-only"):
            device.write(0, AlignedBuffer(512).view)
    assert disk_named(disk.name).read_only
    with pytest.raises(MachineError, match="read-only"):
        open_device(path, writable=True)
    set_read_only(disk, flag=False)
    with open_device(path, writable=True) as device:
        device.write(0, AlignedBuffer(512).view)


def test_a_failing_device_is_said(loop: LoopMaker, tmp_path: Path) -> None:
    # The disk below a loop device is full: the device reports what a broken disk would.
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(small)], check=True)
    try:
        image = small / "disk.img"
        with image.open("wb") as file:
            file.truncate(4 * MIB)
        path = loop(4 * MIB, file=image)
        buffer = AlignedBuffer(MIB)
        buffer.view[:] = b"x" * MIB

        def fill() -> None:
            with open_device(path, writable=True) as device:
                for offset in range(0, 4 * MIB, MIB):
                    device.write(offset, buffer.view)
                device.flush()

        with pytest.raises(DeviceFailed, match=r"\((EIO|ENOSPC)\)"):
            fill()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_partitions_cannot_be_read_again_on_a_loop_device(loop: LoopMaker) -> None:
    with open_device(loop(MIB), writable=True) as device:
        assert "no partitions" in (device.reread_partitions() or "")


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_gpt_on_a_device_with_such_sectors(loop: LoopMaker, sector_size: int) -> None:
    path = loop(8 * MIB, sector_size=sector_size)
    subprocess.run(
        ["sgdisk", "-n", "1:0:0", "-c", "1:rootfs", path], check=True, capture_output=True
    )
    with open_device(path, writable=False) as device:
        head = read_head(device)
    assert head.problems == ()
    assert head.primary is not None
    assert head.primary.entries[0].name == "rootfs"
    assert head.backup is not None
    assert head.backup.header.sector == 8 * MIB // sector_size - 1


def test_unmounting_names_who_keeps_it(ext4: str, mounted: Mounter) -> None:
    point = mounted(ext4)
    number = DeviceNumber.of(os.stat(ext4).st_rdev)
    assert [mount.target for mount in mounts_of([number])] == [str(point)]
    child = subprocess.Popen(["sleep", "60"], cwd=point)
    try:
        assert [holder.pid for holder in who_uses(str(point))] == [child.pid]
        assert [holder.pid for holder in who_uses(ext4)] == [child.pid]
        with pytest.raises(DeviceBusy, match=rf"sleep \(pid {child.pid}\)"):
            unmount(str(point), timeout_seconds=10)
    finally:
        child.kill()
        child.wait()
    sync(timeout_seconds=30)
    unmount(str(point), timeout_seconds=10)
    assert mounts_of([number]) == ()
    with pytest.raises(MachineError, match="not a mount point"):
        unmount(str(point), timeout_seconds=10)
    with pytest.raises(MachineError, match="no such directory"):
        unmount(f"{point}/missing", timeout_seconds=10)


def test_an_inner_mount_is_named(ext4: str, mounted: Mounter) -> None:
    point = mounted(ext4)
    (point / "inner").mkdir()
    subprocess.run(["mount", "--bind", str(point), str(point / "inner")], check=True)
    try:
        with pytest.raises(DeviceBusy, match=f"{point}/inner is mounted in it"):
            unmount(str(point), timeout_seconds=10)
    finally:
        unmount(str(point / "inner"), timeout_seconds=10)


def test_a_filesystem_becomes_read_only_once_its_writers_are_gone(
    ext4: str, mounted: Mounter
) -> None:
    point = mounted(ext4)
    with (point / "file").open("w") as file:
        file.write("x")
        with pytest.raises(DeviceBusy, match=rf"not become read-only; .*pid {os.getpid()}"):
            remount_read_only(str(point), timeout_seconds=10)
    remount_read_only(str(point), timeout_seconds=10)
    mount = mount_at(str(point))
    assert mount is not None
    assert mount.read_only
    with pytest.raises(OSError, match="Read-only"):
        (point / "other").touch()


def test_a_hanging_call_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mounts_module, "_CHILD", "import time; time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(MachineError, match=r"did not come back within 0\.3 s"):
        unmount(str(tmp_path), timeout_seconds=0.3)
    assert time.monotonic() - start < 20


def test_root_is_on_something() -> None:
    stack = root_stack()
    assert stack.disks
    assert disk_of(stack.disks[0].number) == stack.disks[0]


def test_the_kernel_log_has_our_line() -> None:
    mark = f"mark {time.monotonic_ns()}"
    assert kmsg(mark)
    log = subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout
    assert f"flashboot: {mark}" in log


def test_the_clock_is_set() -> None:
    before = time.time()
    set_wall_clock(time.time() + 0.001)
    assert 0 <= time.time() - before < 1


def test_restart_restarts() -> None:
    # reboot(2): in a PID namespace of its own, a restart kills the namespace's first process with
    # SIGHUP, and a halt or poweroff with SIGINT. The guard keeps a mistake from restarting us.
    code = (
        "import os\n"
        "assert os.getpid() == 1\n"
        "from flashboot.machine.power import restart\n"
        "restart()\n"
    )
    argv = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", code]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20)
    assert done.returncode in (-signal.SIGHUP, 128 + signal.SIGHUP), done.stderr


def test_restart_without_privilege_says_so() -> None:
    code = (
        "import os\n"
        "from flashboot.machine.power import restart\n"
        "from flashboot.errors import MachineError\n"
        # Only now: the checkout may lie where nobody else can read it.
        "os.setgid(65534); os.setuid(65534)\n"
        "try: restart()\n"
        "except MachineError as error: print(error)\n"
    )
    argv = ["unshare", "--pid", "--fork", sys.executable, "-B", "-c", code]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20)
    assert errno.errorcode[errno.EPERM] in done.stdout, done.stderr
