"""What an image's own head says: which firmware boots it, and for which sectors it is laid out."""

from dataclasses import dataclass

from flashboot.errors import MalformedDocument
from flashboot.machine import heads
from flashboot.machine.buffers import AlignedBuffer
from flashboot.machine.device import Device
from flashboot.units import MIB

HEAD_BYTES = 1 * MIB  # a GPT's array of 1024 entries fits
_ESP_GUID = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"  # UEFI 2.10, 5.3.3
_ESP_TYPE = 0xEF  # the same in an MBR, UEFI 2.10, 5.2.2


@dataclass(frozen=True, slots=True)
class Layout:
    """`boot_modes` sorted, `sector_size` in bytes."""

    boot_modes: tuple[str, ...]
    sector_size: int


def read_layout(device: Device) -> Layout:
    """The layout of the image that `device` holds. Raises DeviceFailed."""
    buffer = AlignedBuffer(min(HEAD_BYTES, device.size))
    try:
        device.read_into(0, buffer.view)
        return layout_of(bytes(buffer.view), sector_size=device.sector_size)
    finally:
        buffer.close()


def layout_of(head: bytes, *, sector_size: int) -> Layout:
    """The layout in an image's first bytes; `sector_size` is taken where no GPT says its own."""
    modes = set()
    try:
        mbr = heads.parse_mbr(head)
    except MalformedDocument:
        return Layout((), sector_size)  # neither firmware starts a disk without 55 aa
    if any(mbr.boot_code):
        modes.add("bios")
    if any(entry.type == _ESP_TYPE for entry in mbr.entries):
        modes.add("uefi")
    for candidate in (512, 4096):
        try:
            gpt = heads.parse_gpt(head, sector_size=candidate)
        except MalformedDocument:
            continue
        sector_size = candidate
        if any(entry.type_guid == _ESP_GUID for entry in gpt.entries):
            modes.add("uefi")
    return Layout(tuple(sorted(modes)), sector_size)
