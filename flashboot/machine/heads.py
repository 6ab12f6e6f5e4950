"""The head of a disk: what its first sectors say, and the one place that writes sector 0.

Reading is pure functions from bytes to frozen values; bytes come from disks and are believed in
nothing: whatever they are, the answer is a value or MalformedDocument.
Writing follows the steps of flashboot.image's write protocol; nothing else in the house writes
sector 0 of a root device.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from flashboot.errors import MalformedDocument, NotVerified
from flashboot.machine.buffers import AlignedBuffer
from flashboot.machine.device import Device
from flashboot.units import round_up

MBR_BYTES: Final = 512
BOOT_CODE_BYTES: Final = 440
PROTECTIVE_TYPE: Final = 0xEE
IDENTITY_BYTES: Final = 64 * 1024  # MBR, GPT header and its array, with sectors of 4096 too

# UEFI 2.10, 5.3.2: a header has at least 92 bytes, an entry 128 times a power of two. Real disks
# have 128 entries of 128 bytes; the caps keep a lying header from making us read a whole disk.
_GPT_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_SIGNATURE: Final = b"EFI PART"
_MAX_ENTRIES: Final = 1024
_MAX_ENTRY_BYTES: Final = 4096
_MAX_ARRAY_BYTES: Final = 1024 * 1024
_GPT_ENTRY: Final = struct.Struct("<16s16sQQQ72s")


@dataclass(frozen=True, slots=True)
class MbrEntry:
    """One of the four primary entries; start and length in sectors."""

    index: int
    active: bool
    type: int
    first_sector: int
    sector_count: int


@dataclass(frozen=True, slots=True)
class Mbr:
    """A master boot record."""

    boot_code: bytes
    disk_signature: int
    # The entries that are used.
    entries: tuple[MbrEntry, ...]

    @property
    def protective(self) -> bool:
        """True where it only guards a GPT."""
        return any(entry.type == PROTECTIVE_TYPE for entry in self.entries)


@dataclass(frozen=True, slots=True)
class GptEntry:
    """A partition; first and last in sectors, both inclusive. Numbers count from 1."""

    number: int
    type_guid: str
    guid: str
    first_sector: int
    last_sector: int
    attributes: int
    name: str


@dataclass(frozen=True, slots=True)
class GptHeader:
    """A GPT header whose own checksum holds; places in sectors."""

    disk_guid: str
    sector: int
    alternate_sector: int
    first_usable: int
    last_usable: int
    entries_sector: int
    entry_count: int
    entry_bytes: int
    entries_crc32: int

    @property
    def array_bytes(self) -> int:
        """Length of the array of entries."""
        return self.entry_count * self.entry_bytes


@dataclass(frozen=True, slots=True)
class Gpt:
    """A header and the used entries of its array."""

    header: GptHeader
    entries: tuple[GptEntry, ...]

    @property
    def disk_guid(self) -> str:
        """The disk's GUID in lower case."""
        return self.header.disk_guid


@dataclass(frozen=True, slots=True)
class Head:
    """All that decides what a disk boots, and what was wrong with the rest."""

    sector: bytes
    mbr: Mbr | None
    primary: Gpt | None
    # The copy at the disk's end; EDK2 restores the primary from it (PartitionDxe/Gpt.c).
    backup: Gpt | None
    problems: tuple[str, ...]


def parse_mbr(sector: bytes) -> Mbr:
    """The master boot record in the first 512 bytes; MalformedDocument without its signature."""
    if len(sector) < MBR_BYTES:
        raise MalformedDocument("MBR", f"{len(sector)} bytes are no sector")
    if sector[510:512] != b"\x55\xaa":
        raise MalformedDocument("MBR", "the boot signature 55 aa is missing")
    entries: list[MbrEntry] = []
    for index in range(4):
        start = 446 + 16 * index
        status, kind, first, count = struct.unpack_from("<B3xB3xII", sector, start)
        if kind != 0 and count != 0:
            entries.append(MbrEntry(index + 1, status == 0x80, kind, first, count))
    (signature,) = struct.unpack_from("<I", sector, BOOT_CODE_BYTES)
    return Mbr(bytes(sector[:BOOT_CODE_BYTES]), signature, tuple(entries))


def parse_gpt_header(sector: bytes) -> GptHeader:
    """The GPT header in one sector; MalformedDocument where checksum or caps do not hold."""
    if len(sector) < _GPT_HEADER.size:
        raise MalformedDocument("GPT header", f"{len(sector)} bytes are no sector")
    (
        signature,
        _revision,
        header_bytes,
        crc32,
        _reserved,
        own,
        alternate,
        first_usable,
        last_usable,
        disk_guid,
        entries_sector,
        entry_count,
        entry_bytes,
        entries_crc32,
    ) = _GPT_HEADER.unpack_from(sector)
    if signature != _GPT_SIGNATURE:
        raise MalformedDocument("GPT header", "the signature EFI PART is missing")
    if not _GPT_HEADER.size <= header_bytes <= len(sector):
        raise MalformedDocument("GPT header", f"it says that it has {header_bytes} bytes")
    # The checksum is taken with its own field zeroed.
    covered = bytes(sector[:16]) + bytes(4) + bytes(sector[20:header_bytes])
    if zlib.crc32(covered) != crc32:
        raise MalformedDocument("GPT header", "its checksum does not hold")
    if not 0 < entry_count <= _MAX_ENTRIES:
        raise MalformedDocument("GPT header", f"it says that it has {entry_count} entries")
    if not 128 <= entry_bytes <= _MAX_ENTRY_BYTES or entry_bytes & (entry_bytes - 1):
        raise MalformedDocument("GPT header", f"it says that an entry has {entry_bytes} bytes")
    if entry_count * entry_bytes > _MAX_ARRAY_BYTES:
        raise MalformedDocument("GPT header", "its entries take more than 1 MiB")
    if first_usable > last_usable:
        raise MalformedDocument("GPT header", "its usable sectors end before they begin")
    return GptHeader(
        disk_guid=_guid(disk_guid),
        sector=own,
        alternate_sector=alternate,
        first_usable=first_usable,
        last_usable=last_usable,
        entries_sector=entries_sector,
        entry_count=entry_count,
        entry_bytes=entry_bytes,
        entries_crc32=entries_crc32,
    )


def parse_gpt_entries(header: GptHeader, array: bytes) -> tuple[GptEntry, ...]:
    """The used entries of `header`'s array; MalformedDocument where the checksum does not hold."""
    if len(array) < header.array_bytes:
        raise MalformedDocument("GPT", f"{len(array)} bytes of {header.array_bytes} of entries")
    if zlib.crc32(array[: header.array_bytes]) != header.entries_crc32:
        raise MalformedDocument("GPT", "the checksum of its entries does not hold")
    entries: list[GptEntry] = []
    for index in range(header.entry_count):
        kind, guid, first, last, attributes, name = _GPT_ENTRY.unpack_from(
            array, index * header.entry_bytes
        )
        if kind == bytes(16):
            continue
        if not header.first_usable <= first <= last <= header.last_usable:
            raise MalformedDocument(
                "GPT", f"partition {index + 1} has the sectors {first} to {last}"
            )
        entries.append(
            GptEntry(
                number=index + 1,
                type_guid=_guid(kind),
                guid=_guid(guid),
                first_sector=first,
                last_sector=last,
                attributes=attributes,
                name=name.decode("utf-16-le", "replace").partition("\0")[0],
            )
        )
    return tuple(entries)


def parse_gpt(head: bytes, *, sector_size: int) -> Gpt:
    """The primary GPT in a disk's first bytes (all of its array must be among them)."""
    header = parse_gpt_header(head[sector_size : 2 * sector_size])
    if header.sector != 1:
        raise MalformedDocument("GPT", f"the primary header says that it is sector {header.sector}")
    start = header.entries_sector * sector_size
    return Gpt(header, parse_gpt_entries(header, head[start : start + header.array_bytes]))


def read_gpt(device: Device, *, sector: int) -> Gpt:
    """The GPT whose header is in `sector`: 1, or the device's last for the backup."""
    size = device.sector_size
    header = parse_gpt_header(_read(device, sector, size))
    if header.sector != sector:
        raise MalformedDocument("GPT", f"the header in {sector} says that it is {header.sector}")
    length = round_up(header.array_bytes, size)
    if header.entries_sector * size + length > device.size:
        raise MalformedDocument("GPT", "its entries lie beyond the disk's end")
    return Gpt(header, parse_gpt_entries(header, _read(device, header.entries_sector, length)))


def read_head(device: Device) -> Head:
    """What the disk's first and last sectors say. DeviceFailed where they cannot be read."""
    sector = read_boot_sector(device)
    mbr, primary, backup = None, None, None
    problems: list[str] = []
    try:
        mbr = parse_mbr(sector)
    except MalformedDocument as error:
        problems.append(str(error))
    try:
        primary = read_gpt(device, sector=1)
    except MalformedDocument as error:
        problems.append(f"primary: {error}")
    last = device.size // device.sector_size - 1
    for place in dict.fromkeys(
        (last if primary is None else primary.header.alternate_sector, last)
    ):
        if backup is None and 1 < place <= last:
            try:
                backup = read_gpt(device, sector=place)
            except MalformedDocument as error:
                problems.append(f"backup in sector {place}: {error}")
    return Head(sector, mbr, primary, backup, tuple(problems))


def disk_identity(first_bytes: bytes, *, sector_size: int) -> str:
    """What tells this disk's layout from others: its GPT's GUID, else its MBR's signature in hex.

    `first_bytes` are the disk's first 64 KiB or more. '' where neither can be read.
    """
    try:
        return parse_gpt(first_bytes, sector_size=sector_size).disk_guid
    except MalformedDocument:
        pass
    try:
        return f"{parse_mbr(first_bytes[:MBR_BYTES]).disk_signature:08x}"
    except MalformedDocument:
        return ""


def read_disk_identity(device: Device) -> str:
    """`disk_identity` of a device."""
    first_bytes = _read(device, 0, IDENTITY_BYTES)
    return disk_identity(first_bytes, sector_size=device.sector_size)


def read_boot_sector(device: Device) -> bytes:
    """Sector 0, as many bytes as the device's sector has."""
    return _read(device, 0, device.sector_size)


def clear_boot_sector(device: Device) -> bytes:
    """Zero sector 0 so that nothing boots from the disk, and return what stood there.

    DeviceFailed where the device fails, NotVerified where it does not hold what was written.
    """
    old = read_boot_sector(device)
    write_boot_sector(device, bytes(device.sector_size))
    return old


def write_boot_sector(device: Device, sector: bytes) -> None:
    """Write sector 0 in one write, flush, and compare it with what the device gives back.

    `sector` is exactly one sector of the device: a device writes a sector wholly or not at all,
    which is what makes a commit one act (NVMe 1.4, AWUPF; "EBS torn write prevention").
    """
    if len(sector) != device.sector_size:
        raise ValueError(f"{len(sector)} bytes for a sector of {device.sector_size}")
    buffer = AlignedBuffer(device.sector_size)
    buffer.view[:] = sector
    device.write(0, buffer.view)
    device.flush()
    if read_boot_sector(device) != sector:
        raise NotVerified(device.path, "sector 0 reads back otherwise than it was written")


def _read(device: Device, sector: int, length: int) -> bytes:
    start = sector * device.sector_size
    if start + length > device.size:
        raise MalformedDocument("head", f"sector {sector} lies beyond the disk's end")
    buffer = AlignedBuffer(length)
    device.read_into(start, buffer.view)
    return bytes(buffer.view)


def _guid(raw: bytes) -> str:
    # The first three fields are little-endian (UEFI 2.10, appendix A). Not the uuid module: its
    # import costs the RAM OS milliseconds.
    first, second, third = struct.unpack_from("<IHH", raw)
    return f"{first:08x}-{second:04x}-{third:04x}-{raw[8:10].hex()}-{raw[10:16].hex()}"
