"""What a store can do, and which keys it may hold.

A store keeps whole immutable objects under short ASCII keys. It promises nothing about what the
bytes mean: readers decide with their own SHA-256, so no implementation spends time on checksums.
A key must not be the folder of another one ('a' beside 'a/b'): directories cannot hold that, nor
can S3 servers which keep objects in one.
"""

import re
from collections.abc import Iterator
from typing import Protocol

from flashboot.errors import UsageError

# S3 allows 1024 bytes; half of it leaves room for the prefix of a store's own address.
MAX_KEY_BYTES = 512

# Everything here needs no escaping in a URL's path, a shell word or a file's name, and no part may
# start with a dot: '.' and '..' cannot occur, and a directory's temporary files hide behind it.
_PART = r"[A-Za-z0-9_+=@~-][A-Za-z0-9._+=@~-]{0,254}"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
_PREFIX = re.compile(rf"(?:{_PART}/)*(?:{_PART})?")


class Store(Protocol):
    """Objects under keys. Every method may be called from many threads at once.

    All methods raise UsageError for a key outside `is_key`, AccessDenied, StoreUnavailable where
    trying again may help, and StoreError where it will not.
    """

    @property
    def url(self) -> str:
        """s3://bucket/prefix or file:///path: how messages name this store."""
        ...

    def get(self, key: str, *, offset: int = 0, length: int | None = None, limit: int) -> bytes:
        """Bytes [offset, offset + length) of the object; up to its end where length is None.

        Never holds more than `limit` bytes plus one buffer, whatever the other side sends.
        Raises ObjectMissing; DocumentTooLarge where more than `limit` bytes are asked for or
        would come; StoreUnavailable where fewer than `length` come, or offset lies beyond the end.
        """
        ...

    def put(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        """Write the whole object, atomically: readers see nothing, or everything.

        False where an object was already there and `replace` is False: nothing was written, and
        of many writers at once exactly one gets True. (After a lost answer and a retry that one
        may be told False too: compare what is there before calling it somebody else's.)
        """
        ...

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None where there is none."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix` ('' for all), in the order of their bytes.

        Objects whose names are no keys (`is_key`) are not ours and are left out.
        """
        ...


def is_key(text: str) -> bool:
    """Whether a store may hold an object of this name."""
    return len(text) <= MAX_KEY_BYTES and _KEY.fullmatch(text) is not None


def require_key(key: str) -> None:
    """Raise UsageError unless `key` may name an object."""
    if not is_key(key):
        raise UsageError(
            f"{key[:80]!r} cannot name an object in a store",
            hint="letters, digits and ._+=@~- between slashes; no part starts with a dot",
        )


def require_prefix(prefix: str) -> None:
    """Raise UsageError unless some key could start with `prefix`."""
    if len(prefix) > MAX_KEY_BYTES or _PREFIX.fullmatch(prefix) is None:
        raise UsageError(f"{prefix[:80]!r} cannot be the start of a key in a store")


def require_range(offset: int, length: int | None, limit: int) -> None:
    """Raise ValueError for a range that is none: a mistake of the caller, not of the store."""
    if offset < 0 or limit < 1 or (length is not None and length < 1):
        raise ValueError(f"no such range: offset {offset}, length {length}, limit {limit}")
