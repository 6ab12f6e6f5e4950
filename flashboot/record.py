"""The record: what happened in one run on one node, one JSON line an event.

The node writes the first lines (staged, left), the RAM OS the next, the new system the last.
In a store it is `records/INSTANCE/RUN.PROGRAM`; its last word also stands in the instance's tags.
docs/formats/record.md lists the fields. No secret is ever a fact.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flashboot.errors import DocumentTooLarge, MalformedDocument
from flashboot.image import document
from flashboot.units import KIB, MIB

SCHEMA = "flashboot.record/1"
MAX_BYTES = 4 * MIB
_MAX_LINE = 64 * KIB


class Program(StrEnum):
    """Who writes."""

    NODE = "node"
    FLASHER = "flasher"
    ARRIVE = "arrive"


class Kind(StrEnum):
    """What a line says."""

    BEGAN = "began"  # a phase
    DONE = "done"  # a phase
    NOTE = "note"
    FAILED = "failed"  # with the error's sentence; what follows says what became of it
    OUTCOME = "outcome"  # the program's last word on this run


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `time` is milliseconds since 1970; `facts` are numbers and short texts."""

    time: int
    program: Program
    phase: str
    kind: Kind
    text: str
    facts: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """All events of one program in one run, in order."""

    run: str
    instance: str
    events: tuple[Event, ...]

    @property
    def outcome(self) -> Event | None:
        """The program's last word, None where it has not said one."""
        words = [event for event in self.events if event.kind is Kind.OUTCOME]
        return words[-1] if words else None


def key(instance: str, run: str, *, program: Program) -> str:
    """Where the record lies in a store."""
    return f"records/{instance}/{run}.{program.value}"


def dump(record: Record) -> bytes:
    """The record as lines; the first names run and instance."""
    head = {"schema": SCHEMA, "run": record.run, "instance": record.instance}
    return b"".join(line + b"\n" for line in (document.dump(head), *map(_line, record.events)))


def _line(event: Event) -> bytes:
    value: dict[str, Any] = {
        "time": event.time,
        "program": event.program.value,
        "phase": event.phase,
        "kind": event.kind.value,
        "text": event.text,
        "facts": dict(event.facts),
    }
    return document.dump(value)


def load(data: bytes) -> Record:
    """The record in `data`. Raises DocumentTooLarge and MalformedDocument."""
    if len(data) > MAX_BYTES:
        raise DocumentTooLarge("record", len(data), MAX_BYTES)
    lines = data.splitlines()
    if not lines:
        raise MalformedDocument("record", "it is empty")
    head = document.load(lines[0], what="record")
    schema = head.text("schema")
    if schema != SCHEMA:
        raise head.fail(f"schema {schema[:40]!r} is not known here, only {SCHEMA}")
    run, instance = head.text("run"), head.text("instance")
    head.finish()
    return Record(run, instance, tuple(_events(lines[1:])))


def _events(lines: Iterable[bytes]) -> Iterable[Event]:
    for line in lines:
        if len(line) > _MAX_LINE:
            raise DocumentTooLarge("record's line", len(line), _MAX_LINE)
        fields = document.load(line, what="record's line")
        program, kind = fields.text("program"), fields.text("kind")
        if program not in list(Program) or kind not in list(Kind):
            raise fields.fail("unknown program or kind")
        event = Event(
            time=fields.number("time"),
            program=Program(program),
            phase=fields.text("phase"),
            kind=Kind(kind),
            text=fields.text("text", cap=16 * KIB),
            facts=fields.facts("facts"),
        )
        fields.finish()
        yield event
