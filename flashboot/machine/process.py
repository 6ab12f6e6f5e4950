"""Other programs: starting them within a deadline, finding who holds a filesystem, systemd's units.

The only place that imports subprocess. Arguments end up in error messages and in /proc, so they
hold no secrets.
"""

import contextlib
import os
import re
import shlex
import signal
import stat
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flashboot.errors import CommandFailed, MachineError
from flashboot.machine.kernelfs import LIVE, DeviceNumber, Tree, attribute, names, read_bytes
from flashboot.machine.reasons import reason

# After SIGKILL a process that does not hang in the kernel is gone at once.
_KILL_GRACE_SECONDS = 2.0
# How much of a failed command's words go into the error.
_LAST_LINES = 3
# A holder is named by some of what it holds; a database may hold thousands of files.
_PATHS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Completed:
    """What became of a command; `code` is negative for a signal."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    input: str | bytes | None = None,  # noqa: A002 - subprocess calls it so
    env: Mapping[str, str] | None = None,
    pass_fds: Collection[int] = (),
    check: bool = True,
) -> Completed:
    """Run `argv` to its end; at the deadline its whole process group is killed.

    `env` is added to ours, and messages come in English (LC_ALL=C.UTF-8) since callers read them.
    CommandFailed where it cannot start, is killed at the deadline, or (with `check`) exits with
    anything but 0.
    """
    command = tuple(argv)
    data = input.encode() if isinstance(input, str) else input
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            pass_fds=tuple(pass_fds),
            process_group=0,
        )
    except OSError as error:
        words = "there is no such program on PATH" if error.errno == 2 else reason(error)
        raise CommandFailed(shlex.join(command), "no start", words) from error
    try:
        stdout, stderr = child.communicate(data, timeout_seconds)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(
            shlex.join(command), f"no end in {timeout_seconds:g} s", _kill(child)
        ) from error
    except BaseException:
        _kill(child)
        raise
    done = Completed(command, child.returncode, _text(stdout), _text(stderr))
    if check and done.code != 0:
        raise failure(done)
    return done


def failure(done: Completed) -> CommandFailed:
    """The error that a completed command with another code than 0 is."""
    how = f"exit code {done.code}" if done.code >= 0 else f"signal {_signal(-done.code)}"
    return CommandFailed(shlex.join(done.argv), how, _last_words(done.stderr or done.stdout))


def _signal(number: int) -> str:
    # A realtime signal has no name.
    return next((known.name for known in signal.Signals if known == number), str(number))


def _kill(child: subprocess.Popen[bytes]) -> str:
    """Kill the group and say in words how that ended; never waits for long."""
    with contextlib.suppress(ProcessLookupError):  # all of it may have ended meanwhile
        os.killpg(child.pid, signal.SIGKILL)
    try:
        _stdout, stderr = child.communicate(timeout=_KILL_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        if child.poll() is None:
            return "it was killed and still hangs in the kernel"
        return "it was killed; a process it left behind runs on"
    return f"it was killed; its last words: {_last_words(_text(stderr))}"


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-_LAST_LINES:]).rstrip(".") or "it said nothing"


# Who holds a filesystem


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that keeps a filesystem or device busy, and some of what it holds there."""

    pid: int
    command: str
    unit: str | None
    paths: tuple[str, ...]

    def __str__(self) -> str:
        unit = f" of {self.unit}" if self.unit else ""
        return f"{self.command} (pid {self.pid}{unit}): {', '.join(self.paths)}"


def who_uses(mount_or_device: str, *, tree: Tree = LIVE) -> tuple[Holder, ...]:
    """The processes with a file, directory, mapping or program on a filesystem or device.

    `mount_or_device` is a path in the filesystem, or a block device: then processes count that
    hold the device itself or a file on it. What the kernel itself holds (swap files, loop devices,
    NFS exports) does not show here.
    """
    try:
        status = os.stat(mount_or_device)
    except OSError as error:
        raise MachineError(mount_or_device, f"cannot be looked at: {reason(error)}") from error
    block = stat.S_ISBLK(status.st_mode)
    return users_of_filesystems({status.st_rdev if block else status.st_dev}, tree=tree)


def users_of_filesystems(devices: Collection[int], *, tree: Tree = LIVE) -> tuple[Holder, ...]:
    """As `who_uses`, for st_dev or st_rdev numbers. Processes that end meanwhile do not count."""
    wanted = frozenset(devices)
    holders: list[Holder] = []
    for name in names(tree.proc):
        if not name.isdigit():
            continue
        home = f"{tree.proc}/{name}"
        paths = tuple(dict.fromkeys((*_held(home, wanted), *_mapped(home, wanted))))
        if paths:
            command = attribute(f"{home}/comm") or "?"
            shown = paths[:_PATHS_SHOWN]
            if len(paths) > len(shown):
                shown = (*shown, f"and {len(paths) - len(shown)} more")
            holders.append(Holder(int(name), command, _unit(home), shown))
    return tuple(sorted(holders, key=lambda holder: holder.pid))


def _held(home: str, wanted: frozenset[int]) -> Iterator[str]:
    links = ["cwd", "root", "exe", *(f"fd/{name}" for name in names(f"{home}/fd"))]
    for link in links:
        try:
            status = os.stat(f"{home}/{link}")
            if status.st_dev in wanted or (
                stat.S_ISBLK(status.st_mode) and status.st_rdev in wanted
            ):
                yield os.readlink(f"{home}/{link}")
        except OSError:
            continue  # the process or the descriptor is gone, or it is a kernel thread


# proc_pid_maps(5): address perms offset dev inode pathname, dev as hexadecimal major:minor
_MAPS_LINE = re.compile(rb"\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) \d+ +(\S.*)")


def _mapped(home: str, wanted: frozenset[int]) -> Iterator[str]:
    try:
        text = read_bytes(f"{home}/maps")
    except MachineError:
        return
    for match in map(_MAPS_LINE.fullmatch, text.splitlines()):
        if match and os.makedev(int(match[1], 16), int(match[2], 16)) in wanted:
            yield os.fsdecode(match[3])


def unit_of_cgroup(text: str) -> str | None:
    """systemd's unit from a /proc/PID/cgroup file: the first element below the slices.

    cgroups(7): 'hierarchy:controllers:path'; version 2 is hierarchy 0, version 1 has a hierarchy
    named systemd. On a system with both, systemd's own tree is the named one.
    """
    path = ""
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3 and (fields[1] == "name=systemd" or (fields[0] == "0" and not path)):
            path = fields[2]
    for element in path.split("/"):
        if element and not element.endswith(".slice"):
            known = element.endswith((".service", ".scope", ".mount", ".socket", ".swap"))
            return element.removeprefix("_") if known else None
    return None


def _unit(home: str) -> str | None:
    text = attribute(f"{home}/cgroup")
    return None if text is None else unit_of_cgroup(text)


# systemd


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of a unit: load 'loaded' or 'not-found', active 'active', 'failed' ..."""

    load: str
    active: str
    sub: str


def stop_unit(unit: str, *, timeout_seconds: float) -> None:
    """Stop a unit and wait until it is down (systemctl(1)); CommandFailed where it is not."""
    run(["systemctl", "stop", "--", unit], timeout_seconds=timeout_seconds)


def start_unit(unit: str, *, timeout_seconds: float) -> None:
    """Start a unit and wait until it is up (systemctl(1)); CommandFailed where it is not."""
    run(["systemctl", "start", "--", unit], timeout_seconds=timeout_seconds)


def unit_state(unit: str, *, timeout_seconds: float = 10) -> UnitState:
    """The state of a unit; CommandFailed where systemd does not answer."""
    argv = ["systemctl", "show", "--property=LoadState,ActiveState,SubState", "--", unit]
    lines = run(argv, timeout_seconds=timeout_seconds).stdout.splitlines()
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    return UnitState(
        facts.get("LoadState", "?"), facts.get("ActiveState", "?"), facts.get("SubState", "?")
    )


def device_holders(number: DeviceNumber, *, tree: Tree = LIVE) -> tuple[Holder, ...]:
    """As `who_uses`, for a device's number."""
    return users_of_filesystems({os.makedev(*number)}, tree=tree)
