"""Quantities and names as people read them."""

import os


def size(count: int) -> str:
    """`count` bytes: '640.0 MiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def number(count: int, noun: str) -> str:
    """'1 file', '12,345 files'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def name(path: bytes | str) -> str:
    """A path that may hold anything, safe on a terminal: what cannot be printed is escaped."""
    text = os.fsdecode(path)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
