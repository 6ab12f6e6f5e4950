"""How much memory there is, and how much of it this process may take."""

import os
from dataclasses import dataclass

from flashboot.errors import MachineError
from flashboot.machine.kernelfs import LIVE, Tree, attribute, read_text


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes; `limit` is what the narrowest control group above us leaves, None without one."""

    total: int
    available: int
    limit: int | None

    @property
    def usable(self) -> int:
        """What can be taken without swapping or being killed."""
        return self.available if self.limit is None else min(self.available, self.limit)


def memory(*, tree: Tree = LIVE) -> Memory:
    """What /proc/meminfo and our control groups say (proc_meminfo(5), cgroups(7))."""
    path = f"{tree.proc}/meminfo"
    facts = parse_meminfo(read_text(path))
    try:
        return Memory(facts["MemTotal"], facts["MemAvailable"], _limit(tree))
    except KeyError as error:
        raise MachineError(path, f"says nothing of {error}") from error


def parse_meminfo(text: str) -> dict[str, int]:
    """The amounts in bytes; what is no amount in kB is left out."""
    facts: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[0].isdigit() and words[1] == "kB":
            facts[name] = int(words[0]) * 1024
    return facts


def _limit(tree: Tree) -> int | None:
    """The smallest room that a control group from ours upwards leaves, in bytes."""
    rooms: list[int] = []
    for line in (attribute(f"{tree.proc}/self/cgroup") or "").splitlines():
        fields = line.split(":", 2)
        if len(fields) != 3:
            continue
        if fields[0] == "0":
            base, files = f"{tree.sys}/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in fields[1].split(","):
            base = f"{tree.sys}/fs/cgroup/memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        path = fields[2].rstrip("/")
        while True:
            room = _room(f"{base}{path}", *files)
            if room is not None:
                rooms.append(room)
            if not path:
                break
            path = os.path.dirname(path).rstrip("/")
    return min(rooms, default=None)


def _room(group: str, limit_file: str, usage_file: str) -> int | None:
    limit = attribute(f"{group}/{limit_file}")
    usage = attribute(f"{group}/{usage_file}")
    # Version 2 says 'max' for none, version 1 a number beyond any memory.
    if limit is None or usage is None or not limit.isdigit() or int(limit) >= 1 << 60:
        return None
    # Clean file pages count as usage and are given up when memory is asked for.
    for line in (attribute(f"{group}/memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file" and value.isdigit():
            return max(0, int(limit) - int(usage) + int(value))
    return max(0, int(limit) - int(usage))
