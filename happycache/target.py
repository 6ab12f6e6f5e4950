"""Is a file on this system still the one in the map? Pure but for `examine`."""

import os
import stat
from dataclasses import dataclass
from enum import Enum

from happycache.mapfile import FileEntry


class FileState(Enum):
    """What became of a file since the dump."""

    SAME = "same"
    # The same inode, written to: newer or longer. Its pages are loaded.
    CHANGED = "changed"
    # The same inode, shorter: the pages that still exist are loaded.
    SHRUNK = "shrunk"
    # Another file, or no regular file, under the same name: not loaded.
    REPLACED = "replaced"
    GONE = "gone"
    # Cannot be opened, or the kernel does not tell this caller its residency.
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is known by.

    Not by st_dev: the number of an NVMe disk may differ after every boot.
    """

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, entry: FileEntry) -> "Identity":
        """The identity that a map gives."""
        return cls(entry.inode, entry.size, entry.mtime_ns)


def judge(then: Identity, now: os.stat_result) -> FileState:
    """The state of a file that was `then` and is `now`."""
    if not stat.S_ISREG(now.st_mode) or now.st_ino != then.inode:
        return FileState.REPLACED
    if now.st_size < then.size:
        return FileState.SHRUNK
    if now.st_size != then.size or now.st_mtime_ns != then.mtime_ns:
        return FileState.CHANGED
    return FileState.SAME
