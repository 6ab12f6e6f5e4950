"""What the kernel knows of the page cache: the only home of ctypes here.

One thin function per call. Nothing here reads a page of a file: mincore looks at a mapping that is
never touched, cachestat at the cache itself.
"""

import ctypes
import errno
import functools
import os

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

# include/uapi/asm-generic/unistd.h; the same number on every architecture but alpha.
_SYS_CACHESTAT = 451
# include/uapi/asm-generic/mman-common.h
_PROT_NONE = 0
_MAP_SHARED = 1
_MAP_FAILED = ctypes.c_void_p(-1).value
# How far behind a file's end `residency_hidden` looks: a file that grows meanwhile does not reach
# it, nor do the Merkle tree pages that fs-verity keeps behind the end (below 1/100 of the file).
_BEYOND = 1 << 30
# include/uapi/linux/capability.h
_CAP_FOWNER = 3
# What stat(2) says of an owner that has no number here (/proc/sys/kernel/overflowuid).
_OVERFLOW_UID = 65534
# mincore(2): only the lowest bit of each byte is defined.
_LOWEST_BIT = bytes(value & 1 for value in range(256))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    # off_t: 64 bits wide on every 64-bit Linux.
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_libc.syscall.restype = ctypes.c_long


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Statistics(ctypes.Structure):
    _fields_ = (
        ("cached", ctypes.c_uint64),
        ("dirty", ctypes.c_uint64),
        ("writeback", ctypes.c_uint64),
        ("evicted", ctypes.c_uint64),
        ("recently_evicted", ctypes.c_uint64),
    )


class _Cachestat:
    """Whether the kernel has cachestat(2): unknown is taken for yes until it says no."""

    there = True


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def cached_pages(fd: int, *, offset: int, length: int) -> int | None:
    """Pages of [offset, offset + length) bytes of `fd` in the cache, by cachestat(2).

    None where the kernel does not say: before Linux 6.5 (cf264e1329fb), on hugetlbfs, behind a
    seccomp filter, or for files of others (newer kernels refuse those with EPERM).
    Counts pages whose read is still in flight, which mincore does not: zero is certain, other
    numbers are hints.
    """
    if not _Cachestat.there:
        return None
    statistics = _Statistics()
    result = _libc.syscall(
        ctypes.c_long(_SYS_CACHESTAT),
        ctypes.c_long(fd),
        ctypes.byref(_Range(offset, length)),
        ctypes.byref(statistics),
        ctypes.c_long(0),
    )
    if result == 0:
        return int(statistics.cached)
    if ctypes.get_errno() == errno.ENOSYS:
        _Cachestat.there = False
    return None


def resident_flags(fd: int, *, first: int, count: int) -> bytearray:
    """One byte for each of `count` pages from page `first` on: 1 resident and up to date, else 0.

    mincore(2) over a mapping without any access right. Raises OSError: ENODEV where the filesystem
    cannot map files. Trap: says 1 for everything where `residency_hidden` holds.
    """
    length = count * PAGE_SIZE
    address = _libc.mmap(None, length, _PROT_NONE, _MAP_SHARED, fd, first * PAGE_SIZE)
    if address == _MAP_FAILED:
        raise _failure()
    # A buffer of each call's own: threads that share one read each other's answers.
    flags = bytearray(count)
    try:
        target = ctypes.c_char.from_buffer(flags)
        while _libc.mincore(address, length, ctypes.byref(target)) != 0:
            if ctypes.get_errno() != errno.EAGAIN:
                raise _failure()
    finally:
        _libc.munmap(address, length)
    return flags.translate(_LOWEST_BIT)


def residency_hidden(fd: int, status: os.stat_result) -> bool:
    """Whether mincore lies to this caller about the file `fd`, whose fstat is `status`.

    Since Linux 5.2 (134fca9063ad) it says "resident" for every page to those who neither own the
    file (or have CAP_FOWNER over its owner) nor may write it. A page far behind the end is resident
    for nobody, so a yes there is the lie itself; no guess about id-mapped mounts or ACLs is needed.
    The two certain cases are not asked: that would double the calls for small files.
    """
    if status.st_uid == os.geteuid() or (_owns_all() and status.st_uid != _OVERFLOW_UID):
        return False
    beyond = (status.st_size + _BEYOND) // PAGE_SIZE + 1
    try:
        return resident_flags(fd, first=beyond, count=1) != b"\x00"
    except OSError as error:
        if error.errno not in (errno.EOVERFLOW, errno.EINVAL):
            raise
    # The filesystem has no offsets that far up: the next page has to do.
    return resident_flags(fd, first=-(-status.st_size // PAGE_SIZE), count=1) != b"\x00"


@functools.cache
def _owns_all() -> bool:
    """Whether this process counts as owner of every file whose owner it can see.

    That is CAP_FOWNER in a user namespace that maps all users (capabilities(7)).
    """
    try:
        with open("/proc/self/status", "rb") as file:
            effective = next(line for line in file if line.startswith(b"CapEff:"))
        with open("/proc/self/uid_map", "rb") as file:
            mapping = file.read().split()
        capabilities = int(effective.split()[1], 16)
    except (OSError, ValueError, IndexError, StopIteration):
        return False
    return bool(capabilities >> _CAP_FOWNER & 1) and mapping == [b"0", b"0", b"4294967295"]


def open_quietly(path: bytes) -> int:
    """A descriptor for reading `path`, no symbolic link. Raises OSError.

    O_NOATIME: to look at a file must not dirty its inode (only owners may ask, so others go on
    without). O_NONBLOCK: a name that has become a FIFO must not hang us.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
    return os.open(path, flags)


def will_need(fd: int, *, offset: int, length: int) -> None:
    """Starts reading bytes of `fd` into the cache (posix_fadvise(2)) and mostly does not wait.

    One call reads at most max(read-ahead, max_sectors_kb) of the device (mm/readahead.c,
    force_page_cache_readahead): ask for more and the rest is dropped in silence.
    """
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)


def expect_random(fd: int) -> None:
    """Reads of this descriptor bring what they ask for and nothing around it."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
