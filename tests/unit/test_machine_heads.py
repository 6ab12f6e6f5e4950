"""MBR and GPT: real tables read right, any bytes are a value or malformed, sector 0 is proven."""

import contextlib
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import DeviceFailed, MalformedDocument, NotVerified
from flashboot.machine.device import open_device
from flashboot.machine.heads import (
    clear_boot_sector,
    parse_gpt,
    parse_gpt_entries,
    parse_gpt_header,
    parse_mbr,
    read_head,
    write_boot_sector,
)
from tests.fakes.memory_device import Fault, MemoryDevice

DISK_GUID = "8a1b2c3d-1122-4455-8899-aabbccddeeff"
LINUX_TYPE = "0fc63daf-8483-4772-8e79-3d69d8477de4"


def gpt_head(*, count: int = 128, entry_bytes: int = 128, sector_size: int = 512) -> bytes:
    """A protective MBR, a GPT header and one entry, by hand."""
    mbr = bytearray(sector_size)
    struct.pack_into("<B3xB3xII", mbr, 446, 0, 0xEE, 1, 0xFFFFFFFF)
    mbr[510:512] = b"\x55\xaa"
    array = bytearray(count * entry_bytes)
    if len(array) >= 128:
        kind = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
        name = "wurzel ä".encode("utf-16-le")
        struct.pack_into("<16s16sQQQ72s", array, 0, kind, b"g" * 16, 64, 99, 4, name)
    header = bytearray(sector_size)
    guid = bytes.fromhex("3d2c1b8a22115544" + "8899aabbccddeeff")
    fields = (b"EFI PART", 0x10000, 92, 0, 0, 1, 127, 34, 100, guid, 2, count, entry_bytes)
    struct.pack_into("<8sIIIIQQQQ16sQIII", header, 0, *fields, zlib.crc32(array))
    struct.pack_into("<I", header, 16, zlib.crc32(header[:92]))
    return bytes(mbr + header + array)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_reads_a_gpt(sector_size: int) -> None:
    head = gpt_head(sector_size=sector_size)
    mbr = parse_mbr(head)
    assert mbr.protective
    gpt = parse_gpt(head, sector_size=sector_size)
    assert gpt.disk_guid == DISK_GUID
    assert gpt.header.alternate_sector == 127
    (entry,) = gpt.entries
    assert (entry.number, entry.first_sector, entry.last_sector) == (1, 64, 99)
    assert (entry.type_guid, entry.name, entry.attributes) == (LINUX_TYPE, "wurzel ä", 4)


def test_reads_an_mbr() -> None:
    sector = bytearray(512)
    sector[:440] = b"\xfa" * 440
    struct.pack_into("<I", sector, 440, 0xDEADBEEF)
    struct.pack_into("<B3xB3xII", sector, 462, 0x80, 0x83, 2048, 4096)
    sector[510:512] = b"\x55\xaa"
    mbr = parse_mbr(bytes(sector))
    assert mbr.boot_code == b"\xfa" * 440
    assert mbr.disk_signature == 0xDEADBEEF
    assert not mbr.protective
    (entry,) = mbr.entries
    assert (entry.index, entry.active, entry.type) == (2, True, 0x83)
    assert (entry.first_sector, entry.sector_count) == (2048, 4096)


@pytest.mark.parametrize("place", [512 + 20, 512 + 56, 512 + 80, 1024, 1024 + 128 * 128 - 1])
def test_one_wrong_byte_is_found(place: int) -> None:
    head = bytearray(gpt_head())
    head[place] ^= 1
    with pytest.raises(MalformedDocument):
        parse_gpt(bytes(head), sector_size=512)


@pytest.mark.parametrize(
    ("count", "entry_bytes", "words"),
    [
        (1025, 128, "1025 entries"),
        (0, 128, "0 entries"),
        (4, 192, "192 bytes"),
        (4, 64, "64 bytes"),
        (1024, 4096, "1 MiB"),
    ],
)
def test_caps(count: int, entry_bytes: int, words: str) -> None:
    with pytest.raises(MalformedDocument, match=words):
        parse_gpt(gpt_head(count=count, entry_bytes=entry_bytes), sector_size=512)


@given(st.binary(max_size=1024))
def test_any_bytes_are_a_head_or_malformed(data: bytes) -> None:
    for parse in (parse_mbr, parse_gpt_header):
        with pytest.raises(MalformedDocument):
            parse(data[:509])
    try:
        parse_gpt(data, sector_size=512)
        parse_mbr(data)
    except MalformedDocument:
        return


SECTORS = st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1))


@given(
    places=st.tuples(SECTORS, SECTORS, SECTORS, SECTORS, SECTORS),
    count=st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1)),
    entry_bytes=st.one_of(st.sampled_from([0, 127, 128, 256, 4096]), st.integers(0, 2**32 - 1)),
    tail=st.binary(max_size=4096),
)
def test_any_header_with_a_right_checksum_is_a_gpt_or_malformed(
    places: tuple[int, int, int, int, int], count: int, entry_bytes: int, tail: bytes
) -> None:
    own, alternate, first, last, array = places
    fields = (b"EFI PART", 0x10000, 92, 0, 0, own, alternate, first, last, b"g" * 16, array)
    header = bytearray(512)
    struct.pack_into("<8sIIIIQQQQ16sQIII", header, 0, *fields, count, entry_bytes, 0)
    struct.pack_into("<I", header, 16, zlib.crc32(header[:92]))
    head = bytes(512) + bytes(header) + tail
    with contextlib.suppress(MalformedDocument):
        parse_gpt(head, sector_size=512)
    read_head(MemoryDevice(8192, content=head))


@given(st.binary(min_size=128, max_size=128))
def test_any_entry_with_a_right_checksum_is_one_or_malformed(entry: bytes) -> None:
    head = bytearray(gpt_head())
    array = entry + bytes(head[1024 + 128 :])
    struct.pack_into("<I", head, 512 + 88, zlib.crc32(array))
    struct.pack_into("<I", head, 512 + 16, 0)
    struct.pack_into("<I", head, 512 + 16, zlib.crc32(head[512 : 512 + 92]))
    try:
        parse_gpt_entries(parse_gpt_header(bytes(head[512:1024])), array)
    except MalformedDocument:
        return


@pytest.mark.skipif(shutil.which("sgdisk") is None, reason="sgdisk is missing (package gdisk)")
def test_sgdisk_is_a_witness(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    options = f"-U {DISK_GUID} -n 1:2048:+4M -t 1:8300 -c 1:rootfs -n 15:12288:0 -t 15:ef00"
    subprocess.run(["sgdisk", *options.split(), str(path)], check=True, capture_output=True)
    with open_device(str(path), writable=True) as device:
        head = read_head(device)
        assert head.problems == ()
        assert head.mbr is not None
        assert head.mbr.protective
        assert head.primary is not None
        assert head.backup is not None
        assert head.primary.entries == head.backup.entries
        assert head.primary.disk_guid == DISK_GUID
        assert [entry.number for entry in head.primary.entries] == [1, 15]
        first = head.primary.entries[0]
        assert (first.first_sector, first.last_sector) == (2048, 2048 + 8191)
        assert (first.name, first.type_guid) == ("rootfs", LINUX_TYPE)

        old = clear_boot_sector(device)
        cleared = read_head(device)
        assert cleared.mbr is None
        assert cleared.primary == head.primary
        write_boot_sector(device, old)
        assert read_head(device) == head
    subprocess.run(["sgdisk", "--verify", str(path)], check=True, capture_output=True)


def test_a_disk_of_zeroes_has_no_head() -> None:
    head = read_head(MemoryDevice(64 * 512))
    assert (head.mbr, head.primary, head.backup) == (None, None, None)
    assert len(head.problems) == 3


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_sector_0_is_one_write_a_flush_and_a_read(sector_size: int) -> None:
    device = MemoryDevice(8 * sector_size, sector_size)
    write_boot_sector(device, b"n" * sector_size)
    size = sector_size
    assert device.log == [("write", 0, size), ("flush", 0, 0), ("read", 0, size)]
    assert clear_boot_sector(device) == b"n" * sector_size
    assert device.content == bytearray(8 * sector_size)
    with pytest.raises(ValueError, match="sector"):
        write_boot_sector(device, b"short")


@pytest.mark.parametrize("effect", ["lost", "misdirected"])
def test_a_lying_device_is_found_out(effect: str) -> None:
    fault = Fault("write", "lost" if effect == "lost" else "misdirected", shift=512)
    with pytest.raises(NotVerified):
        write_boot_sector(MemoryDevice(4096, faults=[fault]), b"n" * 512)


@pytest.mark.parametrize("verb", ["write", "flush", "read"])
def test_a_failing_device_is_said(verb: str) -> None:
    fault = Fault("write" if verb == "write" else "flush" if verb == "flush" else "read", "eio")
    with pytest.raises(DeviceFailed):
        write_boot_sector(MemoryDevice(4096, faults=[fault]), b"n" * 512)
