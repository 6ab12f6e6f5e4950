"""What is mounted and swapped on, and the orderly end of a mount.

There is no forced and no lazy unmount: both let a writer go on after the caller believes that the
disk is quiet (umount(2), MNT_DETACH).
"""

import errno
import os
import re
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from flashboot.errors import CommandFailed, DeviceBusy, MachineError, MalformedDocument
from flashboot.machine.kernelfs import LIVE, DeviceNumber, Tree, read_bytes

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    mount_id: int
    parent_id: int
    device: DeviceNumber
    # The directory of the filesystem that is mounted; '/' but for bind mounts and subvolumes.
    root: str
    target: str
    options: tuple[str, ...]
    # 'shared:1', 'master:2' ...
    propagation: tuple[str, ...]
    filesystem: str
    source: str
    super_options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """True where either the mount or its filesystem is read-only."""
        return "ro" in self.options or "ro" in self.super_options


@dataclass(frozen=True, slots=True)
class Swap:
    """A line of /proc/swaps: a block device ('partition') or a file."""

    path: str
    kind: str


def _unescape(field: bytes) -> str:
    """The kernel writes white space, backslash and '#' as octal (seq_escape, fs/seq_file.c)."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))


def _list(field: bytes) -> tuple[str, ...]:
    return tuple(_unescape(part) for part in field.split(b","))


def parse_mountinfo(text: bytes) -> tuple[Mount, ...]:
    """All mounts, in the kernel's order. Raises MalformedDocument."""
    return tuple(_mount(line) for line in text.split(b"\n") if line)


def _mount(line: bytes) -> Mount:
    # Six fields, any number of optional ones, a lone hyphen, three fields. A source may be empty,
    # so the fields are split at single spaces.
    fields = line.split(b" ")
    try:
        hyphen = fields.index(b"-", 6)
        filesystem, source, super_options = fields[hyphen + 1 : hyphen + 4]
        return Mount(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            device=DeviceNumber.parse(fields[2].decode()),
            root=_unescape(fields[3]),
            target=_unescape(fields[4]),
            options=_list(fields[5]),
            propagation=tuple(_unescape(field) for field in fields[6:hyphen]),
            filesystem=_unescape(filesystem),
            source=_unescape(source),
            super_options=_list(super_options),
        )
    except ValueError as error:
        raise MalformedDocument("mountinfo", f"the line {line[:200]!r}") from error


def parse_swaps(text: bytes) -> tuple[Swap, ...]:
    """All swaps of a /proc/swaps file, its heading left out. Raises MalformedDocument."""
    swaps: list[Swap] = []
    for line in text.split(b"\n")[1:]:
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 5:
            raise MalformedDocument("list of swaps", f"the line {line[:200]!r}")
        swaps.append(Swap(_unescape(fields[0]), _unescape(fields[1])))
    return tuple(swaps)


def mounts(*, tree: Tree = LIVE) -> tuple[Mount, ...]:
    """What is mounted in our mount namespace, in the kernel's order."""
    return parse_mountinfo(read_bytes(f"{tree.proc}/self/mountinfo"))


def swaps(*, tree: Tree = LIVE) -> tuple[Swap, ...]:
    """What is swapped on; none where the kernel has no swap."""
    try:
        return parse_swaps(read_bytes(f"{tree.proc}/swaps"))
    except MachineError:
        if os.path.exists(f"{tree.proc}/swaps"):
            raise
        return ()


def mount_at(target: str, *, tree: Tree = LIVE) -> Mount | None:
    """What one sees at the mount point `target`: the last one where several are stacked."""
    found = None
    for mount in mounts(tree=tree):
        if mount.target == target:
            found = mount
    return found


def root_mount(*, tree: Tree = LIVE) -> Mount:
    """The mount of '/'."""
    mount = mount_at("/", tree=tree)
    if mount is None:
        raise MachineError("/", "is not in mountinfo; is this a chroot?")
    return mount


def mounts_of(devices: Collection[DeviceNumber], *, tree: Tree = LIVE) -> tuple[Mount, ...]:
    """The mounts whose filesystem lies on one of `devices`, innermost last.

    The other way round is an order in which they can be unmounted.
    """
    return tuple(mount for mount in mounts(tree=tree) if mount.device in devices)


def swaps_of(paths: Iterable[str], *, tree: Tree = LIVE) -> tuple[Swap, ...]:
    """The swaps that are one of these device nodes, however they are called."""
    wanted = {os.path.realpath(path) for path in paths}
    return tuple(swap for swap in swaps(tree=tree) if os.path.realpath(swap.path) in wanted)


# The system calls run in a child: umount(2), mount(2) and sync(2) may hang in the kernel for as
# long as a device or server does, and then only a process that nobody waits for may hang.
# It prints the errno, so that a child that fails before the call is not taken for one.
_CHILD = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
verb, path = sys.argv[1], os.fsencode(sys.argv[2])
if verb == "umount":
    failed = libc.umount2(path, 8)
elif verb == "remount":
    failed = libc.mount(None, path, None, ctypes.c_ulong(32 | 1), None)
else:
    os.sync()
    failed = 0
print(ctypes.get_errno() if failed else 0)
"""
# sys/mount.h: UMOUNT_NOFOLLOW 8 (a symbolic link is an error), MS_REMOUNT 32, MS_RDONLY 1.

# umount(2), mount(2)
_MEANINGS = {
    errno.EBUSY: "it is still in use",
    errno.EINVAL: "it is not a mount point",
    errno.ENOENT: "there is no such directory",
    errno.EPERM: "root is needed",
    errno.EROFS: "the device is read-only",
}


def _in_child(verb: str, path: str, timeout_seconds: float) -> int:
    """The errno of a system call, 0 for success; MachineError where it does not come back."""
    from flashboot.machine.process import run  # subprocess is wanted by few importers of this file

    argv = [sys.executable, "-I", "-S", "-c", _CHILD, verb, path]
    try:
        return int(run(argv, timeout_seconds=timeout_seconds).stdout)
    except (CommandFailed, ValueError) as error:
        raise MachineError(
            path, f"{verb} did not come back within {timeout_seconds:g} s; it may still happen"
        ) from error


def _words(number: int) -> str:
    from flashboot.machine.reasons import reason

    return reason(OSError(number, ""), _MEANINGS)


def unmount(path: str, *, timeout_seconds: float) -> None:
    """Unmount the filesystem at `path` (umount(2), neither forced nor lazy).

    DeviceBusy names the processes that keep it; MachineError the rest, a call that hangs past the
    deadline among it.
    """
    number = _in_child("umount", path, timeout_seconds)
    if number == errno.EBUSY:
        raise DeviceBusy(path, _who(path))
    if number:
        raise MachineError(path, f"was not unmounted: {_words(number)}")


def remount_read_only(path: str, *, timeout_seconds: float) -> None:
    """Make the filesystem at `path` read-only (mount(2), MS_REMOUNT); errors as for `unmount`."""
    number = _in_child("remount", path, timeout_seconds)
    if number == errno.EBUSY:
        raise DeviceBusy(path, f"it does not become read-only; {_who(path)}")
    if number:
        raise MachineError(path, f"was not made read-only: {_words(number)}")


def sync(*, timeout_seconds: float) -> None:
    """Write back all filesystems (sync(2)); MachineError where that takes too long."""
    _in_child("sync", "/", timeout_seconds)


def _who(path: str) -> str:
    from flashboot.machine.process import who_uses

    users = who_uses(path)
    inner = [mount.target for mount in mounts() if mount.target.startswith(path.rstrip("/") + "/")]
    words = [*(f"{target} is mounted in it" for target in inner), *map(str, users)]
    return "; ".join(words) or "no process shows (a swap file, loop device or export may)"
