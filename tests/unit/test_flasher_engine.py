"""The engine: what is on the device afterwards is the image, or the head stays withheld."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashboot.errors import ChunkMismatch, DeviceFailed, NotVerified, StoreUnavailable, UnfitImage
from flashboot.flasher import flash
from flashboot.flasher.flash import Target
from flashboot.flasher.runs import RUN_CHUNKS, runs_of
from flashboot.flasher.source import StoreSource
from flashboot.flasher.write import write_image
from flashboot.image import protocol
from flashboot.image.extents import Extent, merge
from flashboot.image.protocol import Tail, Verified
from flashboot.image.table import CHUNK_SIZE
from flashboot.store.catalog import Published
from flashboot.units import MIB
from tests.fakes.images import random_image, store_image
from tests.fakes.memory_device import Fault, MemoryDevice
from tests.fakes.memory_store import MemoryStore

OLD = 0xAB


def old_device(size: int, *, faults: tuple[Fault, ...] = ()) -> MemoryDevice:
    return MemoryDevice(size, content=bytes([OLD]) * size, faults=faults)


def target_of(
    published: Published, device: MemoryDevice, *, tail: Tail = Tail.SIGNATURES
) -> Target:
    steps = protocol.unprotected(
        image_size=published.table.image_size, device_size=device.size, sector_size=512, tail=tail
    )
    return Target("image", published.table, device, steps, 256 * MIB)


@settings(max_examples=15, deadline=None)
@given(
    chunks=st.integers(1, 20),
    extra=st.sampled_from([0, 512, 4096 * 3, 5 * MIB]),
    tail=st.sampled_from([0, 512, 200 * 1024]),
    seed=st.integers(0, 999),
)
def test_a_write_leaves_exactly_the_image(chunks: int, extra: int, tail: int, seed: int) -> None:
    store = MemoryStore()
    data = random_image(chunks, seed=seed, tail=tail)
    published = store_image(store, data)
    device = old_device(len(data) + extra)
    result = write_image(store, published, device)
    assert bytes(device.durable[: len(data)]) == data
    assert result.digest == published.statement.digest
    rest = device.durable[len(data) :]
    span = protocol.SIGNATURE_SPAN
    if extra > 2 * span:
        assert rest[:span] == rest[-span:] == bytes(span)
        assert set(rest[span:-span]) == {OLD}
    else:
        assert rest == bytes(extra)


def test_what_is_already_there_is_neither_fetched_nor_written() -> None:
    store = MemoryStore()
    data = random_image(24, seed=1)
    published = store_image(store, data)
    changed = bytearray(data)
    changed[9 * CHUNK_SIZE + 5] ^= 1
    device = MemoryDevice(len(data), content=bytes(changed))
    result = write_image(store, published, device)
    assert bytes(device.durable) == data
    assert result.differing == 2  # the changed one, and the head's
    assert result.bytes_written <= 2 * CHUNK_SIZE
    assert result.bytes_fetched < 2 * CHUNK_SIZE


def test_the_head_is_cleared_first_and_committed_last() -> None:
    store = MemoryStore()
    data = random_image(20, seed=2)
    published = store_image(store, data)
    device = old_device(len(data))
    write_image(store, published, device)
    first, last = device.writes[0], device.writes[-1]
    assert (first.offset, first.data) == (0, bytes(512))
    assert (last.offset, last.data) == (0, data[:512])
    assert all(write.offset >= 512 for write in device.writes[1:-1])
    writes = [number for number, entry in enumerate(device.log) if entry[0] == "write"]
    between = device.log[writes[-2] : writes[-1]]
    flushed = between.index(("flush", 0, 0))
    seen = merge(Extent(offset, length) for verb, offset, length in between[flushed:] if length)
    assert seen == (Extent(0, len(data)),)


@pytest.mark.parametrize("cut_after", range(12))
def test_a_cut_at_any_write_leaves_a_dead_head_or_the_whole_image(cut_after: int) -> None:
    store = MemoryStore()
    data = random_image(10, seed=3, zero_share=0.3)
    published = store_image(store, data)
    device = old_device(len(data), faults=(Fault("write", "eio", nth=cut_after + 1, times=None),))
    total = 0
    try:
        write_image(store, published, device)
        total = len(device.writes)
    except DeviceFailed:
        pass
    chooser = random.Random(cut_after)
    for survives in (
        lambda index, sector: True,
        lambda index, sector: False,
        lambda index, sector: chooser.random() < 0.5,
    ):
        disk = device.after_power_cut(survives)
        if cut_after == 0:
            assert disk == bytes([OLD]) * len(data)
        elif disk[:512] == data[:512]:
            assert total
            assert disk == data
        else:
            assert disk[:512] in (bytes(512), bytes([OLD]) * 512)
            if disk[:512] != bytes(512):
                assert disk == bytes([OLD]) * len(data)


def test_a_second_call_completes_what_a_failure_left() -> None:
    store = MemoryStore()
    data = random_image(40, seed=4, zero_share=0.2)
    published = store_image(store, data)
    device = old_device(len(data), faults=(Fault("write", "eio", nth=4),))
    with pytest.raises(DeviceFailed):
        write_image(store, published, device)
    result = write_image(store, published, device)
    assert bytes(device.durable) == data
    assert result.differing < 40


@pytest.mark.parametrize("effect", ["lost", "misdirected"])
def test_a_silent_fault_is_found_and_mended_before_the_commit(effect: str) -> None:
    store = MemoryStore()
    data = random_image(40, seed=5, zero_share=0.2)
    published = store_image(store, data)
    fault = Fault("write", effect, nth=3, shift=CHUNK_SIZE)  # type: ignore[arg-type]
    device = old_device(len(data), faults=(fault,))
    write_image(store, published, device)
    assert bytes(device.durable) == data


def test_a_device_that_keeps_losing_a_write_is_never_committed() -> None:
    store = MemoryStore()
    data = random_image(8, seed=6, zero_share=0.0)
    published = store_image(store, data)
    fault = Fault("write", "lost", touching=3 * CHUNK_SIZE, times=None)
    device = old_device(len(data), faults=(fault,))
    with pytest.raises(NotVerified, match="chunks differ"):
        write_image(store, published, device)
    assert device.durable[:512] == bytes(512)


def test_a_wrong_chunk_is_found_in_the_rehearsal_and_nothing_is_written() -> None:
    store = MemoryStore()
    data = random_image(16, seed=7, zero_share=0.2)
    published = store_image(store, data)
    pack = published.table.packs[0].key
    spoiled = bytearray(store.objects[pack])
    spoiled[len(spoiled) // 2] ^= 4
    store.objects[pack] = bytes(spoiled)
    device = old_device(len(data))
    target = target_of(published, device)
    with pytest.raises(ChunkMismatch, match="of image image is wrong in the store"):
        flash.rehearse(target, StoreSource(store, published.table))
    assert device.writes == []
    assert bytes(device.content) == bytes([OLD]) * len(data)


def test_a_chunk_that_is_wrong_once_is_fetched_again() -> None:
    store = MemoryStore()
    data = random_image(6, seed=8, zero_share=0.0)
    published = store_image(store, data)
    spoilt: list[str] = []

    def spoil(key: str, answer: bytes) -> bytes:
        if key.startswith("packs/") and not spoilt:
            spoilt.append(key)
            return answer[:-1] + bytes([answer[-1] ^ 1])
        return answer

    store.spoil = spoil
    device = old_device(len(data))
    write_image(store, published, device)
    assert spoilt
    assert bytes(device.durable) == data


def test_the_rehearsal_keeps_what_fits_and_the_write_needs_no_store() -> None:
    store = MemoryStore()
    data = random_image(16, seed=9, zero_share=0.2)
    published = store_image(store, data)
    device = old_device(len(data))
    target = target_of(published, device)
    source = StoreSource(store, published.table)
    rehearsed = flash.rehearse(target, source)
    fetched = source.fetched

    def refuse(operation: str, key: str) -> None:
        raise StoreUnavailable(store.url, key, "gone")

    store.fault = refuse
    flash.clear(target)
    written = flash.write(target, rehearsed)
    verified = flash.verify(target, source, written)
    flash.commit(target, verified)
    assert bytes(device.durable) == data
    assert source.fetched == fetched


def test_a_proof_cannot_be_made_for_other_bytes() -> None:
    store = MemoryStore()
    published = store_image(store, random_image(3, seed=10))
    observed = [chunk.digest for chunk in published.table.chunks]
    Verified(published.table, tuple(observed), bytes(512))
    observed[1] = bytes(32)
    with pytest.raises(NotVerified, match="the first is 1"):
        Verified(published.table, tuple(observed), bytes(512))
    with pytest.raises(NotVerified, match="2 of 3"):
        Verified(published.table, tuple(observed[:2]), bytes(512))


def test_a_device_too_small_is_refused_untouched() -> None:
    store = MemoryStore()
    published = store_image(store, random_image(4, seed=11))
    device = old_device(3 * CHUNK_SIZE)
    with pytest.raises(UnfitImage, match="the device only"):
        write_image(store, published, device)
    assert device.log == []


def test_memory_in_flight_is_bounded_by_the_budget() -> None:
    store = MemoryStore()
    data = random_image(64, seed=12, zero_share=0.0)
    published = store_image(store, data)
    device = old_device(len(data))
    write_image(store, published, device, budget=1)
    assert bytes(device.durable) == data


@given(st.sets(st.integers(0, 63)))
def test_runs_cover_each_chunk_once_and_never_mix(indices: set[int]) -> None:
    table = _TABLE
    runs = list(runs_of(sorted(indices), table))
    assert [index for run in runs for index in run.chunks] == sorted(indices)
    for run in runs:
        assert 1 <= run.count <= RUN_CHUNKS
        places = [table.chunks[index].location for index in run.chunks]
        assert run.is_zero == all(place is None for place in places)
        if not run.is_zero:
            assert sum(place.stored for place in places if place) == run.stored


_TABLE = store_image(MemoryStore(), random_image(64, seed=13)).table
