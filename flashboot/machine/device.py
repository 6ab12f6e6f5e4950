"""Devices: whole, aligned reads and writes, or an error that says which bytes failed.

Not for finding disks (blockdevices.py), nor for what sector 0 means (heads.py).
Nothing here retries: the programs know what a failure means at their point of the work.
There is no discard, no trim and no write-zeroes: zeroes are written as zeroes, since a discard
does not promise them (Linux 98262f2762f0).
"""

import errno
import fcntl
import os
import stat
import struct
import time
from types import TracebackType
from typing import Final, Protocol, Self

from flashboot.errors import DeviceBusy, DeviceFailed, MachineError
from flashboot.machine.buffers import AlignedBuffer, address_of
from flashboot.machine.reasons import reason

# ioctl numbers of linux/fs.h; the same on x86-64 and arm64 (asm-generic/ioctl.h).
_BLKROSET: Final = 0x125D  # _IO(0x12, 93): int, read-only flag
_BLKROGET: Final = 0x125E  # _IO(0x12, 94)
_BLKRRPART: Final = 0x125F  # _IO(0x12, 95): read the partition table again
_BLKFLSBUF: Final = 0x1261  # _IO(0x12, 97): write back and drop the cache
_BLKSSZGET: Final = 0x1268  # _IO(0x12, 104): int, logical sector in bytes
_BLKGETSIZE64: Final = 0x80081272  # _IOR(0x12, 114, size_t): u64, bytes
_BLKPBSZGET: Final = 0x127B  # _IO(0x12, 123): unsigned int, physical sector in bytes

# A regular file has no sectors; 512 is what every disk image may be cut into.
FILE_SECTOR_BYTES: Final = 512

# udev holds a shared lock while it probes a disk, for some tens of milliseconds
# (systemd.io/BLOCK_DEVICE_LOCKING); after this long somebody else partitions or formats it.
LOCK_PATIENCE_SECONDS: Final = 5.0

# open(2), read(2), write(2), fsync(2)
_MEANINGS = {
    errno.EACCES: "no permission, or the device is read-only",
    errno.EBADF: "it was not opened for this",
    errno.EINVAL: "the kernel refuses this offset, length or memory",
    errno.EIO: "the device reported an I/O error",
    errno.ENODEV: "no driver serves this device node",
    errno.ENOENT: "there is no such device or file",
    errno.ENOMEDIUM: "there is no medium in it",
    errno.ENOSPC: "no space is left",
    errno.ENXIO: "the device is gone",
    errno.EPERM: "the device is read-only, or root is needed",
    errno.EREMOTEIO: "the device reported a failure of its medium",
    errno.EROFS: "the filesystem or device is read-only",
}


class Device(Protocol):
    """What the engine, heads.py and the tests need of a disk.

    Offset, length and memory are multiples of `sector_size`; anything else is DeviceFailed.
    Safe for many threads, as pread(2) and pwrite(2) are.
    """

    @property
    def path(self) -> str:
        """Its name for people and for opening it again."""

    @property
    def size(self) -> int:
        """Bytes, a multiple of the sector size."""

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector: 512 or 4096."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer` from `offset`; DeviceFailed for anything less."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset`; DeviceFailed for anything less."""

    def flush(self) -> None:
        """What was written survives a power cut from here on.

        After DeviceFailed nothing written since the last good flush may be relied on: the kernel
        reports such an error once and forgets it (fsync(2)).
        """


def check_access(device: Device, verb: str, offset: int, memory: memoryview) -> None:
    """DeviceFailed where the rules of `Device` are broken; fakes hold the same rules."""
    length = memory.nbytes
    sector = device.sector_size
    if offset < 0 or offset + length > device.size:
        raise DeviceFailed(
            device.path, verb, length, offset, f"that is beyond its {device.size} bytes"
        )
    if offset % sector or length % sector:
        raise DeviceFailed(
            device.path, verb, length, offset, f"offset and length must be multiples of {sector}"
        )
    if not memory.c_contiguous or address_of(memory) % sector:
        # open(2), NOTES, O_DIRECT: the memory too must be aligned.
        raise DeviceFailed(
            device.path, verb, length, offset, f"the memory is not aligned to {sector} bytes"
        )


class BlockDevice:
    """A block device, or a regular file in its place, opened by `open_device`."""

    def __init__(
        self, descriptor: int, *, path: str, size: int, sector_size: int, block: bool, direct: bool
    ) -> None:
        self._descriptor = descriptor
        self._path = path
        self._size = size
        self._sector_size = sector_size
        self._block = block
        self._direct = direct

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def path(self) -> str:
        """The path it was opened by."""
        return self._path

    @property
    def size(self) -> int:
        """Bytes, read when it was opened."""
        return self._size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector (512 for a regular file)."""
        return self._sector_size

    @property
    def is_block_device(self) -> bool:
        """False for a regular file."""
        return self._block

    @property
    def direct(self) -> bool:
        """True where reads bypass the page cache (O_DIRECT).

        False only for a regular file whose filesystem refuses O_DIRECT: then `flush` also drops
        the cached pages, so that a later read asks the filesystem again.
        """
        return self._direct

    @property
    def physical_sector_size(self) -> int:
        """Bytes that the device writes at once (BLKPBSZGET); the logical size for a file."""
        return self._ask(_BLKPBSZGET, "=I") if self._block else self._sector_size

    @property
    def read_only(self) -> bool:
        """The kernel's read-only flag of the device (BLKROGET); False for a file."""
        return self._block and self._ask(_BLKROGET, "=i") != 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer` from `offset` (preadv(2))."""
        check_access(self, "read", offset, buffer)
        length = buffer.nbytes
        try:
            count = os.preadv(self._descriptor, [buffer], offset) if length else 0
        except OSError as error:
            raise self._failed("read", length, offset, error) from error
        if count != length:
            raise DeviceFailed(self._path, "read", length, offset, f"only {count} bytes came")

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset` (pwritev(2))."""
        check_access(self, "write", offset, data)
        length = data.nbytes
        try:
            count = os.pwritev(self._descriptor, [data], offset) if length else 0
        except OSError as error:
            raise self._failed("write", length, offset, error) from error
        if count != length:
            raise DeviceFailed(self._path, "write", length, offset, f"only {count} bytes went")

    def flush(self) -> None:
        """Make everything written so far survive a power cut (fsync(2))."""
        try:
            os.fsync(self._descriptor)
            if not self._direct:
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._failed("flush", self._size, 0, error) from error

    def drop_cache(self) -> None:
        """Write back and forget what the page cache holds of it (BLKFLSBUF, fadvise(2))."""
        try:
            if self._block:
                fcntl.ioctl(self._descriptor, _BLKFLSBUF, 0)
            else:
                os.fsync(self._descriptor)
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._failed("drop the cache of", self._size, 0, error) from error

    def reread_partitions(self) -> str | None:
        """Ask the kernel to read the partition table again (BLKRRPART).

        None where it did; else why not, in words: a partition in use is no error, since the new
        table holds from the next boot.
        """
        if not self._block:
            return f"{self._path} is a regular file, which has no partitions"
        try:
            fcntl.ioctl(self._descriptor, _BLKRRPART, 0)
        except OSError as error:
            meanings = {
                errno.EBUSY: "a partition is in use, the kernel keeps the old table",
                errno.EINVAL: "this device has no partitions (it is one, or a loop device)",
            }
            if error.errno in meanings:
                return f"{self._path}: {meanings[error.errno]}"
            raise MachineError(
                self._path, f"the partition table was not read again: {reason(error, _MEANINGS)}"
            ) from error
        return None

    def set_read_only(self, *, flag: bool) -> None:
        """Set or clear the kernel's read-only flag of this device (BLKROSET)."""
        if not self._block:
            raise MachineError(self._path, "is a regular file and has no read-only flag")
        try:
            fcntl.ioctl(self._descriptor, _BLKROSET, struct.pack("=i", flag))
        except OSError as error:
            raise MachineError(
                self._path, f"the read-only flag was not set: {reason(error, _MEANINGS)}"
            ) from error

    def close(self) -> None:
        """Give the device and its lock back. May be called twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _ask(self, request: int, layout: str) -> int:
        return _ask(self._descriptor, request, layout, self._path)

    def _failed(self, verb: str, length: int, offset: int, error: OSError) -> DeviceFailed:
        return DeviceFailed(self._path, verb, length, offset, reason(error, _MEANINGS))


def open_device(path: str, *, writable: bool) -> BlockDevice:
    """Open a block device or a regular file; use it with `with`.

    Writable block devices are opened with O_EXCL, which the kernel refuses while the device or a
    partition of it is mounted, swapped on or part of an array (open(2)), and are locked against
    udev and other tools. DeviceBusy then says who uses it; MachineError covers the rest.
    """
    kind = _kind(path)
    if not (stat.S_ISBLK(kind) or stat.S_ISREG(kind)):
        raise MachineError(path, "is neither a block device nor a regular file")
    block = stat.S_ISBLK(kind)
    flags = os.O_CLOEXEC | (os.O_RDWR if writable else os.O_RDONLY)
    if writable and block:
        flags |= os.O_EXCL
    descriptor, direct = _open(path, flags, block=block)
    try:
        # The path may have changed hands since stat(2): judge what was opened.
        status = os.fstat(descriptor)
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(kind):
            raise MachineError(path, "changed its kind while it was being opened")
        if block:
            size = _ask(descriptor, _BLKGETSIZE64, "=Q", path)
            sector_size = _ask(descriptor, _BLKSSZGET, "=i", path)
            if writable:
                if _ask(descriptor, _BLKROGET, "=i", path):
                    raise MachineError(path, "is read-only (BLKROGET)")
                _lock(descriptor, path)
        else:
            size, sector_size = status.st_size, FILE_SECTOR_BYTES
        if size % sector_size:
            raise MachineError(path, f"{size} bytes are no multiple of {sector_size}")
    except BaseException:
        os.close(descriptor)
        raise
    return BlockDevice(
        descriptor, path=path, size=size, sector_size=sector_size, block=block, direct=direct
    )


def _kind(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError as error:
        raise MachineError(path, f"cannot be opened: {reason(error, _MEANINGS)}") from error


def _open(path: str, flags: int, *, block: bool) -> tuple[int, bool]:
    """A descriptor and whether it is O_DIRECT."""
    try:
        descriptor = os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DeviceBusy(path, _users(path)) from error
        if block or error.errno != errno.EINVAL:
            raise MachineError(path, f"cannot be opened: {reason(error, _MEANINGS)}") from error
    else:
        if block or _takes_direct(descriptor):
            return descriptor, True
        os.close(descriptor)
    try:
        return os.open(path, flags), False
    except OSError as error:
        raise MachineError(path, f"cannot be opened: {reason(error, _MEANINGS)}") from error


def _takes_direct(descriptor: int) -> bool:
    """False where a file's filesystem wants more than 512-byte alignment, or refuses at use."""
    probe = AlignedBuffer(FILE_SECTOR_BYTES)
    try:
        os.preadv(descriptor, [probe.view], 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        probe.close()
    return True


def _ask(descriptor: int, request: int, layout: str, path: str) -> int:
    try:
        answer = fcntl.ioctl(descriptor, request, bytes(struct.calcsize(layout)))
    except OSError as error:
        raise MachineError(
            path, f"does not answer ioctl {request:#x}: {reason(error, _MEANINGS)}"
        ) from error
    return int(struct.unpack(layout, answer)[0])


def _lock(descriptor: int, path: str) -> None:
    """Hold the advisory lock that keeps udev and partitioners away until close."""
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise DeviceBusy(path, "another program holds its lock (flock)") from error
            time.sleep(0.05)
        else:
            return


def _users(path: str) -> str:
    # Imported here: only this refusal needs them, and the RAM OS should not pay for it.
    from flashboot.machine.blockdevices import users_of

    try:
        users = users_of(os.stat(path).st_rdev)
    except (OSError, MachineError) as error:
        return f"the kernel does not say by whom ({error})"
    return "; ".join(users) or "the kernel does not say by whom"
