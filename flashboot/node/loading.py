"""What kexec loads, and once more with the mark that `flash` has left: the RAM OS wants to see it.

`stage` loads a kernel days before a flash, and some systems start a loaded kernel at any reboot:
systemctl(1) of newer systemd says so of `reboot`, and Debian's kexec-tools do it with LOAD_KEXEC.
Such a restart must not become a flash. So what `stage` loads is not armed, and `flash` loads it
again, armed, when all else is done.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flashboot import cpio, handoff
from flashboot.errors import NotStaged
from flashboot.node import files
from flashboot.node.system import Node
from flashboot.units import MIB

_KERNEL, _INITRAMFS, _COMMAND_LINE = "kernel", "initramfs", "command-line"
_MAX_BYTES = 512 * MIB


@dataclass(frozen=True, slots=True)
class Loadable:
    """A kernel, an initramfs with the handoff behind it, and the kernel's command line."""

    kernel: bytes = field(repr=False)
    initramfs: bytes = field(repr=False)
    command_line: str


def load(node: Node, loadable: Loadable, *, armed: str = "") -> None:
    """Load it, `armed` for that run or for none. Raises KexecRefused and MachineError."""
    mark = archive(handoff.arming(armed)) if armed else b""
    padding = bytes(-len(loadable.initramfs) % 4)  # where the kernel looks for the next archive
    parts = (loadable.initramfs, padding, mark) if armed else (loadable.initramfs,)
    node.system.load_kexec(loadable.kernel, parts, command_line=loadable.command_line)


def keep(node: Node, loadable: Loadable) -> None:
    """Keep it in memory until `flash`, for root's eyes. Raises MachineError."""
    for name, data in (
        (_KERNEL, loadable.kernel),
        (_INITRAMFS, loadable.initramfs),
        (_COMMAND_LINE, loadable.command_line.encode()),
    ):
        files.write(node.places.staged / name, data)


def kept(node: Node) -> Loadable:
    """What `keep` has kept. Raises NotStaged and MachineError."""
    found = [
        files.read(node.places.staged / name, cap=_MAX_BYTES)
        for name in (_KERNEL, _INITRAMFS, _COMMAND_LINE)
    ]
    kernel, initramfs, command_line = found
    if kernel is None or initramfs is None or command_line is None:
        raise NotStaged(
            hint=f"what was staged is gone from {node.places.staged}; run `flashboot stage` again"
        )
    return Loadable(kernel, initramfs, command_line.decode())


def forget(node: Node) -> None:
    """Drop what is kept. Raises MachineError."""
    for name in (_KERNEL, _INITRAMFS, _COMMAND_LINE):
        files.remove(node.places.staged / name)


def archive(members: Mapping[str, bytes]) -> bytes:
    """A cpio archive of these files, readable by root only."""
    entries = [cpio.file(name, data, 0o600) for name, data in members.items()]
    return cpio.pack(cpio.with_parents(entries, 0o700))
