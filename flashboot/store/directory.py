"""A store in a directory: for tests, for machines without S3, for a disk carried by hand."""

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from flashboot.errors import (
    AccessDenied,
    DocumentTooLarge,
    ObjectMissing,
    StoreError,
    StoreUnavailable,
)
from flashboot.store.base import is_key, require_key, require_prefix, require_range

# A network filesystem may come back; a full or read-only one does not by waiting.
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN, errno.ENOMEM}
# One pread per piece; Linux transfers at most 0x7ffff000 bytes a call (read(2)).
_PIECE_BYTES = 64 * 1024 * 1024


class DirectoryStore:
    """Objects as files below a directory, which the first `put` creates inside its parent.

    A file appears whole or not at all: it is written beside its place under a hidden name,
    flushed, then linked (`link(2)` fails where the name is taken, so one of many writers wins) or
    renamed over the old one, and the directory is flushed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.path.abspath(path)

    @property
    def url(self) -> str:
        return "file://" + quote(self.path)

    def get(self, key: str, *, offset: int = 0, length: int | None = None, limit: int) -> bytes:
        require_range(offset, length, limit)
        path = self._path(key)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._translate(error, key) from None
        try:
            size = os.fstat(handle).st_size
            wanted = max(0, size - offset) if length is None else length
            if wanted > limit:
                raise DocumentTooLarge(f"object {key} at {self.url}", wanted, limit)
            data = _read(handle, offset, wanted)
        except OSError as error:
            raise self._translate(error, key) from None
        finally:
            os.close(handle)
        if len(data) != wanted or (offset > 0 and offset >= size):
            reason = f"{len(data)} of {wanted} bytes at {offset}; it has {size}"
            raise StoreUnavailable(self.url, key, reason)
        return data

    def put(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        path = self._path(key)
        try:
            if not replace and os.path.lexists(path):
                return False
            folder = os.path.dirname(path)
            _make_folders(folder, self.path)
            return _write(path, folder, data, replace=replace)
        except OSError as error:
            translated = self._translate(error, key)
            if isinstance(translated, ObjectMissing):
                # A file where a folder must be, or the other way round.
                translated = StoreError(self.url, f"{key}: {error.strerror}")
            raise translated from None

    def size(self, key: str) -> int | None:
        try:
            found = os.stat(self._path(key))
            return found.st_size if stat.S_ISREG(found.st_mode) else None
        except OSError as error:
            translated = self._translate(error, key)
            if isinstance(translated, ObjectMissing):
                return None
            raise translated from None

    def keys(self, prefix: str) -> Iterator[str]:
        require_prefix(prefix)
        # Walk only the folder that the prefix names in full.
        folder = prefix.rpartition("/")[0]
        try:
            for key in _walk(os.path.join(self.path, folder), f"{folder}/" if folder else ""):
                if key.startswith(prefix) and is_key(key):
                    yield key
        except OSError as error:
            translated = self._translate(error, f"{prefix}*")
            if not isinstance(translated, ObjectMissing):
                raise translated from None

    def _path(self, key: str) -> str:
        require_key(key)
        return os.path.join(self.path, key)

    def _translate(self, error: OSError, key: str) -> StoreError:
        """Our sentence for `error`; it says all, so raise it from None."""
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            if not os.path.isdir(self.path):
                return StoreError(
                    self.url,
                    "its directory does not exist",
                    hint="check the address, and that its disk is mounted",
                )
            return ObjectMissing(self.url, key)
        if error.errno in (errno.EACCES, errno.EPERM):
            return AccessDenied(self.url, key, reason)
        if error.errno in _PASSING:
            return StoreUnavailable(self.url, key, reason)
        return StoreError(self.url, f"{key}: {reason}")


def _read(handle: int, offset: int, wanted: int) -> bytes:
    first = os.pread(handle, min(wanted, _PIECE_BYTES), offset)
    if len(first) == wanted:
        return first
    pieces, have = [first], len(first)
    while have < wanted and pieces[-1]:
        pieces.append(os.pread(handle, min(wanted - have, _PIECE_BYTES), offset + have))
        have += len(pieces[-1])
    return b"".join(pieces)


def _write(path: str, folder: str, data: bytes, *, replace: bool) -> bool:
    hidden = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")
    handle = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        if replace:
            os.replace(hidden, path)
        else:
            os.link(hidden, path)
    except FileExistsError:
        return False
    finally:
        # After a rename it is gone already.
        if os.path.lexists(hidden):
            os.unlink(hidden)
    _flush_folder(folder)
    return True


def _make_folders(folder: str, root: str) -> None:
    """Create `folder`, up to and including `root`; what lies above the root must exist.

    Otherwise a path of a disk that is not mounted would quietly be made on the one below it.
    """
    if os.path.isdir(folder):
        return
    if folder != root:
        _make_folders(os.path.dirname(folder), root)
    try:
        os.mkdir(folder)
    except FileExistsError:
        return
    _flush_folder(os.path.dirname(folder))


def _flush_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _walk(folder: str, start: str) -> Iterator[str]:
    """The names of all files below `folder`, each after `start`, in the order of their bytes."""
    with os.scandir(folder) as entries:
        # A folder sorts as its keys do: 'a-b' comes before 'a/b', but 'a' alone before both.
        found = sorted((e.name + "/" if e.is_dir() else e.name) for e in entries)
    for name in found:
        if name.startswith("."):
            continue
        if name.endswith("/"):
            yield from _walk(os.path.join(folder, name), start + name)
        else:
            yield start + name
