"""`arrive`: at the first boot of the new system compare, warm the page cache, and say `ready`."""

from dataclasses import dataclass, field
from pathlib import Path

from flashboot.errors import CommandFailed, FlashbootError, NotArrived, explain
from flashboot.node import arrival, bounded, files, hooks, marks, recorder, residency, runs, words
from flashboot.node.arrival import Outcome, Scene, Verdict
from flashboot.node.marks import Found
from flashboot.node.recorder import Recorder, tag
from flashboot.node.residency import Figures
from flashboot.node.runs import MARK_DONE, MARK_RETURNED, Run
from flashboot.node.system import Node
from flashboot.node.words import Word
from flashboot.record import Event, Kind, Program

_RETRY_SECONDS = 3.0
_ASK_SECONDS = 20.0
_MOUNT_SECONDS = 1.0
_PENDING = ("systemctl", "list-jobs", "--no-legend", "--plain", "--full")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArriveOptions:
    """Seconds: `patience` for a network that comes late, `rewarm` for each residency map."""

    hooks: Path
    patience_seconds: float = 120.0
    rewarm_seconds: float = 3600.0
    hook_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came of it; `run` is None where no system has left a mark."""

    outcome: Outcome
    text: str
    run: Run | None = None
    disk_guid: str = ""
    figures: Figures = field(default_factory=Figures)


def arrive(node: Node, options: ArriveOptions) -> Arrival:
    """Compare, rewarm, report. Doing it again does nothing. Raises NotArrived with the reason."""
    await_mounts(node, options.patience_seconds)
    found = marks.find(node.system)
    if not found:
        return Arrival(Outcome.NOTHING, "no system has left a mark for this one: nothing to do")
    run = found[0].mark.run
    boot_id = node.system.host().boot_id
    if run.boot_id == boot_id:
        return Arrival(Outcome.NOTHING, f"run {run.name} has not left this system", run)
    log = Recorder(node, run, program=Program.ARRIVE)
    log.say("arrive", Kind.BEGAN, f"run {run.name}: is this image {run.image}?", boot_id=boot_id)
    scene = look(node, run, boot_id=boot_id, patience_seconds=options.patience_seconds)
    verdict = arrival.judge(scene)
    if verdict.outcome is Outcome.FAILED:
        raise _failed(node, log, scene, verdict.reason)
    figures = rewarm(node, log, found, options)
    if verdict.outcome is Outcome.RETURNED:
        return _returned(node, log, found, verdict, figures)
    try:
        hooks.run_all(
            node.system,
            options.hooks / hooks.AFTER_ARRIVE,
            run,
            timeout_seconds=options.hook_seconds,
        )
    except FlashbootError as error:
        raise _failed(node, log, scene, explain(error)) from error
    return _ready(node, log, found, scene, verdict, figures)


def await_mounts(node: Node, patience_seconds: float) -> None:
    """Wait until systemd has no mount left to do.

    A data filesystem with `nofail` is in nobody's way at boot (systemd.mount(5)), so it may come
    after this program, and with it the mark that tells what this system was made from.
    """
    for _ in range(int(patience_seconds / _MOUNT_SECONDS)):
        try:
            done = node.system.run(_PENDING, timeout_seconds=_ASK_SECONDS, check=False)
        except FlashbootError as error:
            node.system.say(f"warning: systemd does not tell its jobs: {explain(error)}")
            return
        if ".mount " not in done.stdout:
            return
        node.system.pause(_MOUNT_SECONDS)
    node.system.say("warning: a filesystem is still not mounted, going on without it")


def look(node: Node, run: Run, *, boot_id: str, patience_seconds: float) -> Scene:
    """Everything that the verdict needs. Raises MachineError."""
    word, problem, tags_problem = _flasher(node, run, patience_seconds)
    root = node.system.root_disk()
    state = runs.read_state(node.places.state)
    return Scene(
        run=run,
        boot_id=boot_id,
        root_serial=root.serial or "",
        disk_guid=node.system.disk_guid(root),
        same_root=state is not None and state.run.name == run.name,
        flasher=word,
        problem=problem,
        tags_problem=tags_problem,
    )


def rewarm(node: Node, log: Recorder, found: tuple[Found, ...], options: ArriveOptions) -> Figures:
    """Bring back what was in memory. What fails costs a cold start, so it is only told."""
    figures = Figures()
    for one in found:
        if not one.mark.map:
            continue
        log.say("rewarm", Kind.BEGAN, f"warming {one.root}")
        try:
            loaded = residency.load(
                node.system,
                one.path.with_name(one.mark.map),
                old_root=one.mark.target,
                root=one.root,
                timeout_seconds=options.rewarm_seconds,
            )
        except CommandFailed as error:
            log.say("rewarm", Kind.FAILED, f"{one.root} stays cold: {explain(error)}")
        else:
            figures += loaded
            text = f"{one.root}: {loaded.resident} of {loaded.asked} pages are in memory"
            log.say("rewarm", Kind.DONE, text, asked=loaded.asked, resident=loaded.resident)
    return figures


def _flasher(node: Node, run: Run, patience_seconds: float) -> tuple[Word, str, str]:
    """The flasher's last word, and why store and tags could not be asked, '' where they could.

    Asked for until the store answers or the tags tell.
    """
    recorded: Event | None = None
    tags: dict[str, str] = {}

    def ask_store() -> None:
        nonlocal recorded
        recorded = recorder.last_word(recorder.fetch(node, run, Program.FLASHER))

    def ask_tags() -> None:
        tags.update(node.open_tags(run.instance, run.cloud).read())

    word, problem, tags_problem = Word(), "", ""
    for number in range(int(patience_seconds / _RETRY_SECONDS) + 1):
        if number:
            node.system.pause(_RETRY_SECONDS)
        problem = bounded.attempt(ask_store, seconds=_ASK_SECONDS) or ""
        word = words.flasher(run, recorded, {})
        if not word.state:
            tags_problem = bounded.attempt(ask_tags, seconds=_ASK_SECONDS) or ""
            word = words.flasher(run, recorded, tags)
        if word.state or not problem:
            break
        if not number:
            node.system.say(f"waiting for the flasher's record: {problem}")
    return word, problem, tags_problem


def _ready(
    node: Node,
    log: Recorder,
    found: tuple[Found, ...],
    scene: Scene,
    verdict: Verdict,
    figures: Figures,
) -> Arrival:
    run = scene.run
    text = (
        f"ready: image {run.image} digest {run.digest} "
        f"pages {figures.resident} of {figures.asked} resident"
    ) + (f"; {verdict.reason}" if verdict.reason else "")
    log.say(
        "arrive",
        Kind.OUTCOME,
        text,
        state="ready",
        image=run.image,
        digest=run.digest,
        disk_guid=scene.disk_guid,
        asked_pages=figures.asked,
        resident_pages=figures.resident,
        loaded_pages=figures.loaded,
    )
    _tell(node, log, run, state="ready", image=run.image, digest=run.digest, record=text)
    _settle(node, found, MARK_DONE)
    return Arrival(Outcome.READY, text, run, scene.disk_guid, figures)


def _returned(
    node: Node, log: Recorder, found: tuple[Found, ...], verdict: Verdict, figures: Figures
) -> Arrival:
    run = found[0].mark.run
    log.say("arrive", Kind.OUTCOME, verdict.reason, state="returned", image=run.image)
    _tell(node, log, run, state="returned", record=verdict.reason)
    _settle(node, found, MARK_RETURNED)
    return Arrival(Outcome.RETURNED, verdict.reason, run, figures=figures)


def _failed(node: Node, log: Recorder, scene: Scene, reason: str) -> NotArrived:
    text = words.NOT_READY + reason
    log.say("arrive", Kind.FAILED, text, state="failed")
    # The flasher's word in the tags is overwritten here, and the next try may need it.
    heard = {words.FLASHED_TAG: scene.run.name} if scene.flasher.state == "flashed" else {}
    _tell(node, log, scene.run, state="failed", record=text, **heard)
    return NotArrived(reason)


def _tell(node: Node, log: Recorder, run: Run, **tags: str) -> None:
    """Record and tag; who cannot be reached does not change what is so."""
    for what, problem in (("record", log.save()), ("tags", tag(node, run, tags))):
        if problem:
            node.system.say(f"warning: the {what} could not be written: {problem}")


def _settle(node: Node, found: tuple[Found, ...], name: str) -> None:
    """So that the next boot does not do it again."""
    for one in found:
        try:
            files.rename(one.path, name)
        except FlashbootError as error:
            node.system.say(f"warning: {explain(error)}")
