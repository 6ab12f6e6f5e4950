"""Does a store still hold what it published? Every stored byte that an image needs is fetched.

The other question, whether a device holds an image, is the flasher's.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from flashboot.errors import DigestMismatch, MalformedDocument, ObjectMissing
from flashboot.image import codec
from flashboot.image.statement import Blob, RamOs
from flashboot.image.table import ChunkTable, Location, Pack
from flashboot.store import catalog
from flashboot.store.base import Store
from flashboot.store.catalog import Published
from flashboot.units import MIB

FETCH_BYTES = 4 * MIB  # one ranged GET; anchors: as fast as larger ones
MIN_FETCHERS = 8  # S3 answers one connection slowly and many well

# Called with stored bytes done and in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wrong:
    """An object, or a stored chunk in it, that is not what was published.

    `chunk` is its first index in the image, None for a whole object.
    """

    key: str
    chunk: int | None
    problem: str


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """`stored_chunks` are distinct ones; with a quick check none of them is read."""

    stored_chunks: int
    bytes_read: int
    packs: int
    wrong: tuple[Wrong, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Neighbours in a pack: [offset, offset + length) holds these chunks, by their first index."""

    pack: int
    offset: int
    length: int
    chunks: tuple[tuple[int, Location], ...]


def verify_stored(
    published: Published,
    store: Store,
    *,
    quick: bool = False,
    progress: Progress = lambda done, total: None,
) -> StoreCheck:
    """Compare what `store` holds with what `published` promises.

    All packs are asked for their length; unless `quick`, all stored chunks are fetched, unpacked
    and hashed, and so is the RAM OS. Raises what the store raises, but for missing objects.
    """
    check = _Check(store, published.table, progress)
    fetchers = max(MIN_FETCHERS, len(os.sched_getaffinity(0)) + 1)
    with ThreadPoolExecutor(fetchers, thread_name_prefix="check") as executor:
        # Pieces are small and so are their answers: only what is being fetched takes memory.
        wrong = list(chain.from_iterable(executor.map(check.pack, range(len(check.table.packs)))))
        if not quick:
            wrong_packs = {fault.key for fault in wrong}
            pieces = [p for p in _pieces(check.table) if check.key(p) not in wrong_packs]
            check.total = sum(piece.length for piece in pieces)
            wrong += chain.from_iterable(executor.map(check.piece, pieces))
    if published.statement.ramos is not None:
        wrong += _check_ramos(store, published.statement.ramos, quick=quick)
    return StoreCheck(
        stored_chunks=len({location for _, _, location in check.table.stored_chunks()}),
        bytes_read=check.done,
        packs=len(check.table.packs),
        wrong=tuple(wrong),
    )


def holds(store: Store, key: str, blob: Blob) -> bool:
    """Whether the object at `key` is `blob`: fetched and hashed, a little of it held at a time."""
    if store.size(key) != blob.length:
        return False
    found = hashlib.sha256()
    try:
        for offset in range(0, blob.length, FETCH_BYTES):
            length = min(FETCH_BYTES, blob.length - offset)
            found.update(store.get(key, offset=offset, length=length, limit=length))
    except ObjectMissing:
        return False
    return found.digest() == blob.digest


def damaged(store: Store, packs: Iterable[Pack]) -> tuple[Pack, ...]:
    """Those of `packs` that `store` lacks or holds wrong; every byte of them is fetched."""
    asked = tuple(packs)
    with ThreadPoolExecutor(MIN_FETCHERS, thread_name_prefix="check") as executor:
        answers = executor.map(lambda p: holds(store, p.key, Blob(p.digest, p.length)), asked)
        return tuple(pack for pack, whole in zip(asked, answers, strict=True) if not whole)


class _Check:
    """The work on one image, from many threads."""

    def __init__(self, store: Store, table: ChunkTable, progress: Progress) -> None:
        self.table = table
        self.done = self.total = 0  # stored bytes
        self._store = store
        self._progress = progress
        self._lock = threading.Lock()

    def key(self, piece: _Piece) -> str:
        return self.table.packs[piece.pack].key

    def pack(self, index: int) -> list[Wrong]:
        """Whether the pack is there, with its length."""
        pack = self.table.packs[index]
        found = self._store.size(pack.key)
        if found == pack.length:
            return []
        problem = "it is not there" if found is None else f"it has {found} of {pack.length} bytes"
        return [Wrong(pack.key, None, problem)]

    def piece(self, piece: _Piece) -> list[Wrong]:
        """Whether its chunks are what the table says."""
        key = self.key(piece)
        try:
            data = self._store.get(
                key, offset=piece.offset, length=piece.length, limit=piece.length
            )
        except ObjectMissing:
            return [Wrong(key, index, "its pack went away") for index, _ in piece.chunks]
        wrong = []
        for index, place in piece.chunks:
            start = place.offset - piece.offset
            problem = self._problem(index, data[start : start + place.stored])
            if problem:
                wrong.append(Wrong(key, index, problem))
        with self._lock:
            self.done += piece.length
            self._progress(self.done, self.total)
        return wrong

    def _problem(self, index: int, stored: bytes) -> str:
        try:
            plain = codec.decompress(stored, self.table.length_of(index))
        except MalformedDocument as error:
            return str(error)
        found, wanted = hashlib.sha256(plain), self.table.chunks[index].digest
        if found.digest() == wanted:
            return ""
        return f"digest {wanted.hex()} was promised, {found.hexdigest()} was found"


def _pieces(table: ChunkTable) -> Iterator[_Piece]:
    """All distinct stored chunks, in runs of neighbours of at most FETCH_BYTES."""
    first: dict[tuple[Location, bytes], int] = {}
    for index, chunk, place in table.stored_chunks():
        first.setdefault((place, chunk.digest), index)
    run: list[tuple[int, Location]] = []
    ordered = sorted(
        (place.pack, place.offset, index, place) for (place, _), index in first.items()
    )
    for _, _, index, place in ordered:
        if run:
            start, last = run[0][1], run[-1][1]
            neighbour = (place.pack, place.offset) == (last.pack, last.offset + last.stored)
            if not neighbour or place.offset + place.stored - start.offset > FETCH_BYTES:
                yield _piece(run)
                run = []
        run.append((index, place))
    if run:
        yield _piece(run)


def _piece(run: list[tuple[int, Location]]) -> _Piece:
    start, last = run[0][1], run[-1][1]
    return _Piece(start.pack, start.offset, last.offset + last.stored - start.offset, tuple(run))


def _check_ramos(store: Store, ramos: RamOs, *, quick: bool) -> Iterator[Wrong]:
    parts: tuple[tuple[str, Blob], ...] = (("kernel", ramos.kernel), ("initramfs", ramos.initramfs))
    for part, blob in parts:
        key = f"{ramos.prefix}/{part}"
        found = store.size(key)
        if found != blob.length:
            there = "it is not there" if found is None else f"it has {found} bytes"
            yield Wrong(key, None, f"{there}, {blob.length} were promised")
        elif not quick:
            try:
                catalog.fetch_blob(store, key, blob, what=part)
            except DigestMismatch as error:
                yield Wrong(key, None, str(error))
