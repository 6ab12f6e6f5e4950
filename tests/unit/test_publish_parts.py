"""The parts of publishing: boot modes, the RAM OS, verification of what a store holds."""

import hashlib
import json
import struct
import zlib
from pathlib import Path

import pytest

from flashboot.errors import DigestMismatch, MalformedDocument, PublishFailed
from flashboot.image.table import CHUNK_SIZE
from flashboot.publish import ramos
from flashboot.publish.boot import Layout, layout_of
from flashboot.publish.publish import PublishOptions, publish
from flashboot.publish.sender import Sender
from flashboot.publish.source import Source
from flashboot.publish.verify import verify_stored
from flashboot.store import catalog
from flashboot.store.catalog import Published
from flashboot.units import KIB
from tests.fakes.images import random_image
from tests.fakes.memory_device import MemoryDevice
from tests.fakes.memory_store import MemoryStore

ESP = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")
LINUX = bytes.fromhex("af3dc60f838472478e793d69d8477de4")


def mbr(*, code: bytes = b"", kind: int = 0) -> bytes:
    sector = bytearray(512)
    sector[: len(code)] = code
    if kind:
        struct.pack_into("<B3xB3xII", sector, 446, 0, kind, 1, 2048)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def gpt(*, sector_size: int, types: tuple[bytes, ...]) -> bytes:
    """A protective MBR with its GPT; its array begins in sector 2."""
    array = bytearray(128 * 128)
    for index, kind in enumerate(types):
        first = 2048 + index * 100
        struct.pack_into("<16s16sQQQ72s", array, index * 128, kind, bytes(16), first, first, 0, b"")
    header = bytearray(92)
    struct.pack_into(
        "<8sIIIIQQQQ16sQIII", header, 0, b"EFI PART", 0x10000, 92, 0, 0, 1, 9999, 34, 9000,
        bytes(range(16)), 2, 128, 128, zlib.crc32(array),
    )  # fmt: skip
    struct.pack_into("<I", header, 16, zlib.crc32(header))
    return (
        mbr(kind=0xEE).ljust(sector_size, b"\0") + header.ljust(sector_size, b"\0") + bytes(array)
    )


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        (bytes(4096), Layout((), 512)),
        (mbr(), Layout((), 512)),
        (mbr(code=b"\xeb\x63"), Layout(("bios",), 512)),
        (mbr(code=b"\xeb\x63", kind=0xEF), Layout(("bios", "uefi"), 512)),
        (gpt(sector_size=512, types=(LINUX, ESP)), Layout(("uefi",), 512)),
        (gpt(sector_size=512, types=(LINUX,)), Layout((), 512)),
        (gpt(sector_size=4096, types=(ESP,)), Layout(("uefi",), 4096)),
        (b"\xeb\x63" + gpt(sector_size=512, types=(ESP,))[2:], Layout(("bios", "uefi"), 512)),
    ],
)
def test_the_head_says_what_boots_it(head: bytes, wanted: Layout) -> None:
    assert layout_of(head, sector_size=512) == wanted


def built(directory: Path, *, kernel: bytes = b"kernel", initramfs: bytes = b"files") -> Path:
    (directory / "vmlinuz").write_bytes(kernel)
    (directory / "initramfs").write_bytes(initramfs)
    about = {
        part: {"sha256": hashlib.sha256(data).hexdigest(), "length": len(data)}
        for part, data in (("kernel", b"kernel"), ("initramfs", b"files"))
    }
    (directory / "ramos.json").write_text(json.dumps(about | {"kernel_release": "6.1"}))
    return directory


def test_the_ram_os_is_stored_and_pinned(tmp_path: Path) -> None:
    store = MemoryStore()
    data = random_image(2, seed=1)
    wish = PublishOptions(level=1, ramos=built(tmp_path), architecture="x86_64")
    result = publish(Source(MemoryDevice(len(data), content=data)), store, name="a", options=wish)
    pinned = result.statement.ramos
    assert pinned is not None
    assert store.objects[f"{pinned.prefix}/kernel"] == b"kernel"
    assert store.objects[f"{pinned.prefix}/initramfs"] == b"files"
    assert catalog.fetch_statement(store, "a")[0].ramos == pinned
    again = publish(Source(MemoryDevice(len(data), content=data)), store, name="a", options=wish)
    assert again.already_published


def test_a_ram_os_of_two_builds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch, match="kernel"):
        ramos.read(built(tmp_path, kernel=b"other!"))


def test_a_ram_os_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PublishFailed, match=r"ramos\.json cannot be read"):
        ramos.read(tmp_path)
    built(tmp_path)
    (tmp_path / "ramos.json").write_text('{"kernel": 1}')
    with pytest.raises(MalformedDocument):
        ramos.read(tmp_path)


def test_a_sender_asks_before_it_sends() -> None:
    store = MemoryStore()
    sender = Sender(store)
    sender.send("packs/a", b"abc")
    sender.send("packs/a", b"abc")
    assert (sender.sent, sender.bytes_sent, sender.objects_found) == (["packs/a"], 3, 1)
    assert store.puts["packs/a"] == 1


def published(store: MemoryStore, tmp_path: Path | None = None) -> Published:
    data = random_image(20, seed=4, zero_share=0.3, tail=512)
    wish = PublishOptions(
        level=1,
        pack_target=16 * KIB,
        architecture="x86_64",
        ramos=built(tmp_path) if tmp_path else None,
    )
    publish(Source(MemoryDevice(len(data), content=data)), store, name="app", options=wish)
    return catalog.fetch_image(store, "app")


def test_a_store_that_holds_all_is_verified(tmp_path: Path) -> None:
    store = MemoryStore()
    image = published(store, tmp_path)
    seen: list[tuple[int, int]] = []
    check = verify_stored(image, store, progress=lambda done, total: seen.append((done, total)))
    assert not check.wrong
    assert check.bytes_read == sum(pack.length for pack in image.table.packs)
    assert seen[-1] == (check.bytes_read, check.bytes_read)
    store.ranges.clear()
    assert not verify_stored(image, store, quick=True).wrong
    assert not store.ranges, "a quick check reads nothing"


def test_every_wrong_chunk_is_named() -> None:
    store = MemoryStore()
    image = published(store)
    stored = list(image.table.stored_chunks())
    for index, _, place in (stored[1], stored[-1]):
        key = image.table.packs[place.pack].key
        data = bytearray(store.objects[key])
        data[place.offset + place.stored // 2] ^= 0x10
        store.objects[key] = bytes(data)
        assert index < len(image.table.chunks)
    wrong = verify_stored(image, store).wrong
    assert {fault.chunk for fault in wrong} == {stored[1][0], stored[-1][0]}
    assert not verify_stored(image, store, quick=True).wrong


def test_missing_and_short_packs_are_named_once(tmp_path: Path) -> None:
    store = MemoryStore()
    image = published(store, tmp_path)
    first, second = image.table.packs[:2]
    del store.objects[first.key]
    store.objects[second.key] = store.objects[second.key][:-1]
    assert image.statement.ramos is not None
    kernel = f"{image.statement.ramos.prefix}/kernel"
    store.objects[kernel] = b"KERNEL"
    for quick, wanted in (
        (False, {first.key, second.key, kernel}),
        (True, {first.key, second.key}),
    ):
        wrong = verify_stored(image, store, quick=quick).wrong
        assert {(fault.key, fault.chunk) for fault in wrong} == {(key, None) for key in wanted}


def test_a_pack_is_read_in_long_pieces() -> None:
    store = MemoryStore()
    data = random_image(40, seed=4, zero_share=0)
    wish = PublishOptions(level=1, architecture="x86_64")
    publish(Source(MemoryDevice(len(data), content=data)), store, name="app", options=wish)
    store.ranges.clear()
    assert not verify_stored(catalog.fetch_image(store, "app"), store).wrong
    packs = [found for found in store.ranges if found[0].startswith("packs/")]
    assert len(packs) < len(data) // CHUNK_SIZE / 4
