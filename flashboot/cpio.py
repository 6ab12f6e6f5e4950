"""The newc cpio archive: what the kernel unpacks as an initramfs, and what carries the handoff.

Bytes in, bytes out, no I/O. The same entries always give the same bytes: owner, time and inode
numbers are not taken from anywhere. Not a general cpio: no hard links, no names that climb.
Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree.
"""

import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MAGIC = b"070701"
# Thirteen fields of eight hexadecimal digits, in this order, after the magic.
_FIELDS = "ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check"
_ORDER = {name: index for index, name in enumerate(_FIELDS.split())}
_HEADER_LENGTH = len(_MAGIC) + 8 * len(_ORDER)
_HEADER = re.compile(rb"[0-9A-Fa-f]{%d}" % (8 * len(_ORDER)))
_TRAILER = "TRAILER!!!"
# The kernel takes file names up to PATH_MAX, the NUL included (init/initramfs.c).
_NAME_LIMIT = 4096
_FIELD_LIMIT = 1 << 32
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory, symbolic link or device node; `data` is content or the link's target.

    Raises ValueError where the kernel would not unpack what is meant.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        parts = self.name.split("/")
        if self.name == _TRAILER or "\0" in self.name or {"", ".", ".."} & set(parts):
            raise ValueError(f"not a plain relative path: {self.name!r}")
        if len(self.name.encode()) >= _NAME_LIMIT:
            raise ValueError(f"a name of {len(self.name.encode())} bytes is too long")
        if len(self.data) >= _FIELD_LIMIT:
            raise ValueError(f"{self.name} is too large for cpio: {len(self.data)} bytes")
        if self.data and not (stat.S_ISREG(self.mode) or stat.S_ISLNK(self.mode)):
            raise ValueError(f"{self.name} cannot have content: mode {self.mode:o}")
        if self.device != (0, 0) and stat.S_IFMT(self.mode) not in _DEVICES:
            raise ValueError(f"{self.name} cannot have a device number: mode {self.mode:o}")
        if stat.S_IFMT(self.mode) == 0 or self.mode >= 1 << 16:
            raise ValueError(f"{self.name} has no type: mode {self.mode:o}")
        if not all(0 <= number < _FIELD_LIMIT for number in self.device):
            raise ValueError(f"{self.name} has a device number out of range: {self.device}")


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(name, stat.S_IFREG | mode, data)


def directory(name: str, mode: int = 0o755) -> Entry:
    """A directory; the kernel makes no missing parents, so list it before what lies in it."""
    return Entry(name, stat.S_IFDIR | mode)


def symlink(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node; needs no privilege to archive."""
    return Entry(name, stat.S_IFCHR | mode, device=(major, minor))


def with_parents(entries: Iterable[Entry], mode: int = 0o755) -> list[Entry]:
    """`entries` in the order of their paths, with the directories that are missing above them."""
    known = {entry.name: entry for entry in entries}
    for name in list(known):
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            known.setdefault(parent, directory(parent, mode))
    return [known[name] for name in sorted(known, key=lambda name: name.split("/"))]


def write(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The archive of `entries` in their order, piece by piece; its length is a multiple of four."""
    for number, entry in enumerate(entries, start=1):
        yield from _record(number, entry.mode, entry.name, entry.data, entry.device)
    yield from _record(0, 0, _TRAILER, b"", (0, 0))


def pack(entries: Iterable[Entry]) -> bytes:
    """The archive of `entries` as one value."""
    return b"".join(write(entries))


def read(archive: bytes) -> Iterator[Entry]:
    """The entries of `archive`, in order. Raises ValueError where it is not one we would write.

    Zero bytes may follow the trailer, anything else may not.
    """
    offset = 0
    while True:
        fields = _header(archive, offset)
        start = offset + _HEADER_LENGTH
        name_end = start + fields["namesize"]
        data_start = _aligned(name_end)
        data_end = data_start + fields["size"]
        if not 1 < fields["namesize"] <= _NAME_LIMIT or data_end > len(archive):
            raise ValueError(f"the cpio entry at {offset} is cut short")
        raw_name = archive[start:name_end]
        if raw_name[-1:] != b"\0" or b"\0" in raw_name[:-1]:
            raise ValueError(f"the cpio entry at {offset} has a malformed name")
        name = raw_name[:-1].decode()
        offset = _aligned(data_end)
        if name == _TRAILER:
            if archive[data_end:].strip(b"\0"):
                raise ValueError("something follows the end of the cpio archive")
            return
        if fields["nlink"] > 1 and stat.S_ISREG(fields["mode"]):
            raise ValueError(f"{name} is a hard link, which this archive may not hold")
        device = (fields["rdevmajor"], fields["rdevminor"])
        yield Entry(name, fields["mode"], archive[data_start:data_end], device)


def _record(
    number: int, mode: int, name: str, data: bytes, device: tuple[int, int]
) -> Iterator[bytes]:
    raw_name = name.encode() + b"\0"
    values = dict.fromkeys(_ORDER, 0)
    values |= {"ino": number, "mode": mode, "nlink": 1, "size": len(data)}
    values |= {"rdevmajor": device[0], "rdevminor": device[1], "namesize": len(raw_name)}
    header = _MAGIC + b"".join(b"%08X" % values[field] for field in _ORDER)
    yield header + raw_name + _padding(len(header) + len(raw_name))
    if data:
        yield data
        yield _padding(len(data))


def _header(archive: bytes, offset: int) -> dict[str, int]:
    if archive[offset : offset + len(_MAGIC)] != _MAGIC:
        raise ValueError(f"no cpio entry at {offset}")
    digits = archive[offset + len(_MAGIC) : offset + _HEADER_LENGTH]
    if not _HEADER.fullmatch(digits):
        raise ValueError(f"the cpio header at {offset} is malformed")
    return {name: int(digits[8 * at : 8 * at + 8], 16) for name, at in _ORDER.items()}


def _aligned(length: int) -> int:
    return -(-length // 4) * 4


def _padding(length: int) -> bytes:
    return bytes(-length % 4)
