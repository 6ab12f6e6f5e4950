"""Which regular files are below some directories: names only, nothing is opened but directories."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from happycache import system

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Name:
    """A directory entry that is a regular file, or was a moment ago."""

    # Index into the roots.
    root: int
    # Relative to that root.
    path: bytes


def walk(
    roots: tuple[bytes, ...],
    *,
    one_file_system: bool,
    unreadable: Callable[[bytes, OSError], None],
) -> Iterator[Name]:
    """Every regular file below `roots`, depth first, names in order.

    Symbolic links are never followed, except that a root itself may be one. Each directory is
    visited once, however many roots or bind mounts lead to it. /proc, /sys and their kind are not
    entered from outside. `unreadable` hears of directories that cannot be listed.
    """
    pseudo = system.pseudo_devices()
    seen: set[tuple[int, int]] = set()
    for index, root in enumerate(roots):
        # (path relative to the root, st_dev of the directory above or None)
        stack: list[tuple[bytes, int | None]] = [(b"", None)]
        while stack:
            relative, above = stack.pop()
            path = os.path.join(root, relative) if relative else root
            try:
                listed = _list(path, follow=not relative)
            except OSError as error:
                # Gone or no directory any more since its parent was read: nothing is lost.
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) or not relative:
                    unreadable(path, error)
                continue
            device, inode, directories, files = listed
            if (device, inode) in seen:
                continue
            seen.add((device, inode))
            if above is not None and device != above and (one_file_system or device in pseudo):
                continue
            prefix = relative + b"/" if relative else b""
            for name in files:
                yield Name(index, prefix + name)
            stack.extend((prefix + name, device) for name in reversed(directories))


def _list(path: bytes, *, follow: bool) -> tuple[int, int, list[bytes], list[bytes]]:
    """(st_dev, st_ino, directories, regular files) of one directory, sorted."""
    fd = os.open(path, _FLAGS if follow else _FLAGS | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        directories: list[bytes] = []
        files: list[bytes] = []
        # By descriptor, so that what was opened and not what stands there now is listed.
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    files.append(os.fsencode(entry.name))
                elif entry.is_dir(follow_symlinks=False):
                    directories.append(os.fsencode(entry.name))
        return status.st_dev, status.st_ino, sorted(directories), sorted(files)
    finally:
        os.close(fd)


def absolute_root(path: str) -> bytes:
    """`path` of a directory as a root: absolute, without dots. Raises OSError."""
    root = os.fsencode(os.path.abspath(path))
    if not stat.S_ISDIR(os.stat(root).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return root
