"""Is this the system that was flashed? A pure function of what was promised and what is here."""

from dataclasses import dataclass
from enum import StrEnum

from flashboot.node.runs import Run
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

    `flasher` is the flasher's last word, None where it left none; `problem` says why the store
    could not be asked.
    """

    run: Run
    boot_id: str
    root_serial: str
    disk_guid: str
    same_root: bool
    flasher: Event | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    reason: str = ""


def judge(scene: Scene) -> Verdict:
    """Unknown answers mean no."""
    run, event = scene.run, scene.flasher
    if run.boot_id == scene.boot_id:
        return Verdict(Outcome.NOTHING, f"run {run.name} has not left this system")
    state = str(event.facts.get("state", "")) if event else ""
    if event is not None and state == "flashed":
        problems = _differences(scene, event)
        if not problems:
            return Verdict(Outcome.READY)
        return Verdict(Outcome.FAILED, "; ".join(problems))
    if event is not None:
        words = event.text
    elif scene.problem:
        words = f"the flasher's record cannot be read: {scene.problem}"
    else:
        words = "the flasher left no record; the console log has the reason"
    same_disk = bool(run.old_disk_guid) and scene.disk_guid == run.old_disk_guid
    if scene.same_root or (event is not None and same_disk):
        return Verdict(
            Outcome.RETURNED, f"the flash did not happen, this is the old system: {words}"
        )
    return Verdict(Outcome.FAILED, words)


def _differences(scene: Scene, event: Event) -> tuple[str, ...]:
    run = scene.run
    problems = [
        f"the {what} is {found or 'unknown'}, {wanted or 'none'} was {said}"
        for what, found, wanted, said in (
            ("image written", event.facts.get("image"), run.image, "staged"),
            ("digest written", event.facts.get("digest"), run.digest, "staged"),
            ("root device's serial", scene.root_serial, run.root_serial, "staged"),
            ("root device's identifier", scene.disk_guid, event.facts.get("disk_guid"), "written"),
        )
        if not found or found != wanted
    ]
    if scene.same_root:
        problems.append("the root disk still holds the old system's state file")
    return tuple(problems)
