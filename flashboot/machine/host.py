"""What computer and kernel this is."""

import os
from dataclasses import dataclass

from flashboot.errors import MachineError
from flashboot.machine.kernelfs import LIVE, Tree, attribute, read_text

# The variable of UEFI 2.10, section 3.3, under EFI_GLOBAL_VARIABLE.
_SECURE_BOOT = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@dataclass(frozen=True, slots=True)
class Host:
    """Facts that last until the next boot, but for the uptime."""

    # As uname(2) says it: 'x86_64', 'aarch64'.
    architecture: str
    # 'uefi' or 'bios'
    boot_mode: str
    kernel_release: str
    # Random at each boot: the proof that a reboot happened (random(4)).
    boot_id: str
    uptime_seconds: float
    # None where the firmware has no such variable, or it cannot be read.
    secure_boot: bool | None
    # 'xen' and the like from /sys/hypervisor, else the DMI vendor ('Amazon EC2', 'QEMU'), else None
    hypervisor: str | None


def host(*, tree: Tree = LIVE) -> Host:
    """The facts of this machine; MachineError where the kernel does not tell the boot id."""
    names = os.uname()
    boot_id = attribute(f"{tree.proc}/sys/kernel/random/boot_id")
    if not boot_id:
        raise MachineError(f"{tree.proc}/sys/kernel/random/boot_id", "cannot be read")
    return Host(
        architecture=names.machine,
        boot_mode="uefi" if os.path.isdir(f"{tree.sys}/firmware/efi") else "bios",
        kernel_release=names.release,
        boot_id=boot_id,
        uptime_seconds=float(read_text(f"{tree.proc}/uptime").split()[0]),
        secure_boot=_secure_boot(tree),
        hypervisor=attribute(f"{tree.sys}/hypervisor/type")
        or attribute(f"{tree.sys}/class/dmi/id/sys_vendor"),
    )


def _secure_boot(tree: Tree) -> bool | None:
    # efivarfs puts four bytes of attributes before the value
    # (Documentation/filesystems/efivarfs.rst).
    try:
        with open(f"{tree.sys}/{_SECURE_BOOT}", "rb") as file:
            value = file.read()
    except OSError:
        return None
    return value[4] == 1 if len(value) == 5 else None
