"""Hypothesis strategies for values that are valid: documents, tables, extents."""

import hashlib
from typing import Any

from hypothesis import strategies as st

from flashboot.handoff import MIN_BUDGET, Handoff, Network, RootDevice
from flashboot.image import table as tables
from flashboot.image.extents import Extent
from flashboot.image.protocol import Tail
from flashboot.image.statement import ARCHITECTURES, BOOT_MODES, Blob, RamOs, Statement
from flashboot.image.table import CHUNK_SIZE, SECTOR, Chunk, ChunkTable, Location, Pack
from flashboot.record import Event, Kind, Program, Record

# What UTF-8 can hold: half of a surrogate pair is a code point, but no text.
LETTERS = st.characters(exclude_categories=["Cs"])

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, 2**62)


def texts(cap: int) -> st.SearchStrategy[str]:
    """Any text of at most `cap` characters."""
    return st.text(LETTERS, max_size=min(cap, 40))


blobs = st.builds(Blob, digests, st.integers(1, 2**40))
ramoses = st.builds(RamOs, blobs, blobs)


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    """Any statement that an image may have."""
    sector_size = draw(st.sampled_from([512, 4096]))
    modes = draw(st.sets(st.sampled_from(BOOT_MODES)))
    return Statement(
        name=draw(names),
        image_size=draw(st.integers(1, 2**40)) * sector_size,
        digest=draw(digests),
        table=Blob(draw(digests), draw(st.integers(1, tables.MAX_TABLE_BYTES))),
        architecture=draw(st.sampled_from(ARCHITECTURES)),
        boot_modes=tuple(sorted(modes)),
        sector_size=sector_size,
        created=draw(numbers),
        sequence=draw(numbers),
        expires=draw(numbers),
        source_ami=draw(texts(64)),
        source_snapshot=draw(texts(64)),
        ramos=draw(st.none() | ramoses),
    )


@st.composite
def chunk_tables(draw: st.DrawFn) -> ChunkTable:
    """A table of up to eight chunks in up to three packs, the last chunk often short."""
    size = SECTOR * draw(st.integers(1, 8 * CHUNK_SIZE // SECTOR))
    pack_names = draw(st.lists(digests, max_size=3, unique=True))
    lengths = st.integers(1, tables.MAX_PACK_SIZE)
    packs = tuple(Pack(name, draw(lengths)) for name in pack_names)
    chunks = []
    for index in range(tables.chunk_count(size)):
        if not packs or draw(st.booleans()):
            plain = min(CHUNK_SIZE, size - index * CHUNK_SIZE)
            chunks.append(Chunk(tables.zero_digest(plain), None))
            continue
        pack = draw(st.integers(0, len(packs) - 1))
        stored = draw(st.integers(1, min(tables.MAX_STORED, packs[pack].length)))
        offset = draw(st.integers(0, packs[pack].length - stored))
        chunks.append(Chunk(draw(digests), Location(pack, offset, stored)))
    return ChunkTable(size, packs, tuple(chunks))


hosts = st.from_regex(r"[A-Za-z0-9.,:_-]{0,60}", fullmatch=True)
name_servers = st.from_regex(r"[A-Za-z0-9.:_-]{1,60}", fullmatch=True)
macs = st.from_regex(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", fullmatch=True)
runs = st.from_regex(r"[0-9A-Za-z-]{1,64}", fullmatch=True)
root_devices = st.builds(
    RootDevice,
    serial=texts(1024),
    model=texts(1024),
    size=st.integers(1, 2**62),
    sector_size=st.sampled_from([512, 4096]),
    controller=texts(1024),
    disk_guid=texts(1024),
)
networks = st.builds(
    Network, mac=macs, ntp=hosts, dns=st.lists(name_servers, max_size=8).map(tuple)
)
handoffs = st.builds(
    Handoff,
    run=runs,
    instance=texts(1024),
    image=names,
    store=texts(1024),
    statement_digest=digests,
    table_digest=digests,
    root=root_devices,
    network=networks,
    staged_at=numbers,
    cloud=st.dictionaries(texts(40), texts(40), max_size=4),
    tail=st.sampled_from(Tail),
    budget=st.integers(MIN_BUDGET, 2**50),
    patience=st.integers(1, 86400),
)

facts: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    texts(40), texts(512) | st.integers(-(2**62), 2**62), max_size=4
)
events = st.builds(
    Event,
    time=numbers,
    program=st.sampled_from(Program),
    phase=texts(512),
    kind=st.sampled_from(Kind),
    text=texts(16000),
    facts=facts,
)
records = st.builds(
    Record,
    run=texts(1024),
    instance=texts(1024),
    events=st.lists(events, max_size=6).map(tuple),
)


def extents(limit: int) -> st.SearchStrategy[Extent]:
    """Extents that lie in [0, limit)."""
    byte = st.integers(0, limit - 1)
    return st.tuples(byte, byte).map(lambda two: Extent(min(two), max(two) - min(two) + 1))


# What JSON can say, wrong shapes above all.
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def sha256(data: bytes) -> bytes:
    """The SHA-256 of `data`."""
    return hashlib.sha256(data).digest()
