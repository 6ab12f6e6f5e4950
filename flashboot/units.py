"""Quantities: sizes in bytes and how people read and write them."""

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_SUFFIXES = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}
# ASCII: without it the Kelvin sign is a K to IGNORECASE, and digits of any script are digits.
_SIZE = re.compile(r"(\d{1,15})\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes meant by `text`: a number, alone or with K, M, G or T (powers of 1024).

    Raises ValueError where it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a size: {text!r} (write for example 512M or 8GiB)")
    return int(match[1]) * _SUFFIXES[(match[2] or "").upper()]


def format_size(count: int) -> str:
    """`count` bytes for people: '640.0 MiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(round(value, 1)) < 1024 or unit == "TiB":
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def format_rate(count: int, seconds: float) -> str:
    """`count` bytes in `seconds` as MiB/s, '-' where no time passed."""
    return f"{count / MIB / seconds:.1f} MiB/s" if seconds > 0 else "-"


def round_up(value: int, unit: int) -> int:
    """The smallest multiple of `unit` that is at least `value`."""
    return -(-value // unit) * unit
