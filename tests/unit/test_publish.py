"""Publishing: what a store holds afterwards is the source, and nothing is sent twice."""

import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashboot.errors import (
    DeviceFailed,
    MalformedDocument,
    ObjectExists,
    PublishFailed,
    StoreError,
    StoreUnavailable,
)
from flashboot.image import codec
from flashboot.image.table import CHUNK_SIZE, ChunkTable
from flashboot.publish import chunks as chunks_module
from flashboot.publish.publish import PublishOptions, PublishResult, publish
from flashboot.publish.source import Source
from flashboot.store import catalog
from flashboot.units import KIB
from tests.fakes.images import random_image
from tests.fakes.memory_device import Fault, MemoryDevice
from tests.fakes.memory_store import MemoryStore

# Small packs, so that small images have several.
QUICK = PublishOptions(level=1, pack_target=256 * KIB, architecture="x86_64")


def options(**changes: object) -> PublishOptions:
    values = {name: getattr(QUICK, name) for name in PublishOptions.__slots__}
    return PublishOptions(**(values | changes))


def put(
    store: MemoryStore, data: bytes, name: str = "app", wish: PublishOptions = QUICK
) -> PublishResult:
    return publish(Source(MemoryDevice(len(data), content=data)), store, name=name, options=wish)


def bytes_of(store: MemoryStore, table: ChunkTable) -> bytes:
    """The image, put together as the documents say."""
    parts = []
    for index, chunk in enumerate(table.chunks):
        length = table.length_of(index)
        place = chunk.location
        if place is None:
            parts.append(bytes(length))
        else:
            pack = store.objects[table.packs[place.pack].key]
            stored = pack[place.offset : place.offset + place.stored]
            parts.append(codec.decompress(stored, length))
    return b"".join(parts)


def noise(count: int, *, seed: int = 1) -> bytes:
    """`count` chunks that compress badly, all different."""
    return random.Random(seed).randbytes(count * CHUNK_SIZE)


@st.composite
def small_images(draw: st.DrawFn) -> bytes:
    """Zero, repeated and other chunks; the last one often short."""
    kinds = draw(st.lists(st.sampled_from([None, *range(4)]), min_size=1, max_size=12))
    parts = [
        bytes(CHUNK_SIZE) if kind is None else random.Random(kind).randbytes(4096) * 128
        for kind in kinds
    ]
    short = draw(st.integers(0, CHUNK_SIZE // 512 - 1)) * 512
    return b"".join(parts)[short:]


@given(small_images())
@settings(max_examples=25)
def test_the_store_gives_the_source_back(data: bytes) -> None:
    store = MemoryStore()
    result = put(store, data)
    read = catalog.fetch_image(store, "app")
    assert bytes_of(store, read.table) == data
    assert read.statement == result.statement
    total = result.counts.new + result.counts.known + result.counts.repeated + result.counts.zero
    assert total == len(read.table.chunks)
    assert result.objects_sent == len(store.objects)
    assert result.bytes_sent == sum(map(len, store.objects.values()))


@given(small_images())
@settings(max_examples=10)
def test_the_same_bytes_again_send_nothing(data: bytes) -> None:
    store = MemoryStore()
    put(store, data)
    before = dict(store.objects)
    store.puts.clear()
    result = put(store, data)
    assert result.already_published
    assert (result.objects_sent, result.bytes_sent) == (0, 0)
    assert result.counts.new == 0
    assert not store.puts
    assert store.objects == before


def test_each_chunk_is_stored_once() -> None:
    store = MemoryStore()
    result = put(store, noise(1) * 5)
    assert (result.counts.new, result.counts.repeated) == (1, 4)
    assert sum(key.startswith("packs/") for key in store.objects) == 1


def test_another_image_sends_only_what_differs() -> None:
    store = MemoryStore()
    data = bytearray(noise(10))
    put(store, bytes(data))
    data[3 * CHUNK_SIZE] ^= 1
    result = put(store, bytes(data), "app-2")
    assert (result.counts.new, result.counts.known) == (1, 9)
    assert bytes_of(store, catalog.fetch_image(store, "app-2").table) == data
    assert result.bytes_sent < 2 * CHUNK_SIZE


def test_the_same_image_under_another_name_sends_only_its_statement() -> None:
    store = MemoryStore()
    put(store, noise(6))
    result = put(store, noise(6), "app-2")
    assert (result.objects_sent, result.objects_found) == (1, 1)  # the table was there
    assert result.counts.known == 6


def test_no_base_stores_anew_and_finds_the_same_packs() -> None:
    store = MemoryStore()
    put(store, noise(6))
    result = put(store, noise(6), "app-2", options(base=()))
    assert result.counts.known == 0
    assert result.objects_sent == 1
    assert result.objects_found > 1


def test_only_named_bases_count() -> None:
    store = MemoryStore()
    put(store, noise(2, seed=1), "one")
    put(store, noise(2, seed=2), "two")
    both = noise(2, seed=1) + noise(2, seed=2)
    assert put(store, both, "both", options(base=("two",))).counts.known == 2


def test_a_named_base_must_be_there_and_whole() -> None:
    store = MemoryStore()
    put(store, noise(2), "one")
    store.objects["images/one"] = b"{}"
    with pytest.raises(MalformedDocument):
        put(store, noise(3), "two", options(base=("one",)))


def test_an_unreadable_image_is_left_out_with_a_word() -> None:
    store = MemoryStore()
    put(store, noise(2), "one")
    put(store, noise(3, seed=2), "two")
    store.objects["images/one"] = b"{}"
    del store.objects[next(key for key in store.objects if key.startswith("tables/"))]
    result = put(store, noise(2), "three")
    assert any("one is left out" in warning for warning in result.warnings)


def test_a_base_whose_pack_is_gone_is_not_built_upon() -> None:
    store = MemoryStore()
    put(store, noise(2), "one")
    del store.objects[next(key for key in store.objects if key.startswith("packs/"))]
    with pytest.raises(StoreError, match="is not there"):
        put(store, noise(2), "two")
    assert "images/two" not in store.objects
    assert put(store, noise(2), "two", options(base=())).counts.new == 2


def test_already_published_is_not_said_of_an_image_without_its_packs() -> None:
    store = MemoryStore()
    put(store, noise(2))
    del store.objects[next(key for key in store.objects if key.startswith("packs/"))]
    with pytest.raises(StoreError, match="is not there"):
        put(store, noise(2))


@pytest.mark.parametrize("puts", range(8))
def test_a_publish_that_broke_off_is_continued(puts: int) -> None:
    data = noise(3) + bytes(CHUNK_SIZE) + noise(2, seed=5)
    whole = MemoryStore()
    put(whole, data)

    store = MemoryStore()
    lock = threading.Lock()
    left = puts

    def fail_after(operation: str, key: str) -> None:
        nonlocal left
        if operation == "put":
            with lock:
                if left == 0:
                    raise StoreUnavailable(store.url, key, "it is gone")
                left -= 1

    store.fault = fail_after
    broke = False
    try:
        put(store, data)
    except StoreUnavailable:
        broke = True
        assert "images/app" not in store.objects
    sent = set(store.objects)
    assert broke == (puts < len(whole.objects))
    store.fault = None
    store.puts.clear()
    put(store, data)
    assert set(store.objects) - {"images/app"} == set(whole.objects) - {"images/app"}
    assert not set(store.puts) & sent, "sent again"


def test_the_statement_is_the_last_object() -> None:
    store = MemoryStore()
    order: list[str] = []
    store.fault = lambda operation, key: order.append(key) if operation == "put" else None
    put(store, noise(4))
    assert order[-1] == "images/app"
    assert order[-2].startswith("tables/")


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_packs_do_not_depend_on_timing(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    data = random_image(24, seed=3, zero_share=0.3, tail=1024)
    wish = options(pack_target=16 * KIB)
    plain, other = MemoryStore(), MemoryStore()
    put(plain, data, wish=wish)
    monkeypatch.setattr(chunks_module, "workers", lambda: workers)
    put(other, data, wish=wish)
    assert set(plain.objects) == set(other.objects)
    assert len(plain.objects) > 4


def test_a_name_stands_for_its_first_bytes() -> None:
    store = MemoryStore()
    put(store, noise(4))
    before = dict(store.objects)
    changed = bytearray(noise(4))
    changed[2 * CHUNK_SIZE + 7] ^= 1
    with pytest.raises(ObjectExists) as caught:
        put(store, bytes(changed))
    assert f"chunk at {2 * CHUNK_SIZE}" in caught.value.advice
    with pytest.raises(ObjectExists) as caught:
        put(store, noise(5))
    assert "its size is" in caught.value.advice
    with pytest.raises(ObjectExists) as caught:
        put(store, noise(4), "app", options(sequence=7, boot_modes=("uefi",)))
    assert "its boot modes are none, not uefi" in caught.value.advice
    assert "its sequence is 0, not 7" in caught.value.advice
    assert store.objects == before


@pytest.mark.parametrize("same", [True, False])
def test_a_race_for_a_name_is_won_once(*, same: bool) -> None:
    other = MemoryStore()
    put(other, noise(4 if same else 3))

    def lose(operation: str, key: str) -> None:
        if operation == "put" and key == "images/app":
            store.objects.update(other.objects)

    store = MemoryStore(fault=lose)
    if same:
        put(store, noise(4))
        assert store.objects == other.objects
    else:
        with pytest.raises(ObjectExists, match="images/app"):
            put(store, noise(4))


def test_a_dry_run_counts_and_writes_nothing() -> None:
    store = MemoryStore()
    dry = put(store, noise(4), wish=options(dry_run=True))
    assert not store.objects
    assert not store.puts
    wet = put(store, noise(4))
    assert (dry.objects_sent, dry.bytes_sent) == (wet.objects_sent, wet.bytes_sent)


def test_a_foreign_object_in_a_packs_place_is_found() -> None:
    store = MemoryStore()
    put(store, noise(1))
    pack = next(key for key in store.objects if key.startswith("packs/"))
    store.objects = {pack: b"short"}
    with pytest.raises(StoreError, match="has 5 bytes"):
        put(store, noise(1))


def test_a_device_that_cannot_be_read_is_not_published() -> None:
    store = MemoryStore()
    data = noise(20)
    device = MemoryDevice(
        len(data), content=data, faults=[Fault("read", "eio", touching=15 * CHUNK_SIZE)]
    )
    with pytest.raises(DeviceFailed):
        publish(Source(device), store, name="app", options=QUICK)
    assert "images/app" not in store.objects
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "ä", "x" * 129])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(MalformedDocument):
        put(MemoryStore(), noise(1), name)


@pytest.mark.parametrize("wrong", [{"source_ami": "a" * 65}, {"sequence": -1}, {"expires": -5}])
def test_what_no_reader_accepts_is_refused_before_the_work(wrong: dict[str, object]) -> None:
    store = MemoryStore()
    with pytest.raises(MalformedDocument):
        put(store, noise(1), wish=options(**wrong))
    assert not store.objects


def test_progress_ends_with_the_whole() -> None:
    seen: list[tuple[int, int]] = []
    data = noise(20)
    publish(
        Source(MemoryDevice(len(data), content=data)),
        MemoryStore(),
        name="app",
        options=QUICK,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (len(data), len(data))


def test_a_file_that_changes_while_it_is_read_makes_no_image(tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(noise(20))
    store = MemoryStore()

    def change(done: int, total: int) -> None:
        if done == CHUNK_SIZE:
            file.write_bytes(noise(20, seed=9))

    with pytest.raises(PublishFailed, match="changed while it was read"):
        publish(file, store, name="app", options=QUICK, progress=change)
    assert "images/app" not in store.objects


@pytest.mark.parametrize(
    ("size", "words"), [(0, "it is empty"), (513, "no whole number of 512 byte sectors")]
)
def test_files_that_are_no_images(tmp_path: Path, size: int, words: str) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"x" * size)
    with pytest.raises(PublishFailed, match=words):
        publish(file, MemoryStore(), name="app", options=QUICK)


def test_a_file_too_large_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    with file.open("wb") as image:
        image.truncate(2**38)
    with pytest.raises(PublishFailed, match=r"at most 128\.0 GiB"):
        publish(file, MemoryStore(), name="app", options=QUICK)


def test_sources_that_are_no_disks(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "neither"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(PublishFailed, match=words):
            publish(path, MemoryStore(), name="app", options=QUICK)
