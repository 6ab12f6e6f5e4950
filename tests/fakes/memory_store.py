"""A store in a dictionary, with counters and hooks that make it misbehave.

It passes the same contract as the real ones (tests/contract/test_store_contract.py).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from flashboot.errors import DocumentTooLarge, ObjectMissing, StoreUnavailable
from flashboot.store.base import require_key, require_prefix, require_range


@dataclass(slots=True, kw_only=True)
class MemoryStore:
    """Objects in memory.

    `fault(operation, key)` runs before every operation ('get', 'put', 'size', 'keys') and may
    raise, sleep or change `objects`; `spoil(key, data)` may change what a get delivers, after
    ranges were cut: truncate it, flip a bit.
    """

    url: str = "s3://memory/store"
    objects: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[[str, str], None] | None = None
    spoil: Callable[[str, bytes], bytes] | None = None
    gets: Counter[str] = field(default_factory=Counter)
    puts: Counter[str] = field(default_factory=Counter)
    ranges: list[tuple[str, int, int | None]] = field(default_factory=list)
    bytes_read: int = 0
    bytes_written: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def get(self, key: str, *, offset: int = 0, length: int | None = None, limit: int) -> bytes:
        require_key(key)
        require_range(offset, length, limit)
        if length is not None and length > limit:
            raise DocumentTooLarge(f"object {key} at {self.url}", length, limit)
        with self.lock:
            self.gets[key] += 1
            self.ranges.append((key, offset, length))
        self._misbehave("get", key)
        with self.lock:
            whole = self.objects.get(key)
        if whole is None:
            raise ObjectMissing(self.url, key)
        data = whole[offset:] if length is None else whole[offset : offset + length]
        if self.spoil is not None:
            data = self.spoil(key, data)
        if len(data) > limit:
            raise DocumentTooLarge(f"object {key} at {self.url}", len(data), limit)
        if (length is not None and len(data) != length) or (offset and offset >= len(whole)):
            raise StoreUnavailable(self.url, key, f"{len(data)} bytes came, not {length}")
        with self.lock:
            self.bytes_read += len(data)
        return data

    def put(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        require_key(key)
        self._misbehave("put", key)
        with self.lock:
            self.puts[key] += 1
            if key in self.objects and not replace:
                return False
            self.objects[key] = bytes(data)
            self.bytes_written += len(data)
            return True

    def size(self, key: str) -> int | None:
        require_key(key)
        self._misbehave("size", key)
        with self.lock:
            found = self.objects.get(key)
        return None if found is None else len(found)

    def keys(self, prefix: str) -> Iterator[str]:
        require_prefix(prefix)
        self._misbehave("keys", prefix)
        with self.lock:
            found = sorted(key for key in self.objects if key.startswith(prefix))
        yield from found

    def _misbehave(self, operation: str, key: str) -> None:
        if self.fault is not None:
            self.fault(operation, key)
