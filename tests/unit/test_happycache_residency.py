"""Runs of pages and varints: pure values, mostly by properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happycache import residency, varint
from happycache.errors import MapMalformed

PAGES = st.sets(st.integers(0, 400), max_size=200)
PAIRS = st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(1, 1 << 20)), max_size=20)


def flags_of(pages: set[int]) -> bytes:
    return bytes(page in pages for page in range(401))


def pages_of(runs: object) -> set[int]:
    assert hasattr(runs, "__iter__")
    return {page for first, length in runs for page in range(first, first + length)}


@given(st.integers(0, (1 << 64) - 1))
def test_varint_round_trip(value: int) -> None:
    data = varint.encode(value)
    assert len(data) <= varint.MAX_BYTES
    assert varint.decode(b"\xff" + data + b"\x80", 1) == (value, 1 + len(data))


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_zigzag_round_trip(value: int) -> None:
    assert varint.unzigzag(varint.zigzag(value)) == value
    assert 0 <= varint.zigzag(value) < 1 << 64


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"\xff" * 9, b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01", b"\x80\x00"],
)
def test_varint_refuses(data: bytes) -> None:
    with pytest.raises(MapMalformed):
        varint.decode(data, 0)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_varint_does_not_encode(value: int) -> None:
    with pytest.raises(ValueError, match="unsigned"):
        varint.encode(value)


@given(PAGES, st.integers(1, 100))
def test_flags_in_windows_make_the_same_runs(pages: set[int], window: int) -> None:
    flags = flags_of(pages)
    builder = residency.RunsBuilder()
    for start in range(0, len(flags), window):
        builder.add_flags(start, flags[start : start + window])
    runs = builder.build()
    assert pages_of(runs) == pages
    assert runs.pages == len(pages)
    assert runs.end == max(pages, default=-1) + 1
    assert runs.count == sum(page - 1 not in pages for page in pages)
    assert residency.parse(runs.encoded, limit_pages=401) == runs


@given(PAIRS)
def test_pairs_round_trip(gaps: list[tuple[int, int]]) -> None:
    pairs, at = [], 0
    for gap, length in gaps:
        pairs.append((at + gap, length))
        at += gap + length
    runs = residency.from_pairs(pairs)
    assert list(runs) == pairs
    assert residency.parse(runs.encoded, limit_pages=at) == runs
    if pairs:
        with pytest.raises(MapMalformed, match="behind the end"):
            residency.parse(runs.encoded, limit_pages=at - 1)


@given(st.binary(max_size=40))
def test_parse_accepts_only_what_it_would_write(data: bytes) -> None:
    try:
        runs = residency.parse(data, limit_pages=1 << 60)
    except MapMalformed:
        return
    assert residency.from_pairs(runs) == runs


@pytest.mark.parametrize("data", [b"\x00\x00", b"\x05\x01\x00\x01", b"\x05", b"\x01\x01\x01\x80"])
def test_parse_refuses(data: bytes) -> None:
    with pytest.raises(MapMalformed):
        residency.parse(data, limit_pages=1000)


def test_builder_refuses_disorder() -> None:
    builder = residency.RunsBuilder()
    builder.add(5, 2)
    with pytest.raises(ValueError, match="out of order"):
        builder.add(6, 1)
    with pytest.raises(ValueError, match="empty"):
        builder.add(9, 0)


@given(PAGES, st.integers(1, 50))
def test_split_keeps_every_page_and_its_window(pages: set[int], window: int) -> None:
    builder = residency.RunsBuilder()
    builder.add_flags(0, flags_of(pages))
    groups = list(residency.split(builder.build(), window=window))
    assert [page for group in groups for page in sorted(pages_of(group))] == sorted(pages)
    for group in groups:
        assert sum(group[-1]) - group[0][0] <= window


@given(PAGES)
def test_absent_is_the_complement(pages: set[int]) -> None:
    flags = flags_of(pages)
    assert pages_of(residency.absent(flags, 100, 200)) == set(range(100, 300)) - pages


@given(PAGES, st.sampled_from([(4096, 65536), (65536, 4096), (4096, 4096), (16384, 65536)]))
def test_rescale_covers_the_same_bytes(pages: set[int], sizes: tuple[int, int]) -> None:
    old, new = sizes
    builder = residency.RunsBuilder()
    builder.add_flags(0, flags_of(pages))
    scaled = list(residency.rescale(builder.build(), old=old, new=new))
    assert residency.from_pairs(scaled).pages == sum(length for _, length in scaled)
    unit = min(old, new)
    wanted = {byte // new for page in pages for byte in range(page * old, (page + 1) * old, unit)}
    assert pages_of(scaled) == wanted
