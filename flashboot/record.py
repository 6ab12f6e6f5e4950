"""The record: what happened in one run on one node, one JSON line an event.

The node writes the first lines (staged, left), the RAM OS the next, the new system the last.
In a store it is `records/INSTANCE/RUN.PROGRAM`; its last word also stands in the instance's tags.
docs/formats/record.md lists the fields. No secret is ever a fact.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from flashboot.errors import DocumentTooLarge, MalformedDocument
from flashboot.image import document
from flashboot.units import KIB, MIB

SCHEMA = "flashboot.record/1"
MAX_BYTES = 4 * MIB
_MAX_LINE = 512 * KIB
# What a line is cut to, in characters: a report is made while things fail, so it takes any text.
MAX_TEXT = 16 * KIB
MAX_FACT = 512


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
    """The record as lines; the first names run and instance.

    Whatever the events hold, `load` reads it: long texts are cut, what is not UTF-8 becomes '?',
    and of more events than fit into MAX_BYTES a note stands for the oldest.
    """
    head = {"schema": SCHEMA, "run": record.run, "instance": record.instance}
    room = MAX_BYTES - _MAX_LINE  # the rest is for head and note
    lines: list[bytes] = []
    for event in reversed(record.events):
        line = _line(event)
        room -= len(line) + 1
        if room < 0:
            left_out = len(record.events) - len(lines)
            text = f"{left_out} earlier events did not fit and are left out"
            lines.append(_line(replace(event, kind=Kind.NOTE, text=text, facts={})))
            break
        lines.append(line)
    return b"\n".join((document.dump(head), *reversed(lines), b""))


def _clean(text: str, cap: int) -> str:
    short = text if len(text) <= cap else text[: cap - 1] + "…"
    return short.encode(errors="replace").decode()


def _line(event: Event) -> bytes:
    value: dict[str, Any] = {
        "time": event.time,
        "program": event.program.value,
        "phase": _clean(event.phase, MAX_FACT),
        "kind": event.kind.value,
        "text": _clean(event.text, MAX_TEXT),
        "facts": {
            name: _clean(fact, MAX_FACT) if isinstance(fact, str) else int(fact)
            for name, fact in event.facts.items()
        },
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
            text=fields.text("text", cap=MAX_TEXT),
            facts=fields.facts("facts"),
        )
        fields.finish()
        yield event
