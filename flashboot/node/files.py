"""Small files that must be there whole, or not at all, also after a power cut."""

import os
from pathlib import Path

from flashboot.errors import MachineError
from flashboot.machine.reasons import reason
from flashboot.units import MIB

_MAX_BYTES = 1 * MIB


def write(path: Path, data: bytes) -> None:
    """Put `data` at `path`, for its owner's eyes: atomically, and on the disk when it returns.

    Missing directories are made. Raises MachineError.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise MachineError(path, f"cannot be written: {reason(error)}") from error


def read(path: Path, *, cap: int = _MAX_BYTES) -> bytes | None:
    """What lies at `path`, `cap` bytes at most; None where nothing does. Raises MachineError."""
    try:
        with path.open("rb") as file:
            return file.read(cap)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MachineError(path, f"cannot be read: {reason(error)}") from error


def remove(path: Path) -> bool:
    """Remove the file at `path`; whether there was one. Raises MachineError."""
    try:
        path.unlink()
        sync_directory(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise MachineError(path, f"cannot be removed: {reason(error)}") from error
    return True


def rename(path: Path, name: str) -> None:
    """Give the file at `path` another name in its directory. Raises MachineError."""
    try:
        path.replace(path.with_name(name))
        sync_directory(path.parent)
    except OSError as error:
        raise MachineError(path, f"cannot be renamed: {reason(error)}") from error


def sync_directory(path: Path) -> None:
    """Names in `path` survive a power cut from here on (fsync(2) of a directory)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
