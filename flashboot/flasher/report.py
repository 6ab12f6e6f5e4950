"""What the flasher tells: to the console while it works, and as a record when there is a way out.

Every phase is numbered, timed and told the same way. Words go to /dev/kmsg, so that the serial
console, `dmesg` through the rescue door and EC2's console output all show the same story.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from flashboot import record
from flashboot.errors import explain
from flashboot.record import Event, Kind, Program, Record
from flashboot.units import format_size

PROGRESS_SECONDS = 5.0  # between lines about a phase that is under way

Facts = Mapping[str, int | str]


@dataclass(slots=True)
class Report:
    """The story of one run. `say` puts one line on the console."""

    run: str
    instance: str
    phases: tuple[str, ...]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    events: list[Event] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    _phase: str = "start"

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, int | str]]:
        """Run a phase: the facts put into what this yields end its line and its event."""
        number = self.phases.index(name) + 1
        title = f"phase {number}/{len(self.phases)} {name}"
        self._phase = name
        start = self.monotonic()
        self.say(title)
        self._add(Kind.BEGAN, "")
        facts: dict[str, int | str] = {}
        try:
            yield facts
        except BaseException as error:
            self.say(f"{title}: FAILED: {explain(error)}")
            self._add(Kind.FAILED, explain(error))
            raise
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.monotonic() - start
        taken = self.monotonic() - start
        self.say(f"{title}: done in {taken:.1f} s{_spell(facts)}")
        self._add(Kind.DONE, "", {**facts, "milliseconds": int(taken * 1000)})

    def note(self, text: str, facts: Facts | None = None) -> None:
        """Something worth knowing that is no phase's end."""
        self.say(text)
        self._add(Kind.NOTE, text, facts)

    def outcome(self, text: str, facts: Facts) -> None:
        """The flasher's last word on this run."""
        self.say(f"outcome: {text.rstrip('.')}{_spell(facts)}")
        self._add(Kind.OUTCOME, text, facts)

    def progress(self) -> Callable[[int, int], None]:
        """A Progress that says a line every few seconds."""
        start = last = self.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal last
            now = self.monotonic()
            if now - last < PROGRESS_SECONDS or not total:
                return
            last = now
            rate = done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            self.say(
                f"{self._phase}: {done * 100 // total} % of {format_size(total)}, "
                f"{format_size(int(rate))}/s{left}"
            )

        return tell

    def record(self) -> Record:
        """All that was told so far."""
        return Record(self.run, self.instance, tuple(self.events))

    def _add(self, kind: Kind, text: str, facts: Facts | None = None) -> None:
        now = int(self.clock() * 1000)
        self.events.append(
            Event(now, Program.FLASHER, self._phase, kind, text[:8000], dict(facts or {}))
        )


def _spell(facts: Facts) -> str:
    """Facts for people: sizes as sizes, digests short."""
    words = []
    for name, value in facts.items():
        text = str(value)
        if isinstance(value, int) and name.startswith("bytes_"):
            text = format_size(value)
        words.append(f"{name} {text}")
    return ", " + ", ".join(words) if words else ""


def record_key(report: Report) -> str:
    """Where this report's record lies in a store."""
    return record.key(report.instance, report.run, program=Program.FLASHER)
