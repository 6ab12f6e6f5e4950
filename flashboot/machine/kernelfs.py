"""How /proc, /sys and /run are read: small files, from roots that a test may replace."""

import os
from dataclasses import dataclass
from typing import NamedTuple, Self

from flashboot.errors import MachineError
from flashboot.machine.reasons import reason


@dataclass(frozen=True, slots=True)
class Tree:
    """Where the kernel's files lie."""

    proc: str = "/proc"
    sys: str = "/sys"
    dev: str = "/dev"
    run: str = "/run"


LIVE = Tree()


class DeviceNumber(NamedTuple):
    """A block device's number, the one name that does not lie about which device is meant."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From '259:0'; ValueError where it is none."""
        major, minor = text.strip().split(":")
        return cls(int(major), int(minor))

    @classmethod
    def of(cls, device: int) -> Self:
        """From the st_dev or st_rdev of stat(2)."""
        return cls(os.major(device), os.minor(device))

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"


def read_bytes(path: str) -> bytes:
    """All of a kernel file; MachineError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise MachineError(path, f"cannot be read: {reason(error)}") from error


def read_text(path: str) -> str:
    """All of a kernel file as text; MachineError where it cannot be read."""
    return os.fsdecode(read_bytes(path))


def attribute(path: str) -> str | None:
    """A one-value file without the white space around it; None where it is not there.

    sysfs answers some reads with ENODEV, EINVAL or EIO while a device comes or goes: for a reader
    that is the same as no value.
    """
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read()).strip()
    except OSError:
        return None


def number(path: str) -> int | None:
    """A one-value file as an integer; None where it is not there or no number."""
    text = attribute(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def names(path: str) -> tuple[str, ...]:
    """A directory's entries, sorted; none where it is not there."""
    try:
        return tuple(sorted(os.listdir(path)))
    except OSError:
        return ()
