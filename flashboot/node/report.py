"""What became of a run, in a sentence: a pure function of what this system knows and has heard."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flashboot.node import words
from flashboot.node.runs import MARK_DONE, MARK_RETURNED, Mark, Run, Staged
from flashboot.node.words import Word
from flashboot.record import Event, Kind

# What `stage` and `status` tell to say next.
LEAVE = "`flashboot flash --unprotected --yes`"


class Situation(StrEnum):
    """Where the node stands."""

    NOTHING = "nothing"  # no run is known
    STAGED = "staged"
    UNLOADED = "unloaded"  # staged, but somebody unloaded kexec
    EXPIRED = "expired"  # staged, but the machine was restarted without a flash
    LEAVING = "leaving"
    RETURNED = "returned"  # the old system again: the flash did not happen
    SILENT = "silent"  # the node left, and nobody says what happened
    FLASHED = "flashed"  # the new system, which has not said that it is ready
    READY = "ready"
    STRANGE = "strange"  # what is heard does not fit with what is here


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What this system knows by itself; `mark_name` is the mark's file name."""

    state: Staged | None = None
    mark: Mark | None = None
    mark_name: str = ""
    boot_id: str = ""
    loaded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The last words of the programs, as the store has them, and the instance's tags."""

    flasher: Event | None = None
    arrive: Event | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The answer. `left_at` and `staged_at` are seconds since 1970, 0 for never."""

    situation: Situation
    text: str
    run: Run | None = None
    staged_at: int = 0
    left_at: int = 0
    facts: Mapping[str, int | str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def has_left(known: Known) -> Run | None:
    """The run of which the store and the tags may know more than this system."""
    state = known.state
    if state is not None:
        return state.run if state.left_at and state.run.boot_id != known.boot_id else None
    return known.mark.run if known.mark else None


def judge(known: Known, heard: Heard) -> Status:
    """Where the node stands."""
    if known.state is not None:
        return _old(known.state, known, heard)
    if known.mark is not None:
        return _new(known.mark, known, heard)
    run = heard.tags.get("run")
    if run and heard.tags.get("state") == "cancelled":
        text = f"Nothing is staged; run {run} was cancelled."
        return Status(situation=Situation.NOTHING, text=text)
    if run:
        said = ", ".join(f"{name} {value}" for name, value in sorted(heard.tags.items()))
        text = f"This system knows of no run; the instance's tags say: {said}."
        return Status(situation=Situation.STRANGE, text=text, problems=heard.problems)
    text = "Nothing is staged, and no run is known on this node."
    return Status(situation=Situation.NOTHING, text=text)


def _old(state: Staged, known: Known, heard: Heard) -> Status:
    """The state file is here, so this is the system that staged."""
    run = state.run
    here = run.boot_id == known.boot_id

    def status(situation: Situation, text: str, event: Event | None = None) -> Status:
        return Status(
            situation=situation,
            text=text,
            run=run,
            staged_at=state.staged_at,
            left_at=state.left_at,
            facts=event.facts if event else {},
            problems=heard.problems,
        )

    if here and state.left_at:
        return status(Situation.LEAVING, f"Run {run.name} is leaving for image {run.image}.")
    if here and not known.loaded:
        return status(
            Situation.UNLOADED,
            f"Image {run.image} was staged as run {run.name}, but somebody has unloaded it; "
            "stage it again.",
        )
    if here:
        return status(
            Situation.STAGED,
            f"Image {run.image} is staged as run {run.name} since {clock(state.staged_at)}; "
            f"{LEAVE} leaves for it, `flashboot cancel` drops it.",
        )
    if not state.left_at:
        return status(
            Situation.EXPIRED,
            f"Image {run.image} was staged as run {run.name} before the last restart, which has "
            "undone it; stage it again.",
        )
    word = words.flasher(run, heard.flasher, heard.tags)
    if word.state == "flashed":
        return status(
            Situation.STRANGE,
            f"Run {run.name} reports that image {run.image} was flashed, but this is the system "
            f"that it replaced; is this another disk?{_by_tags(word)}",
            word.event,
        )
    reason = _reason(word, heard)
    if reason:
        return status(
            Situation.RETURNED,
            f"Run {run.name} for image {run.image} did not happen, this is the old system: "
            f"{reason}",
            word.event,
        )
    return status(Situation.SILENT, _silence(run, state.left_at, heard))


def _new(mark: Mark, known: Known, heard: Heard) -> Status:
    """Only the mark on the data is here, so the root disk has been replaced since."""
    run = mark.run

    def status(situation: Situation, text: str, event: Event | None = None) -> Status:
        return Status(
            situation=situation,
            text=text,
            run=run,
            left_at=mark.left_at,
            facts=event.facts if event else {},
            problems=heard.problems,
        )

    arrived = heard.arrive
    word = words.flasher(run, heard.flasher, heard.tags)
    if known.mark_name == MARK_DONE or (arrived and _state(arrived) == "ready"):
        text = f"Image {run.image}, digest {run.digest}, was flashed by run {run.name} and is ready"
        return status(Situation.READY, f"{text}.", arrived)
    reason = _reason(word, heard)
    if known.mark_name == MARK_RETURNED or (arrived and _state(arrived) == "returned"):
        text = f"Run {run.name} for image {run.image} did not happen, this is the old system"
        return status(Situation.RETURNED, f"{text}: {reason or 'nobody says why'}", arrived)
    failure = arrived.text if arrived is not None and arrived.kind is Kind.FAILED else ""
    if heard.tags.get("run") == run.name and heard.tags.get("state") == "failed":
        failure = failure or heard.tags.get("record", "")
    if failure:
        text = f"Run {run.name} is not ready: {words.cause(failure)}"
        return status(Situation.FLASHED, text, arrived)
    if word.state == "flashed":
        return status(
            Situation.FLASHED,
            f"Image {run.image}, digest {run.digest}, was flashed by run {run.name} and has not "
            f"reported that it is ready; see `journalctl -u flashboot-arrive`.{_by_tags(word)}",
            word.event,
        )
    if reason:
        return status(Situation.RETURNED, f"Run {run.name} did not happen: {reason}", word.event)
    return status(Situation.SILENT, _silence(run, mark.left_at, heard))


def _reason(word: Word, heard: Heard) -> str:
    """Why the flash did not happen, from whoever says it; '' where nobody does."""
    if word.event is not None and word.state != "flashed":
        return words.cause(word.event.text)
    arrived = heard.arrive
    return words.cause(arrived.text) if arrived and _state(arrived) == "returned" else ""


def _by_tags(word: Word) -> str:
    if not word.by_tags:
        return ""
    return " So say the instance's tags; the flasher's record is not there."


def _silence(run: Run, left_at: int, heard: Heard) -> str:
    asked = f" (asked: {'; '.join(heard.problems)})" if heard.problems else ""
    return (
        f"Run {run.name} left at {clock(left_at)} for image {run.image} and did not report; "
        f"the console log has the reason{asked}."
    )


def _state(event: Event) -> str:
    return str(event.facts.get("state", ""))


def clock(seconds: int) -> str:
    """Seconds since 1970 as people write them."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def value(status: Status) -> dict[str, Any]:
    """The status for --json."""
    run = status.run
    return {
        "situation": status.situation.value,
        "text": status.text,
        "run": run.name if run else "",
        "image": run.image if run else "",
        "digest": run.digest if run else "",
        "store": run.store if run else "",
        "instance": run.instance if run else "",
        "staged_at": status.staged_at,
        "left_at": status.left_at,
        "facts": dict(status.facts),
        "problems": list(status.problems),
    }
