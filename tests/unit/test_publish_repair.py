"""`publish --repair`: what a store lost or holds wrong is made again from the source."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flashboot.errors import DigestMismatch, ObjectExists, PublishFailed
from flashboot.image.table import CHUNK_SIZE
from flashboot.publish.publish import PublishOptions, PublishResult, publish
from flashboot.publish.source import Source
from flashboot.publish.verify import verify_stored
from flashboot.store import catalog
from flashboot.units import KIB
from tests.fakes.images import random_image
from tests.fakes.memory_device import MemoryDevice
from tests.fakes.memory_store import MemoryStore

DATA = random_image(12, seed=7, zero_share=0.3, tail=1024)
LAST = len(DATA) // CHUNK_SIZE


@pytest.fixture(scope="module")
def ramos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ramos")
    about = {}
    for part, name in (("kernel", "vmlinuz"), ("initramfs", "initramfs")):
        data = part.encode() * 9
        (directory / name).write_bytes(data)
        about[part] = {"sha256": hashlib.sha256(data).hexdigest(), "length": len(data)}
    (directory / "ramos.json").write_text(json.dumps(about))
    return directory


def put(
    store: MemoryStore,
    data: bytes = DATA,
    name: str = "app",
    *,
    repair: bool = False,
    base: tuple[str, ...] | None = None,
    ramos: Path | None = None,
    dry_run: bool = False,
    pack_target: int = 16 * KIB,
) -> PublishResult:
    wish = PublishOptions(
        level=1,
        pack_target=pack_target,
        architecture="x86_64",
        repair=repair,
        base=base,
        ramos=ramos,
        dry_run=dry_run,
    )
    return publish(Source(MemoryDevice(len(data), content=data)), store, name=name, options=wish)


def flip(data: bytes, at: int | None = None) -> bytes:
    spoiled = bytearray(data)
    spoiled[len(data) // 2 if at is None else at] ^= 1
    return bytes(spoiled)


def with_other_chunk(index: int) -> bytes:
    """DATA, but for one chunk."""
    return flip(DATA, index * CHUNK_SIZE)


def packs(store: MemoryStore) -> list[str]:
    return [key for key in store.objects if key.startswith("packs/")]


def is_whole(store: MemoryStore, name: str) -> bool:
    return not verify_stored(catalog.fetch_image(store, name), store).wrong


def spoil_chunk(store: MemoryStore, name: str, index: int) -> str:
    """Damage the stored bytes of one chunk; the pack's key."""
    table = catalog.fetch_image(store, name).table
    place = table.chunks[index].location
    assert place is not None
    key = table.packs[place.pack].key
    store.objects[key] = flip(store.objects[key], place.offset + place.stored // 2)
    return key


def test_without_it_a_damaged_pack_of_the_right_length_stays() -> None:
    store = MemoryStore()
    put(store)
    spoil_chunk(store, "app", LAST)
    assert put(store).already_published
    put(store, name="app-2")
    assert not is_whole(store, "app")
    assert not is_whole(store, "app-2")


@pytest.mark.parametrize("spoil", [flip, lambda data: data[:-1], lambda data: data + b"!", None])
@pytest.mark.parametrize("name", ["app", "app-2"])
def test_every_object_is_mended(
    spoil: Callable[[bytes], bytes] | None, name: str, ramos: Path
) -> None:
    store = MemoryStore()
    put(store, ramos=ramos)
    whole = dict(store.objects)
    assert len(packs(store)) > 1
    for key, data in whole.items():
        if key.startswith("images/"):
            continue
        if spoil is None:
            del store.objects[key]
        else:
            store.objects[key] = spoil(data)
        result = put(store, name=name, repair=True, ramos=ramos)
        assert result.already_published is (name == "app")
        if name == "app" or spoil is not None:
            assert result.repaired == (key,)
        else:
            assert result.repaired == ()  # nobody's yet: sent, as ever
        store.objects.pop("images/app-2", None)
        assert store.objects == whole, key


def test_all_at_once(ramos: Path) -> None:
    store = MemoryStore()
    put(store, ramos=ramos)
    whole = dict(store.objects)
    store.objects = {"images/app": whole["images/app"]}
    result = put(store, repair=True, ramos=ramos)
    assert store.objects == whole
    assert set(result.repaired) == set(whole) - {"images/app"}
    assert result.bytes_sent == sum(len(whole[key]) for key in result.repaired)


def test_what_is_whole_is_read_and_left_alone(ramos: Path) -> None:
    store = MemoryStore()
    put(store, ramos=ramos)
    store.puts.clear()
    store.gets.clear()
    result = put(store, repair=True, ramos=ramos)
    assert result.already_published
    assert (result.repaired, result.objects_sent) == ((), 0)
    assert not store.puts
    assert set(store.gets) == set(store.objects)


def test_a_dry_run_names_it_and_writes_nothing() -> None:
    store = MemoryStore()
    put(store)
    key = spoil_chunk(store, "app", LAST)
    store.puts.clear()
    for name in ("app", "app-2"):
        assert put(store, name=name, repair=True, dry_run=True).repaired == (key,)
    assert not store.puts


def test_a_damaged_pack_of_an_earlier_image_is_not_built_upon() -> None:
    store = MemoryStore()
    put(store)
    damaged = spoil_chunk(store, "app", LAST)
    before = store.objects[damaged]
    # One large pack, so that the damaged one is not made again by chance.
    result = put(store, with_other_chunk(0), "app-2", repair=True, pack_target=10**9)
    assert is_whole(store, "app-2")
    assert result.counts.known > 0
    assert result.counts.new > 1
    assert result.repaired == ()
    assert store.objects[damaged] == before
    assert any(damaged in warning for warning in result.warnings)


def test_an_image_built_on_another_mends_what_they_share() -> None:
    store = MemoryStore()
    put(store, pack_target=10**9)
    put(store, with_other_chunk(0), "app-2")
    whole = dict(store.objects)
    key = spoil_chunk(store, "app", LAST)
    assert put(store, with_other_chunk(0), "app-2", repair=True).repaired == (key,)
    assert store.objects == whole


def test_what_the_source_does_not_hold_is_said_and_the_rest_mended() -> None:
    store = MemoryStore()
    put(store, pack_target=10**9)
    put(store, with_other_chunk(0), "app-2")
    foreign = spoil_chunk(store, "app", 0)  # which app-2 has otherwise
    own = spoil_chunk(store, "app-2", 0)
    with pytest.raises(PublishFailed, match=f"{foreign} .*cannot be made again") as caught:
        put(store, with_other_chunk(0), "app-2", repair=True)
    assert own not in str(caught.value)
    assert put(store, repair=True, pack_target=10**9).repaired == (foreign,)
    assert is_whole(store, "app")
    assert is_whole(store, "app-2")


def test_a_lost_table_is_made_again_with_the_bases_of_its_time() -> None:
    store = MemoryStore()
    put(store, name="old")
    found = put(store, with_other_chunk(3), repair=False)
    put(store, name="later", base=())
    whole = dict(store.objects)
    key = found.statement.table_key
    store.objects[key] = flip(store.objects[key])
    with pytest.raises(DigestMismatch) as caught:
        put(store, with_other_chunk(3))
    assert "--repair" in caught.value.advice
    with pytest.raises(PublishFailed, match="chunk table") as failed:
        put(store, with_other_chunk(3), repair=True, base=())
    assert "--base" in failed.value.advice
    assert put(store, with_other_chunk(3), repair=True).repaired == (key,)
    assert store.objects == whole


@pytest.mark.parametrize("lost", ["packs/", "tables/"])
def test_another_source_mends_nothing(lost: str) -> None:
    store = MemoryStore()
    put(store)
    for key in [key for key in store.objects if key.startswith(lost)]:
        del store.objects[key]
    before = dict(store.objects)
    with pytest.raises(ObjectExists):
        put(store, with_other_chunk(LAST - 1), repair=True)
    assert store.objects == before
