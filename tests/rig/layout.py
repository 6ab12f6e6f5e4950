"""Where things lie on a rig image: partitions, GRUB's sectors, identities. Pure values only."""

import struct
import uuid
from dataclasses import dataclass

SECTOR = 512
MIB = 1024 * 1024
# GPT at the end: 32 sectors of entries and a header.
_BACKUP_SECTORS = 33
_ALIGNMENT = MIB // SECTOR
_IDENTITIES = uuid.UUID("5f1a5b00-7000-4000-8000-72696720696d")


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry of the table; start and length in sectors of 512 bytes."""

    number: int
    start: int
    sectors: int
    type_code: str
    """As sgdisk writes it: ef02 BIOS boot, ef00 ESP, 8304 Linux root."""
    guid: uuid.UUID

    @property
    def offset(self) -> int:
        """Where it begins, in bytes."""
        return self.start * SECTOR

    @property
    def size(self) -> int:
        """How long it is, in bytes."""
        return self.sectors * SECTOR


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole image: the numbers of Debian's cloud images, so that root is partition 1."""

    name: str
    size: int
    disk_guid: uuid.UUID
    filesystem: uuid.UUID
    bios: Partition
    esp: Partition
    root: Partition


def identity(name: str, what: str) -> uuid.UUID:
    """The UUID of a thing in image `name`: always the same, different for every image."""
    return uuid.uuid5(_IDENTITIES, f"{name}/{what}")


def layout(name: str, *, size: int) -> Layout:
    """The layout of an image of `size` bytes. ValueError unless that is whole MiB, 64 at least."""
    if size % MIB or size < 64 * MIB:
        raise ValueError(f"an image has whole MiB and at least 64 of them, not {size} bytes")
    bios = Partition(14, _ALIGNMENT, 1 * _ALIGNMENT, "ef02", identity(name, "bios"))
    esp = Partition(15, bios.start + bios.sectors, 16 * _ALIGNMENT, "ef00", identity(name, "esp"))
    start = esp.start + esp.sectors
    end = (size // SECTOR - _BACKUP_SECTORS) // _ALIGNMENT * _ALIGNMENT
    root = Partition(1, start, end - start, "8304", identity(name, "root"))
    return Layout(name, size, identity(name, "disk"), identity(name, "filesystem"), bios, esp, root)


def sgdisk_arguments(plan: Layout) -> list[str]:
    """What makes sgdisk write the table (primary, backup, protective MBR) on an empty disk."""
    argv = ["--clear", f"--disk-guid={plan.disk_guid}", "--set-alignment=1"]
    for part in (plan.bios, plan.esp, plan.root):
        argv.append(f"--new={part.number}:{part.start}:{part.start + part.sectors - 1}")
        argv.append(f"--typecode={part.number}:{part.type_code}")
        argv.append(f"--partition-guid={part.number}:{part.guid}")
    return argv


def boot_sector(sector: bytes, boot_img: bytes, *, core_start: int) -> bytes:
    """Sector 0 with GRUB's boot.img in bytes 0 to 439; the partition entries stay.

    Offsets as in GRUB's include/grub/i386/pc/boot.h: kernel sector 0x5c, boot drive 0x64 (0xff:
    the one the BIOS booted from), drive check 0x66 (two nops: none).
    """
    if len(sector) != SECTOR or len(boot_img) != SECTOR:
        raise ValueError("sector 0 and boot.img have 512 bytes each")
    code = bytearray(boot_img[:440])
    struct.pack_into("<Q", code, 0x5C, core_start)
    code[0x64] = 0xFF
    code[0x66:0x68] = b"\x90\x90"
    return bytes(code) + sector[440:]


def core_image(core: bytes, *, core_start: int) -> bytes:
    """GRUB's core.img, padded to sectors, made to load its rest from the place it will lie at.

    The first sector ends with the block lists: at 0x1f4 start (u64), count (u16), segment (u16).
    """
    padded = bytearray(core + bytes(-len(core) % SECTOR))
    struct.pack_into("<QHH", padded, 0x1F4, core_start + 1, len(padded) // SECTOR - 1, 0x0820)
    return bytes(padded)


def grub_config(plan: Layout, *, kernel: str) -> str:
    """/boot/grub/grub.cfg: no delay; the serial console comes last so that it is /dev/console."""
    return (
        "serial --unit=0 --speed=115200\n"
        "terminal_output serial console\n"
        "set timeout=0\n"
        f'menuentry "{plan.name}" {{\n'
        f"  linux {kernel} root=PARTUUID={plan.root.guid} rw console=tty0 console=ttyS0,115200\n"
        "}\n"
    )


def core_config(plan: Layout) -> str:
    """What the core image runs first: find the root filesystem, as Debian's grub-install has it."""
    return f"search.fs_uuid {plan.filesystem} root\nset prefix=($root)/boot/grub\n"


def fstab(plan: Layout) -> str:
    """The root by UUID; the data by label, and boots without it."""
    return (
        f"UUID={plan.filesystem} / ext4 errors=remount-ro 0 0\n"
        "LABEL=data /data ext4 nofail,x-systemd.device-timeout=30s 0 2\n"
    )
