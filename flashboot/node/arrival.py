"""Is this the system that was flashed? A pure function of what was promised and what is here."""

from dataclasses import dataclass
from enum import StrEnum

from flashboot.node import words
from flashboot.node.runs import Run
from flashboot.node.words import Word
from flashboot.record import Event


class Outcome(StrEnum):
    """What an arrival comes to."""

    NOTHING = "nothing"  # no system has left a mark for this one
    READY = "ready"  # this is the new system
    RETURNED = "returned"  # this is the old system, the flash did not happen
    FAILED = "failed"  # this is neither, or nobody knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is here. `same_root` says that the root disk still holds the state file of this run.

    `flasher` is the flasher's last word; `problem` and `tags_problem` say why the store and the
    tags could not be asked for it.
    """

    run: Run
    boot_id: str
    root_serial: str
    disk_guid: str
    same_root: bool
    flasher: Word
    problem: str = ""
    tags_problem: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` of READY says what the verdict had to do without, '' for nothing."""

    outcome: Outcome
    reason: str = ""


def judge(scene: Scene) -> Verdict:
    """Unknown answers mean no."""
    run, event = scene.run, scene.flasher.event
    if run.boot_id == scene.boot_id:
        return Verdict(Outcome.NOTHING, f"run {run.name} has not left this system")
    if event is not None and scene.flasher.state == "flashed":
        problems = _differences(scene, event)
        if problems:
            return Verdict(Outcome.FAILED, "; ".join(problems))
        if scene.flasher.by_tags:
            return Verdict(Outcome.READY, f"by the instance's tags, as {_silence(scene)}")
        return Verdict(Outcome.READY)
    if event is not None:
        cause = words.cause(event.text)
    elif scene.problem:
        cause = _silence(scene)
    else:
        cause = f"{_silence(scene)}; the console log has the reason"
    same_disk = bool(run.old_disk_guid) and scene.disk_guid == run.old_disk_guid
    if scene.same_root or (event is not None and same_disk):
        return Verdict(Outcome.RETURNED, words.DID_NOT_HAPPEN + cause)
    return Verdict(Outcome.FAILED, cause)


def _silence(scene: Scene) -> str:
    """Why there is no record."""
    found = "the flasher left no record"
    if scene.problem:
        found = f"the flasher's record cannot be read: {scene.problem}"
    return found + (
        f"; the tags cannot be read: {scene.tags_problem}" if scene.tags_problem else ""
    )


def _differences(scene: Scene, event: Event) -> tuple[str, ...]:
    run = scene.run
    problems = [
        f"the {what} is {found or 'unknown'}, {wanted or 'none'} was {said}"
        for what, found, wanted, said in (
            ("image written", event.facts.get("image"), run.image, "staged"),
            ("digest written", event.facts.get("digest"), run.digest, "staged"),
            ("root device's serial", scene.root_serial, run.root_serial, "staged"),
        )
        if not found or found != wanted
    ]
    problems += _identity(scene, event)
    if scene.same_root:
        problems.append("the root disk still holds the old system's state file")
    return tuple(problems)


def _identity(scene: Scene, event: Event) -> tuple[str, ...]:
    found, wanted = scene.disk_guid, event.facts.get("disk_guid")
    what = f"the root device's identifier is {found or 'unknown'}"
    if scene.flasher.by_tags and not wanted and found:
        same = found == scene.run.old_disk_guid
        return (f"{what}, which is the old system's",) if same else ()
    return () if found and found == wanted else (f"{what}, {wanted or 'none'} was written",)
