"""Sending objects: asked for first, not sent where they are there, counted."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from flashboot.errors import StoreError
from flashboot.image.statement import Blob
from flashboot.image.table import Pack
from flashboot.publish.chunks import workers
from flashboot.publish.packs import FullPack
from flashboot.publish.verify import holds
from flashboot.store.base import Store


def uploads_at_once() -> int:
    """Packs in flight: with the one being filled, the bound of what is held of stored bytes.

    A core packs some 20 MB/s and a connection to S3 carries about 90 (AWS: performance
    guidelines), so the connections that latency asks for are enough up to many cores.
    """
    return min(16, 3 + workers() // 4)


class Sender:
    """Sends objects whose key says their content. With `dry_run` it only asks and counts.

    With `repair` it reads what is there and replaces what is wrong; else the length must do.
    """

    def __init__(self, store: Store, *, dry_run: bool = False, repair: bool = False) -> None:
        self.store = store
        self.dry_run = dry_run
        self.repair = repair
        self.sent: list[str] = []  # keys, the replaced ones too
        self.replaced: list[str] = []
        self.bytes_sent = 0
        self.objects_found = 0
        self._lock = threading.Lock()

    def send(self, key: str, data: bytes) -> None:
        """Make sure that the store has `data` under `key`. Raises what the store raises."""
        size = self.store.size(key)
        if size is None:
            if self.dry_run or self.store.put(key, data):
                self.count_sent(key, len(data))
                return
            # Somebody else was faster, or it was us and the answer was lost.
            size = self.store.size(key)
        if self.repair:
            if not holds(self.store, key, Blob(hashlib.sha256(data).digest(), len(data))):
                self.replace(key, data)
                return
        else:
            require_length(self.store, key, found=size, wanted=len(data))
        with self._lock:
            self.objects_found += 1

    def replace(self, key: str, data: bytes) -> None:
        """Put `data` under `key`, whatever is there. Raises what the store raises."""
        if not self.dry_run:
            self.store.put(key, data, replace=True)
        self.count_sent(key, len(data))
        with self._lock:
            self.replaced.append(key)

    def count_sent(self, key: str, length: int) -> None:
        """The object `key` of `length` bytes was sent."""
        with self._lock:
            self.sent.append(key)
            self.bytes_sent += length


def require_length(store: Store, key: str, *, found: int | None, wanted: int) -> None:
    """Raise StoreError where the object has another length than its name stands for."""
    if found != wanted:
        there = "is not there" if found is None else f"has {found} bytes"
        raise StoreError(
            store.url,
            f"object {key} {there}, {wanted} are expected",
            hint="somebody deleted or wrote there; `flashboot image publish --repair` mends it",
        )


class PackUploads:
    """Packs on their way into the store, a few at once: `send(key, data)` is called from threads.

    `done(index, pack)` is called in the thread that calls `start` or `wait`.
    """

    def __init__(
        self, send: Callable[[str, bytes], None], *, done: Callable[[int, Pack], None]
    ) -> None:
        self._send = send
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
        self._send(pack.key, data)
        return pack
