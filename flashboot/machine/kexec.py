"""kexec: loading a kernel from memory, and leaving by way of systemd.

Loading changes nothing and `unload` takes it back. There is no door to `kexec -e` here, which "will
not unmount" anything (kexec(8)): `leave` lets systemd stop the services and unmount first.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterable
from typing import Final

from flashboot.errors import CommandFailed, KexecRefused, MachineError
from flashboot.machine.kernelfs import LIVE, Tree, attribute, number
from flashboot.machine.reasons import reason

# asm/unistd_64.h and asm-generic/unistd.h
_SYSCALL_NUMBERS: Final = {"x86_64": 320, "aarch64": 294}
# linux/kexec.h
_KEXEC_FILE_UNLOAD: Final = 1
# COMMAND_LINE_SIZE in asm/setup.h of x86 and arm64, the closing NUL included.
COMMAND_LINE_BYTES: Final = 2048
# linux/capability.h
_CAP_SYS_BOOT: Final = 22

_TOOL_SECONDS: Final = 60.0
_LEAVE_SECONDS: Final = 60.0

# kexec_file_load(2), and kernel/kexec_file.c for what the page leaves out.
_MEANINGS = {
    errno.EADDRNOTAVAIL: "no room in memory for the segments",
    errno.EBADF: "kernel or initramfs cannot be read",
    errno.EBADMSG: "the kernel's signature is malformed",
    errno.EBUSY: "another kexec call is under way",
    errno.EINVAL: "kernel, initramfs or command line are not accepted",
    errno.EKEYREJECTED: "the kernel's signature does not hold",
    errno.ENODATA: "the kernel has no signature, and this system demands one",
    errno.ENOEXEC: "the kernel's format is unknown to the running one",
    errno.ENOKEY: "no key for the kernel's signature",
    errno.ENOMEM: "not enough memory",
    errno.ENOPKG: "the kernel's signature is of an unknown kind",
    errno.ENOSYS: "the running kernel has no kexec_file_load",
    errno.EOPNOTSUPP: "the running kernel cannot load this kind of kernel",
    errno.EPERM: "not permitted (root, lockdown, kexec_load_disabled)",
    errno.ETXTBSY: "kernel or initramfs are still open for writing",
}

# Where the older kexec_load(2) may do better, as in kexec-tools' own --kexec-syscall-auto; never
# where a signature was refused.
_TRY_THE_TOOL = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOEXEC})

_libc = ctypes.CDLL(None, use_errno=True)


def memory_file(name: str, parts: Iterable[bytes | memoryview]) -> int:
    """A sealed file in memory holding `parts` one after another; the descriptor is the caller's.

    Sealed, so that what was checked is what is loaded (memfd_create(2)). The descriptor given back
    is opened anew for reading: the kernel refuses to load a file that is open for writing
    (ETXTBSY, kernel_read_file in fs/kernel_read_file.c).
    """
    try:
        writer = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise MachineError(name, f"no file in memory: {reason(error)}") from error
    try:
        for part in parts:
            rest = memoryview(part).cast("B")
            while rest:
                rest = rest[os.write(writer, rest) :]
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(writer, fcntl.F_ADD_SEALS, seals)
        return os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(name, f"no file in memory: {reason(error)}") from error
    finally:
        os.close(writer)


def load(kernel: int, initrd: int, *, command_line: str, tree: Tree = LIVE) -> str:
    """Load a kernel and its initramfs, both open for reading; 'kexec_file_load' or 'kexec_load'.

    The name given back tells which system call did it. Secrets do not belong on the command line:
    every process of the next system reads it. Raises KexecRefused.
    """
    line = command_line.encode()
    if len(line) + 1 > COMMAND_LINE_BYTES or b"\0" in line:
        raise KexecRefused(
            f"the command line has {len(line)} bytes, {COMMAND_LINE_BYTES - 1} fit without NUL"
        )
    refused = _file_load(kernel, initrd, line)
    method = "kexec_file_load"
    if refused in _TRY_THE_TOOL:
        _load_by_tool(kernel, initrd, command_line, why=_words(refused))
        method = "kexec_load"
    elif refused:
        raise KexecRefused(_words(refused))
    if not loaded(tree=tree):
        raise KexecRefused(f"{method} reported success and nothing is loaded")
    return method


def unload() -> None:
    """Forget a loaded kernel; nothing happens where none is. Raises KexecRefused."""
    refused = _file_load(-1, -1, b"", _KEXEC_FILE_UNLOAD)
    if refused in _TRY_THE_TOOL and loaded():
        from flashboot.machine.process import run

        run(["kexec", "-c", "-u"], timeout_seconds=_TOOL_SECONDS)
    elif refused not in (0, errno.ENOSYS):
        raise KexecRefused(_words(refused))


def loaded(*, tree: Tree = LIVE) -> bool:
    """True where a kernel is loaded and waits."""
    return attribute(f"{tree.sys}/kernel/kexec_loaded") == "1"


def refusals(*, tree: Tree = LIVE) -> tuple[str, ...]:
    """Every reason why kexec is barred here, in words; none where it may be tried.

    What cannot be read counts as a reason.
    """
    return tuple(
        words
        for check in (_kernel, _sysctl, _lockdown, _xen, _privilege, _container)
        if (words := check(tree)) is not None
    )


def leave() -> None:
    """Start the orderly way into the loaded kernel (systemctl(1), kexec) and return.

    systemd stops the units and unmounts, which goes on after this returns. Raises KexecRefused.
    """
    if not loaded():
        # systemctl would go and load some kernel of its own choice.
        raise KexecRefused("nothing is loaded")
    from flashboot.machine.process import run

    try:
        run(["systemctl", "kexec"], timeout_seconds=_LEAVE_SECONDS)
    except CommandFailed as error:
        raise KexecRefused("systemd did not begin to leave") from error


def _file_load(kernel: int, initrd: int, line: bytes, flags: int = 0) -> int:
    """kexec_file_load(2); 0 or the errno."""
    call = _SYSCALL_NUMBERS.get(os.uname().machine)
    if call is None:
        return errno.ENOSYS
    # long syscall(long number, int, int, unsigned long, const char *, unsigned long)
    result = _libc.syscall(
        ctypes.c_long(call),
        ctypes.c_int(kernel),
        ctypes.c_int(initrd),
        ctypes.c_ulong(len(line) + 1 if line else 0),
        ctypes.c_char_p(line) if line else None,
        ctypes.c_ulong(flags),
    )
    return ctypes.get_errno() if result != 0 else 0


def _load_by_tool(kernel: int, initrd: int, command_line: str, *, why: str) -> None:
    from flashboot.machine.process import run

    # kexec(8): -c is kexec_load(2), -l loads. The files have no names, so their descriptors pass.
    argv = [
        "kexec",
        "-c",
        "-l",
        f"/proc/self/fd/{kernel}",
        f"--initrd=/proc/self/fd/{initrd}",
        f"--command-line={command_line}",
    ]
    try:
        run(argv, timeout_seconds=_TOOL_SECONDS, pass_fds=(kernel, initrd))
    except CommandFailed as error:
        raise KexecRefused(f"{why}, and the older kexec_load failed too") from error


def _words(number: int) -> str:
    return reason(OSError(number, ""), _MEANINGS)


def _kernel(tree: Tree) -> str | None:
    # kernel/ksysfs.c makes the file only with CONFIG_KEXEC_CORE.
    if attribute(f"{tree.sys}/kernel/kexec_loaded") is None:
        return "the running kernel was built without kexec"
    return None


def _sysctl(tree: Tree) -> str | None:
    # Documentation/admin-guide/sysctl/kernel.rst
    disabled = attribute(f"{tree.proc}/sys/kernel/kexec_load_disabled")
    if disabled is None and _kernel(tree):
        return None  # said already
    if disabled != "0":
        return f"the sysctl kernel.kexec_load_disabled is {disabled or 'not readable'}"
    if number(f"{tree.proc}/sys/kernel/kexec_load_limit_reboot") == 0:
        return "the sysctl kernel.kexec_load_limit_reboot is used up"
    return None


def _lockdown(tree: Tree) -> str | None:
    # kernel_lockdown(7): 'none [integrity] confidentiality'; no file without the module.
    state = attribute(f"{tree.sys}/kernel/security/lockdown")
    if state is None or "[none]" in state:
        return None
    return f"the kernel is locked down ({state})"


def _xen(tree: Tree) -> str | None:
    # Linux 0b34a166: kexec of a Xen guest asks for a soft reset, and hypervisors that lack it
    # destroy the domain, its instance-store data with it. KVM (Nitro) and metal have no such file.
    path = f"{tree.sys}/hypervisor/type"
    kind = attribute(path)
    if kind == "xen" or attribute(f"{tree.sys}/class/dmi/id/sys_vendor") == "Xen":
        return "this is a Xen guest, where kexec may destroy the instance"
    if os.path.exists(path):
        return f"this hypervisor ({kind or 'not readable'}) is not known to survive kexec"
    return None


def _privilege(tree: Tree) -> str | None:
    status = attribute(f"{tree.proc}/self/status") or ""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            if int(line.split()[1], 16) >> _CAP_SYS_BOOT & 1:
                return None
            return "CAP_SYS_BOOT is missing; run as root on the host"
    return "the privileges of this process are not readable"


def _container(tree: Tree) -> str | None:
    # systemd's container interface; podman's and docker's marks.
    for mark in (f"{tree.run}/systemd/container", f"{tree.run}/.containerenv"):
        if os.path.exists(mark):
            return "this is a container, not a machine"
    return None
