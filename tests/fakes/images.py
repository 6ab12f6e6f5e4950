"""Small images for tests: made from bytes, put into a store the way a publisher does."""

import hashlib
import random

from flashboot.image import codec, envelope, statement, table
from flashboot.image.statement import Blob, Statement
from flashboot.image.table import CHUNK_SIZE, Chunk, ChunkTable, Location, Pack
from flashboot.store import catalog
from flashboot.store.base import Store
from flashboot.store.catalog import Published


def random_image(chunks: int, *, seed: int, zero_share: float = 0.5, tail: int = 0) -> bytes:
    """`chunks` chunks, about `zero_share` of them zeroes, and `tail` more bytes.

    The first 512 bytes end as a boot sector does.
    """
    source = random.Random(seed)
    parts = [
        bytes(CHUNK_SIZE)
        if source.random() < zero_share
        else source.randbytes(4096) * (CHUNK_SIZE // 4096)
        for _ in range(chunks)
    ]
    data = bytearray(b"".join(parts) + source.randbytes(tail))
    data[0:440] = source.randbytes(440)
    data[510:512] = b"\x55\xaa"
    return bytes(data)


def store_image(store: Store, data: bytes, name: str = "image") -> Published:
    """Put `data` into `store` as one pack, and read it back as a reader does."""
    pieces = [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]
    frames: list[bytes] = []
    chunks: list[Chunk] = []
    offset = 0
    for piece in pieces:
        digest = hashlib.sha256(piece).digest()
        if not any(piece):
            chunks.append(Chunk(digest, None))
            continue
        frames.append(codec.compress(piece, level=1))
        chunks.append(Chunk(digest, Location(0, offset, len(frames[-1]))))
        offset += len(frames[-1])
    pack = b"".join(frames)
    packs = (Pack(hashlib.sha256(pack).digest(), len(pack)),) if pack else ()
    for entry in packs:
        store.put(entry.key, pack)
    result = ChunkTable(len(data), packs, tuple(chunks))
    stored = table.dump(result)
    blob = Blob(hashlib.sha256(stored).digest(), len(stored))
    found = Statement(
        name=name,
        image_size=len(data),
        digest=result.digest,
        table=blob,
        architecture="x86_64",
        boot_modes=("bios",),
        sector_size=512,
        created=1_700_000_000,
    )
    store.put(found.table_key, stored)
    store.put(found.key, envelope.seal(statement.dump(found)))
    return catalog.fetch_image(store, name)
