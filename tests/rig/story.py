"""How the rig tells what happens: lines with times, a summary, and a picture of time per phase."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

_WIDTH = 40  # characters of the longest bar


@dataclass(slots=True)
class Story:
    """Told to people on `out` as it happens; `facts` are kept for the summary."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    phases: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """A line."""
        self.out.write(f"[{self.clock() - self.start:6.1f} s] {text}\n")
        self.out.flush()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one part of the story."""
        begin = self.clock()
        self.say(f"{name} ...")
        try:
            yield
        finally:
            self.phases[name] = self.clock() - begin

    def add(self, name: str, seconds: float) -> None:
        """A phase that somebody else timed."""
        self.phases[name] = seconds

    def picture(self) -> str:
        """A bar for every phase, in order."""
        longest = max(self.phases.values(), default=1.0)
        width = max((len(name) for name in self.phases), default=0)
        return "\n".join(
            f"  {name:{width}}  {seconds:6.1f} s  {'#' * max(1, round(_WIDTH * seconds / longest))}"
            for name, seconds in self.phases.items()
        )

    def summary(self) -> str:
        """All facts, one a line."""
        width = max((len(name) for name in self.facts), default=0)
        return "\n".join(f"  {name:{width}}  {value}" for name, value in self.facts.items())

    def as_json(self) -> str:
        """Facts and seconds per phase."""
        rounded = {name: round(seconds, 1) for name, seconds in self.phases.items()}
        return json.dumps({"facts": self.facts, "seconds": rounded}, indent=2)
