"""The node's side of the record: events are said, kept, and written to the store when that works.

A record is an object that is written whole: what an earlier command wrote of the same run is
fetched once and goes in front.
"""

from collections.abc import Mapping

from flashboot import record
from flashboot.errors import ObjectMissing
from flashboot.node import bounded
from flashboot.node.runs import Run
from flashboot.node.system import Node
from flashboot.record import Event, Kind, Program, Record


class Recorder:
    """Collects one program's events of one run."""

    def __init__(self, node: Node, run: Run, *, program: Program = Program.NODE) -> None:
        self._node = node
        self._run = run
        self._program = program
        self._events: list[Event] = []
        self._earlier: tuple[Event, ...] | None = None

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)

    def add(self, phase: str, kind: Kind, text: str, **facts: int | str) -> None:
        """Note an event. Facts are numbers and short texts, never secrets."""
        time = self._node.system.now()
        self._events.append(Event(time, self._program, phase, kind, text, facts))

    def say(self, phase: str, kind: Kind, text: str, **facts: int | str) -> None:
        """Note an event, and tell people."""
        self.add(phase, kind, text, **facts)
        self._node.system.say(text)

    def save(self, *, seconds: float = bounded.REPORT_SECONDS) -> str | None:
        """Write all of it to the store. None where that worked, else why not."""
        return bounded.attempt(self._put, seconds=seconds)

    def _put(self) -> None:
        store = self._node.open_store(self._run.store, self._run.cloud)
        key = record.key(self._run.instance, self._run.name, program=self._program)
        if self._earlier is None:
            try:
                known = record.load(store.get(key, limit=record.MAX_BYTES))
                self._earlier = known.events
            except ObjectMissing:
                self._earlier = ()
        events = (*self._earlier, *self._events)
        data = record.dump(Record(self._run.name, self._run.instance, events))
        store.put(key, data, replace=True)


def tag(
    node: Node, run: Run, values: Mapping[str, str], *, seconds: float = bounded.REPORT_SECONDS
) -> str | None:
    """Tag the instance with the run's name and `values`. None where that worked, else why not."""
    tags = {"run": run.name, **values}
    return bounded.attempt(
        lambda: node.open_tags(run.instance, run.cloud).write(tags), seconds=seconds
    )


def fetch(node: Node, run: Run, program: Program) -> Record | None:
    """What `program` recorded of `run`; None where it wrote nothing.

    Raises FlashbootError where the store does not answer or holds something else.
    """
    store = node.open_store(run.store, run.cloud)
    key = record.key(run.instance, run.name, program=program)
    try:
        return record.load(store.get(key, limit=record.MAX_BYTES))
    except ObjectMissing:
        return None


def last_word(found: Record | None) -> Event | None:
    """The program's outcome; where it has not said one, its last failure."""
    if found is None:
        return None
    failures = [event for event in found.events if event.kind is Kind.FAILED]
    return found.outcome or (failures[-1] if failures else None)
