"""Who may enter by the RAM OS's rescue door, where everybody is root.

Root, who called sudo, and the people who may become root on this system anyway. On most images
the last are all there is: cloud-init closes root's keys with a command that says who to log in as.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flashboot.errors import FlashbootError, MachineError
from flashboot.node import files
from flashboot.units import KIB

_GROUPS = {"sudo", "wheel", "admin"}
# cloud-init names its users here; on RHEL and its kin they are in no group of the above. The group
# adm, in which they are, is for reading logs.
_CLOUD_USERS = "sudoers.d/90-cloud-init-users"
_NO_SHELLS = {"nologin", "false", "sync", "shutdown", "halt"}
_MAX_PEOPLE = 64
_MAX_BYTES = 64 * KIB

# No options but those that dropbear takes and that leave a shell: it refuses lines with others,
# `from=` among them (svr-authpubkeyoptions.c), and a forced command says no or does its one thing.
_OPENS = re.compile(
    rb"((no-port-forwarding|no-agent-forwarding|no-x11-forwarding|no-pty)[, ]\s*)*"
    rb"(ssh|ecdsa|sk)-\S+\s+\S",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Person:
    """A user of this system."""

    name: str
    uid: int
    home: Path


@dataclass(frozen=True, slots=True)
class Guests:
    """`keys` is the door's authorized_keys, `sources` say whose they are."""

    keys: bytes = b""
    sources: tuple[str, ...] = ()


def guests(etc: Path, *, people: tuple[Person, ...] = (), further: tuple[Path, ...] = ()) -> Guests:
    """The keys in the files `further`, of `people`, and of whoever `etc` says may become root.

    Raises MachineError for a file of `further` without a key that opens the door; other files
    are left out where they cannot be read or trusted.
    """
    lines: list[bytes] = []
    sources: list[str] = []
    for path in further:
        found = _opening(_named(path))
        if not found:
            raise MachineError(path, "has no key that opens the rescue door")
        lines += found
        sources.append(str(path))
    everybody = dict.fromkeys((*people, *_trusted(etc)))
    for person in list(everybody)[:_MAX_PEOPLE]:
        found = _opening(_own(person))
        lines += found
        sources += [person.name] if found else []
    return Guests(b"".join(line + b"\n" for line in dict.fromkeys(lines)), tuple(sources))


def _opening(data: bytes) -> list[bytes]:
    return [line for line in map(bytes.strip, data.splitlines()) if _OPENS.match(line)]


def _named(path: Path) -> bytes:
    data = files.read(path)
    if data is None:
        raise MachineError(path, "is not there")
    return data


def _own(person: Person) -> bytes:
    """The person's authorized_keys, b'' where sshd would not trust it either (StrictModes)."""
    try:
        home = person.home.resolve()
        path = (home / ".ssh/authorized_keys").resolve()
        if not path.is_relative_to(home):
            return b""
        # A pipe must not hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError):  # RuntimeError: links that go round
        return b""
    try:
        status = os.fstat(descriptor)
        others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        theirs = status.st_uid in (0, person.uid)
        if not stat.S_ISREG(status.st_mode) or others_write or not theirs:
            return b""
        return os.read(descriptor, _MAX_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _trusted(etc: Path) -> Iterator[Person]:
    """Root, and the login users who may become root, in the order of /etc/passwd."""
    names, numbers = _cloud_users(etc), set[str]()
    for name, _, gid, members in _rows(etc / "group", 4):
        if name in _GROUPS:
            numbers.add(gid)
            names.update(members.split(","))
    for name, _, uid, gid, _, home, shell in _rows(etc / "passwd", 7):
        logs_in = shell.rpartition("/")[2] not in _NO_SHELLS
        root = uid == "0"
        if uid.isdecimal() and (root or (logs_in and (name in names or gid in numbers))):
            yield Person(name, int(uid), Path(home))


def _cloud_users(etc: Path) -> set[str]:
    """The first words of the rules, NAME ALL=(ALL) NOPASSWD:ALL."""
    rules = [line.split() for line in _text(etc / _CLOUD_USERS).splitlines()]
    return {words[0] for words in rules if len(words) > 1 and words[1].startswith("ALL=")}


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    for line in _text(path).splitlines():
        row = line.split(":")
        if len(row) == columns:
            yield row


def _text(path: Path) -> str:
    try:
        return (files.read(path) or b"").decode(errors="replace")
    except FlashbootError:
        return ""
