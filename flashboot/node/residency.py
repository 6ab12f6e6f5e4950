"""happycache, as the node calls it: its own program, spoken to by command line and JSON."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flashboot
from flashboot.errors import CommandFailed
from flashboot.machine.process import Completed, failure
from flashboot.node.system import System

# The same interpreter and folder as ours, whatever PATH says: happycache is installed beside us,
# in a folder that the interpreter may not look into by itself (packer/node/flashboot).
_COMMAND = (sys.executable, "-P", "-m", "happycache")
_ENVIRONMENT = {"PYTHONPATH": str(Path(flashboot.__file__).parent.parent)}
_NOT_READY = 3  # fewer pages in memory than wanted: an answer, not a failure
_GRACE_SECONDS = 30  # happycache ends by itself at its deadline; this much later it is killed


@dataclass(frozen=True, slots=True)
class Figures:
    """Pages of a map: how many it asks for, and how many of them are in memory."""

    asked: int = 0
    resident: int = 0
    loaded: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(
            self.asked + other.asked, self.resident + other.resident, self.loaded + other.loaded
        )


def dump(system: System, map_file: Path, directory: Path, *, timeout_seconds: float) -> int:
    """Write which pages below `directory` are in memory; their number.

    Raises CommandFailed.
    """
    argv = [
        *_COMMAND, "dump", "--json", "--one-file-system", "-o", str(map_file), str(directory),
    ]  # fmt: skip
    done = system.run(argv, timeout_seconds=timeout_seconds, env=_ENVIRONMENT)
    return _number(_answer(done), "pages")


def load(
    system: System, map_file: Path, *, old_root: str, root: Path, timeout_seconds: float
) -> Figures:
    """Bring the pages of the map back into memory. Raises CommandFailed.

    `old_root` is the directory that was dumped, `root` where it lies now.
    """
    argv = [*_COMMAND, "load", "--json", "--deadline", f"{timeout_seconds:g}"]
    if old_root != str(root):
        argv += ["--root", f"{old_root}={root}"]
    done = system.run(
        [*argv, str(map_file)],
        timeout_seconds=timeout_seconds + _GRACE_SECONDS,
        env=_ENVIRONMENT,
        check=False,
    )
    if done.code not in (0, _NOT_READY):
        raise failure(done)
    answer = _answer(done)
    return Figures(
        asked=_number(answer, "asked_pages"),
        resident=_number(answer, "resident_pages"),
        loaded=_number(answer, "loaded_pages"),
    )


def _answer(done: Completed) -> Mapping[str, Any]:
    try:
        value = json.loads(done.stdout)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CommandFailed("happycache", "no JSON", done.stdout[:200] or "it said nothing")
    return value


def _number(answer: Mapping[str, Any], name: str) -> int:
    value = answer.get(name)
    if not isinstance(value, int):
        raise CommandFailed("happycache", "another answer than expected", f"no number of {name}")
    return value
