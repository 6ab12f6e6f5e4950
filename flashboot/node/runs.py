"""What the node itself remembers of a run: the state file on the root disk, the mark on data disks.

The state says what is staged, and whether the node left. The root disk is what a flash replaces,
so the new system learns from the mark, which lies on the data filesystems. Neither holds secrets.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashboot.image import document
from flashboot.node import files
from flashboot.node.system import Cloud

STATE_SCHEMA = "flashboot.state/1"
MARK_SCHEMA = "flashboot.run/1"

# Below the mount point of a data filesystem.
MARK_DIRECTORY = ".flashboot"
MARK = "run.json"
MARK_DONE = "run.done.json"
MARK_RETURNED = "run.returned.json"
MAP = "residency.map"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One flash of one node, as it was staged.

    `digest` is the image's, in hexadecimal. `boot_id`, `root_serial` and `old_disk_guid` tell the
    system that staged it from the one that comes after it.
    """

    name: str
    image: str
    digest: str
    store: str
    instance: str
    boot_id: str
    root_serial: str
    old_disk_guid: str
    cloud: Cloud = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """The state file. Times are seconds since 1970; `left_at` is 0 until the node leaves."""

    run: Run
    staged_at: int
    version: str
    left_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """run.json on a data filesystem that was mounted at `target`.

    `map` is the residency map's name beside it, '' for none.
    """

    run: Run
    left_at: int
    target: str
    services: tuple[str, ...] = ()
    map: str = ""


def dump_state(state: Staged) -> bytes:
    """The state file's bytes."""
    return document.dump(
        {
            **_run_values(state.run),
            "schema": STATE_SCHEMA,
            "staged_at": state.staged_at,
            "left_at": state.left_at,
            "version": state.version,
        }
    )


def load_state(data: bytes) -> Staged:
    """The state in `data`. Raises MalformedDocument."""
    fields = document.load(data, what="state file")
    _require(fields, STATE_SCHEMA)
    state = Staged(
        run=_run(fields),
        staged_at=fields.number("staged_at"),
        left_at=fields.number("left_at"),
        version=fields.text("version"),
    )
    fields.finish()
    return state


def dump_mark(mark: Mark) -> bytes:
    """run.json's bytes."""
    return document.dump(
        {
            **_run_values(mark.run),
            "schema": MARK_SCHEMA,
            "left_at": mark.left_at,
            "target": mark.target,
            "services": list(mark.services),
            "map": mark.map,
        }
    )


def load_mark(data: bytes) -> Mark:
    """The mark in `data`. Raises MalformedDocument."""
    fields = document.load(data, what="run.json")
    _require(fields, MARK_SCHEMA)
    mark = Mark(
        run=_run(fields),
        left_at=fields.number("left_at"),
        target=fields.text("target", cap=4096),
        services=fields.texts("services"),
        map=fields.text("map"),
    )
    if mark.map not in ("", MAP):
        raise fields.fail(f"no map is called {mark.map[:40]!r}")
    fields.finish()
    return mark


def read_state(path: Path) -> Staged | None:
    """The state file; None where there is none. Raises MachineError, MalformedDocument."""
    data = files.read(path)
    return None if data is None else load_state(data)


def write_state(path: Path, state: Staged) -> None:
    """Write the state file. Raises MachineError."""
    files.write(path, dump_state(state))


def _run_values(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "image": run.image,
        "digest": run.digest,
        "store": run.store,
        "instance": run.instance,
        "boot_id": run.boot_id,
        "root_serial": run.root_serial,
        "old_disk_guid": run.old_disk_guid,
        "cloud": dict(run.cloud),
    }


def _run(fields: document.Fields) -> Run:
    return Run(
        name=fields.text("run"),
        image=fields.text("image"),
        digest=fields.text("digest"),
        store=fields.text("store"),
        instance=fields.text("instance"),
        boot_id=fields.text("boot_id"),
        root_serial=fields.text("root_serial"),
        old_disk_guid=fields.text("old_disk_guid"),
        cloud=fields.nested("cloud"),
    )


def _require(fields: document.Fields, wanted: str) -> None:
    schema = fields.text("schema")
    if schema != wanted:
        raise fields.fail(f"schema {schema[:40]!r} is not known here, only {wanted}")
