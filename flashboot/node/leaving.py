"""One attempt to leave: what it knows, what it has done, and how each of that is undone."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flashboot.errors import CommandFailed, FlashbootError, explain
from flashboot.node import layout
from flashboot.node.layout import Layout
from flashboot.node.recorder import Recorder
from flashboot.node.runs import Run, Staged
from flashboot.node.signals import Signals
from flashboot.node.system import Node, System
from flashboot.record import Kind

# How often it is looked whether something has ended.
PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashOptions:
    """How to leave. `timeout_seconds` is for each step, and for each hook in the first.

    `services` are stopped in any case, `kept` in none; `kill` ends processes of login sessions
    that hold data. `hooks` is the directory of the directories of hooks.
    """

    hooks: Path
    services: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    kill: bool = False
    timeout_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Undo:
    """How something is taken back, and what that is in words."""

    what: str
    act: Callable[[], object]


@dataclass(slots=True)
class Leaving:
    """The attempt. `undos` grows with everything that is done and is gone through backwards."""

    node: Node
    staged: Staged
    options: FlashOptions
    recorder: Recorder
    signals: Signals
    undos: list[Undo] = field(default_factory=list)
    # Names of the residency maps by the mount points whose pages they hold.
    maps: dict[str, str] = field(default_factory=dict)

    @property
    def system(self) -> System:
        return self.node.system

    @property
    def run(self) -> Run:
        return self.staged.run

    @property
    def timeout(self) -> float:
        """Seconds for one step."""
        return self.options.timeout_seconds

    def say(self, text: str) -> None:
        self.system.say(text)

    def survey(self) -> Layout:
        """What is mounted where at this moment."""
        return layout.survey(self.system)

    def will_undo(self, what: str, act: Callable[[], object]) -> None:
        """Call it before the deed: a deed that fails or hangs may have happened nevertheless."""
        self.undos.append(Undo(what, act))

    def rounds(self) -> Iterator[int]:
        """The looks that fit into a step's time, with a pause between two."""
        for number in range(max(2, int(self.timeout / PAUSE_SECONDS))):
            if number:
                self.system.pause(PAUSE_SECONDS)
            yield number

    def first_that_works(self, *commands: Sequence[str]) -> None:
        """Run commands until one succeeds. Raises the first one's CommandFailed if none does."""
        first: CommandFailed | None = None
        for argv in commands:
            try:
                self.system.run(argv, timeout_seconds=self.timeout)
            except CommandFailed as error:
                first = first or error
            else:
                return
        if first is not None:
            raise first

    def undo(self) -> tuple[str, ...]:
        """Take everything back, the last first; what could not be, in words. Raises nothing."""
        failures: list[str] = []
        while self.undos:
            step = self.undos.pop()
            try:
                step.act()
            except (FlashbootError, OSError) as error:
                failures.append(f"{step.what}: {explain(error)}")
                self.note(f"undo failed: {failures[-1]}")
            else:
                self.note(f"undone: {step.what}")
        return tuple(failures)

    def note(self, text: str) -> None:
        """Say it and record it, whatever the state of the terminal."""
        with contextlib.suppress(OSError):
            self.recorder.say("undo", Kind.NOTE, text)
