"""A file that is either wholly there or not at all, also after a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def replacing(path: bytes) -> Iterator[BinaryIO]:
    """A stream whose bytes stand at `path` when the block ends well; else nothing changed.

    Written beside `path` with mode 0600 (a map tells names of files), flushed, renamed, and the
    folder flushed: rename(2) is atomic, but only fsync makes it last. Raises OSError.
    """
    folder, name = os.path.split(path)
    temporary = b".%s.%s.tmp" % (name, os.urandom(4).hex().encode())
    # All goes through one descriptor, so that it stays one folder. (tempfile would do, but its
    # import costs as much as the rest of the program.)
    at = os.open(folder or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=at)
        try:
            with os.fdopen(fd, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=at)
            raise
        os.fsync(at)
    finally:
        os.close(at)
