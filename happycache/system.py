"""What /proc and /sys say: the queue limits of devices, memory, kinds of filesystems."""

import os

KIB = 1024
MIB = 1024 * KIB

# EBS counts up to 256 KiB as one I/O; larger pieces measured no faster, smaller ones up to 2.3
# times slower on a volume with an IOPS limit (2.13 GB wanted, 16,000 IOPS).
PIECE_LIMIT_BYTES = 256 * KIB
# The kernel's default read-ahead, which one advice may always fetch.
PIECE_UNKNOWN_BYTES = 128 * KIB

# Filesystems without a backing store that could be read again: their files are never worth a map,
# and opening some of them has effects.
_PSEUDO = frozenset(
    b"autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs hugetlbfs "
    b"mqueue nsfs proc pstore ramfs securityfs selinuxfs sysfs tmpfs tracefs".split()
)


def piece_bytes(device: int, *, sys_block: str = "/sys/dev/block") -> int:
    """Bytes one read-ahead advice for a file on `device` (st_dev) may name."""
    node = os.path.realpath(f"{sys_block}/{os.major(device)}:{os.minor(device)}")
    # A partition has no queue of its own: its folder lies in that of its disk.
    for folder in (node, os.path.dirname(node)):
        try:
            with open(f"{folder}/queue/max_sectors_kb", "rb") as file:
                limit = int(file.read(32)) * KIB
        except (OSError, ValueError):
            continue
        if limit >= 4 * KIB:
            return min(limit, PIECE_LIMIT_BYTES)
    # Btrfs, NFS, overlayfs: st_dev names no block device.
    return PIECE_UNKNOWN_BYTES


def memory(path: str = "/proc/meminfo") -> tuple[int, int] | None:
    """(MemTotal, MemAvailable) in bytes (proc(5)); None where the kernel does not say."""
    found: dict[bytes, int] = {}
    try:
        with open(path, "rb") as file:
            for line in file:
                name, _, rest = line.partition(b":")
                if name in (b"MemTotal", b"MemAvailable"):
                    found[name] = int(rest.split()[0]) * KIB
                if len(found) == 2:
                    return found[b"MemTotal"], found[b"MemAvailable"]
    except (OSError, ValueError, IndexError):
        pass
    return None


def pseudo_devices(path: str = "/proc/self/mountinfo") -> frozenset[int]:
    """st_dev of every mounted filesystem that no disk is behind (proc(5), mountinfo)."""
    devices = set()
    try:
        with open(path, "rb") as file:
            for line in file:
                left, _, right = line.partition(b" - ")
                if right.split(b" ", 1)[0] in _PSEUDO:
                    major, _, minor = left.split()[2].partition(b":")
                    devices.add(os.makedev(int(major), int(minor)))
    except (OSError, ValueError, IndexError):
        pass
    return frozenset(devices)
