"""The residency map's bytes: round trips, and every malformed map is refused by name."""

import hashlib
import io
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from happycache import errors, mapfile, residency, varint
from happycache.mapfile import FileEntry, MapReader, MapWriter

PART = st.binary(min_size=1, max_size=12).filter(
    lambda part: part not in (b".", b"..") and b"/" not in part and b"\0" not in part
)
NUMBER = st.integers(0, (1 << 64) - 1)
RUNS = st.sets(st.integers(0, 99), min_size=1, max_size=30).map(
    lambda pages: residency.from_pairs((page, 1) for page in sorted(pages))
)
ENTRY = st.builds(
    FileEntry,
    root=st.integers(0, 1),
    path=st.lists(PART, min_size=1, max_size=4).map(b"/".join),
    device=NUMBER,
    inode=NUMBER,
    size=st.integers(99 * 4096 + 1, (1 << 63) - 1),
    mtime_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    runs=RUNS,
)
ROOTS = (b"/data", b"/srv/\xff\n")
SAMPLE = FileEntry(0, b"ks/table.db", 66305, 12, 40960, -5, residency.from_pairs([(1, 2), (9, 1)]))


def write(entries: list[FileEntry], roots: tuple[bytes, ...] = ROOTS) -> bytes:
    sink = io.BytesIO()
    writer = MapWriter(sink, page_size=4096, created_ns=17, roots=roots)
    for entry in entries:
        writer.add(entry)
    head = writer.finish()
    data = sink.getvalue()
    assert head == MapReader(io.BytesIO(data)).head
    return data


def read(data: bytes) -> list[FileEntry]:
    return list(MapReader(io.BytesIO(data)).files())


def forge(
    content: bytes,
    *,
    files: int = 0,
    pages: int = 0,
    page_size: int = 4096,
    length: int | None = None,
    body: bytes | None = None,
) -> bytes:
    """A map with a right digest around anything."""
    packed = zstandard.ZstdCompressor().compress(content) if body is None else body
    start = struct.pack("<8sIIQ", b"HAPPYMAP", 1, page_size, 0) + packed
    start += struct.pack("<QQQ", len(content) if length is None else length, files, pages)
    return start + hashlib.sha256(start).digest()


def record(entry: bytes) -> bytes:
    return varint.encode(len(entry)) + entry


@given(st.lists(ENTRY, max_size=8))
def test_round_trip(entries: list[FileEntry]) -> None:
    data = write(entries)
    reader = MapReader(io.BytesIO(data))
    assert list(reader.files()) == entries
    assert list(reader.files()) == entries, "a map can be read twice"
    assert reader.head.roots == ROOTS
    assert reader.head.files == len(entries)
    assert reader.head.pages == sum(entry.runs.pages for entry in entries)
    assert reader.head.map_bytes == len(data)


def test_layout_is_as_documented() -> None:
    data = write([SAMPLE], (b"/d",))
    body = data[24:-56]
    content = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    assert data[:24] == b"HAPPYMAP" + bytes.fromhex("01000000 00100000 1100000000000000")
    assert content == bytes.fromhex("01 02 2f64 19 00 0b") + b"ks/table.db" + bytes.fromhex(
        "818604 0c 80c002 09 01 02 06 01"
    )
    assert data[-56:-32] == struct.pack("<QQQ", len(content), 1, 3)
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()


def test_a_map_larger_than_the_buffers() -> None:
    entries = [
        FileEntry(0, b"f%d" % i, 1, i, 1 << 40, i, residency.from_pairs([(i, 1), (i * 3 + 2, 9)]))
        for i in range(8_000)
    ]
    assert read(write(entries)) == entries


@given(st.data())
def test_every_flipped_bit_is_refused(data: st.DataObject) -> None:
    good = write([SAMPLE])
    at = data.draw(st.integers(0, len(good) * 8 - 1))
    bad = bytearray(good)
    bad[at // 8] ^= 1 << at % 8
    with pytest.raises(errors.HappycacheError):
        read(bytes(bad))


def test_every_truncation_is_refused() -> None:
    good = write([SAMPLE])
    for length in range(len(good)):
        with pytest.raises((errors.MapMalformed, errors.MapDamaged)):
            read(good[:length])


@given(st.binary(max_size=300))
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(errors.HappycacheError):
        read(data)
    with pytest.raises(errors.HappycacheError):
        read(b"HAPPYMAP" + data)


@given(st.binary(max_size=60), st.integers(0, 3), st.integers(0, 9))
def test_rubbish_with_a_right_digest_is_refused(content: bytes, files: int, pages: int) -> None:
    try:
        entries = read(forge(b"\x01\x02/d" + content, files=files, pages=pages))
    except (errors.MapMalformed, errors.MapTooLarge):
        return
    assert (len(entries), sum(entry.runs.pages for entry in entries)) == (files, pages)


GOOD = b"\x00\x01f\x01\x01\xff\x7f\x00\x00\x02"
BAD = {
    "root 1 of 1": b"\x01" + GOOD[1:],
    "path is empty": b"\x00\x00" + GOOD[3:],
    "cut short": b"\x00\x7ff",
    "plain and relative": b"\x00\x02.." + GOOD[3:],
    "not plain": b"\x00\x02/f" + GOOD[3:],
    "plain": b"\x00\x03a\0b" + GOOD[3:],
    "larger than a file": b"\x00\x01f\x01\x01" + b"\xff" * 9 + b"\x01\x00\x00\x02",
    "without resident pages": GOOD[:-2],
    "behind the end": GOOD[:-1] + b"\x7f",
    "empty or touches": GOOD[:-1] + b"\x00",
    "number in it": GOOD[:-1] + b"\x82\x00",
}


def test_the_good_record_is_good() -> None:
    (entry,) = read(forge(b"\x01\x02/d" + record(GOOD), files=1, pages=2))
    assert (entry.path, entry.size, list(entry.runs)) == (b"f", 16383, [(0, 2)])


@pytest.mark.parametrize("sentence", BAD)
def test_bad_records_are_refused(sentence: str) -> None:
    with pytest.raises(errors.MapMalformed, match=sentence):
        read(forge(b"\x01\x02/d" + record(BAD[sentence]), files=1, pages=2))


@pytest.mark.parametrize(
    ("error", "sentence", "data"),
    [
        (errors.MapMalformed, "begin with HAPPYMAP", b"PK\x03\x04" + bytes(200)),
        (errors.MapMalformed, "begin with HAPPYMAP", b""),
        (errors.MapMalformed, "cut short", b"HAPPYMAP"),
        (errors.MapVersionUnknown, "version 2", b"HAPPYMAP\x02" + bytes(200)),
        (errors.MapMalformed, "page size is 4095", forge(b"\x00", page_size=4095)),
        (errors.MapMalformed, "page size is 0", forge(b"\x00", page_size=0)),
        (errors.MapTooLarge, "its content", forge(b"\x00", length=1 << 40)),
        (errors.MapTooLarge, "list of roots", forge(b"\xff\x7f")),
        (errors.MapTooLarge, "a root", forge(b"\x01\xff\x7f")),
        (errors.MapMalformed, "not an absolute path", forge(b"\x01\x01d")),
        (errors.MapMalformed, "ends within a record", forge(b"\x01\x05/d")),
        (errors.MapTooLarge, "a file's record", forge(b"\x00\xff\xff\xff\xff\x0f", files=1)),
        (errors.MapMalformed, "cannot be unpacked", forge(b"", body=b"no zstd", length=4)),
        (errors.MapMalformed, "less than it says", forge(b"\x00", length=9)),
        (errors.MapMalformed, "more than it says", forge(b"\x00\x00", length=1)),
        (errors.MapMalformed, "another number", forge(b"\x00", files=1)),
    ],
)
def test_bad_maps_are_refused(
    error: type[errors.HappycacheError], sentence: str, data: bytes
) -> None:
    with pytest.raises(error, match=sentence):
        read(data)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(b"\x00" * (64 << 20))
    with pytest.raises(errors.MapMalformed, match="more than it says"):
        read(forge(b"", body=bomb, length=1))


def test_a_window_larger_than_any_writer_uses_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = packed.compress(b"\x00" * (1 << 20)) + packed.flush()
    with pytest.raises(errors.MapMalformed, match="cannot be unpacked"):
        read(forge(b"", body=body, length=1 << 20))


def test_the_writer_keeps_to_its_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapfile, "RECORD_LIMIT_BYTES", 10)
    with pytest.raises(errors.MapTooLarge, match="record has"):
        write([SAMPLE])
    monkeypatch.setattr(mapfile, "CONTENT_LIMIT_BYTES", 8)
    with pytest.raises(errors.MapTooLarge, match="content has"):
        write([])
    monkeypatch.setattr(mapfile, "MAP_LIMIT_BYTES", 20)
    with pytest.raises(errors.MapTooLarge, match="it has"):
        write([], (b"/",))


def test_a_huge_file_is_refused_by_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapfile, "MAP_LIMIT_BYTES", 100)
    with pytest.raises(errors.MapTooLarge, match="it has 4096 bytes"):
        read(bytes(4096))


def test_every_error_has_a_sentence_and_its_own_code() -> None:
    classes = [errors.HappycacheError]
    for error in classes:
        classes.extend(error.__subclasses__())
    for error in classes:
        facts = [7.5] * (error.__doc__ or "").count("{")
        assert "{" not in errors.explain(error(*facts))
    codes = [error.exit_code for error in classes]
    assert len(set(codes)) == len(codes)
