"""Where stored chunks come from: the store, or what was kept of it in memory."""

import threading
from typing import Protocol

from flashboot.flasher.runs import Run
from flashboot.image.table import ChunkTable
from flashboot.store.base import Store


class Source(Protocol):
    """Supplies stored bytes; what they are worth is decided by the reader's SHA-256."""

    def get(self, run: Run) -> bytes:
        """The `run.stored` bytes of `run`, which is not zeroes."""

    def again(self, run: Run) -> bytes:
        """The same from where they come from first, since the ones at hand are wrong."""


class StoreSource:
    """One ranged GET a run; counts what it fetched, in bytes."""

    def __init__(self, store: Store, table: ChunkTable) -> None:
        self._store = store
        self._table = table
        self._lock = threading.Lock()
        self.fetched = 0

    def get(self, run: Run) -> bytes:
        key = self._table.packs[run.pack].key
        data = self._store.get(key, offset=run.offset, length=run.stored, limit=run.stored)
        with self._lock:
            self.fetched += len(data)
        return data

    def again(self, run: Run) -> bytes:
        return self.get(run)


class Payload:
    """Stored chunks kept in memory, up to `room` bytes; the rest is fetched a second time."""

    def __init__(self, behind: Source, *, room: int) -> None:
        self._behind = behind
        self._room = room
        self._kept: dict[Run, bytes] = {}
        self._lock = threading.Lock()

    @property
    def kept_bytes(self) -> int:
        """Bytes held."""
        with self._lock:
            return sum(map(len, self._kept.values()))

    def keep(self, run: Run, stored: bytes) -> None:
        """Hold `stored` if there is room."""
        with self._lock:
            if len(stored) <= self._room:
                self._room -= len(stored)
                self._kept[run] = stored

    def get(self, run: Run) -> bytes:
        with self._lock:
            stored = self._kept.get(run)
        return self._behind.get(run) if stored is None else stored

    def again(self, run: Run) -> bytes:
        return self._behind.again(run)
