"""Sending objects: asked for first, never sent twice, counted."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from flashboot.errors import StoreError
from flashboot.image.table import Pack
from flashboot.publish.chunks import workers
from flashboot.publish.packs import FullPack
from flashboot.store.base import Store


def uploads_at_once() -> int:
    """Packs in flight: with the one being filled, the bound of what is held of stored bytes.

    A core packs some 20 MB/s and a connection to S3 carries about 90 (AWS: performance
    guidelines), so the connections that latency asks for are enough up to many cores.
    """
    return min(16, 3 + workers() // 4)


class Sender:
    """Sends objects whose key says their content. With `dry_run` it only asks and counts."""

    def __init__(self, store: Store, *, dry_run: bool = False) -> None:
        self.store = store
        self.dry_run = dry_run
        self.objects_sent = 0
        self.bytes_sent = 0
        self.objects_found = 0
        self._lock = threading.Lock()

    def send(self, key: str, data: bytes) -> None:
        """Make sure that the store has `data` under `key`. Raises what the store raises."""
        size = self.store.size(key)
        if size is None:
            if self.dry_run or self.store.put(key, data):
                self.count_sent(len(data))
                return
            # Somebody else was faster, or it was us and the answer was lost.
            size = self.store.size(key)
        require_length(self.store, key, found=size, wanted=len(data))
        with self._lock:
            self.objects_found += 1

    def count_sent(self, length: int) -> None:
        """One object of `length` bytes was sent."""
        with self._lock:
            self.objects_sent += 1
            self.bytes_sent += length


def require_length(store: Store, key: str, *, found: int | None, wanted: int) -> None:
    """Raise StoreError where the object has another length than its name stands for."""
    if found != wanted:
        there = "is not there" if found is None else f"has {found} bytes"
        raise StoreError(
            store.url,
            f"object {key} {there}, {wanted} are expected",
            hint="somebody deleted or wrote there; publish under another name with --no-base",
        )


class PackUploads:
    """Packs on their way into the store, a few at once.

    `done(index, pack)` is called in the thread that calls `start` or `wait`.
    """

    def __init__(self, sender: Sender, *, done: Callable[[int, Pack], None]) -> None:
        self._sender = sender
        self._done = done
        self._limit = uploads_at_once()
        self._executor = ThreadPoolExecutor(self._limit, thread_name_prefix="upload")
        self._pending: deque[tuple[int, Future[Pack]]] = deque()

    def start(self, pack: FullPack) -> None:
        """Begin to send `pack`, waiting for a place. Raises what an earlier one met."""
        while len(self._pending) >= self._limit:
            self._next()
        self._pending.append((pack.index, self._executor.submit(self._upload, pack.frames)))

    def wait(self) -> None:
        """Return when all packs are in the store. Raises what one of them met."""
        while self._pending:
            self._next()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _next(self) -> None:
        index, job = self._pending.popleft()
        self._done(index, job.result())

    def _upload(self, frames: list[bytes]) -> Pack:
        data = b"".join(frames)
        frames.clear()  # the frames and their pack need not both be held
        pack = Pack(hashlib.sha256(data).digest(), len(data))
        self._sender.send(pack.key, data)
        return pack
