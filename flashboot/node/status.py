"""`status`: ask this system, the store and the tags, in a few seconds; change nothing."""

from flashboot.errors import FlashbootError, explain
from flashboot.node import bounded, marks, recorder, report, runs
from flashboot.node.report import Heard, Known, Status
from flashboot.node.runs import Run, Staged
from flashboot.node.system import Node
from flashboot.record import Event, Program

# For the store, for the tags and for the metadata service each.
ASK_SECONDS = 10.0


def status(node: Node, *, seconds: float = ASK_SECONDS) -> Status:
    """Where the node stands. Raises MachineError where /proc or the state file cannot be read."""
    known = _known(node)
    run = report.has_left(known)
    if run is not None:
        heard = hear(node, run, seconds=seconds)
    elif known.state is None and known.mark is None:
        heard = _ask_tags(node, seconds=seconds)
    else:
        heard = Heard()
    return report.judge(known, heard)


def hear(node: Node, run: Run, *, seconds: float) -> Heard:
    """What store and tags say of `run`, within twice `seconds`. Raises nothing."""
    words: dict[Program, Event | None] = {}
    tags: dict[str, str] = {}

    def ask_store() -> None:
        for program in (Program.FLASHER, Program.ARRIVE):
            words[program] = recorder.last_word(recorder.fetch(node, run, program))

    def ask_tags() -> None:
        tags.update(node.open_tags(run.instance, run.cloud).read())

    problems = {
        f"the store {run.store}": bounded.attempt(ask_store, seconds=seconds),
        "the tags": bounded.attempt(ask_tags, seconds=seconds),
    }
    return Heard(
        flasher=words.get(Program.FLASHER),
        arrive=words.get(Program.ARRIVE),
        tags=dict(tags),
        problems=tuple(f"{who}: {problem}" for who, problem in problems.items() if problem),
    )


def _known(node: Node) -> Known:
    found = marks.find_any(node.system)
    return Known(
        state=_own_state(node),
        mark=found.mark if found else None,
        mark_name=found.path.name if found else "",
        boot_id=node.system.host().boot_id,
        loaded=node.system.kexec_loaded(),
    )


def _own_state(node: Node) -> Staged | None:
    """The state file, unless it came with an image that was made from another node's disk."""
    state = runs.read_state(node.places.state)
    if state is None or not state.run.old_disk_guid:
        return state
    try:
        guid = node.system.disk_guid(node.system.root_disk())
    except FlashbootError:
        return state
    return state if guid == state.run.old_disk_guid else None


def _ask_tags(node: Node, *, seconds: float) -> Heard:
    tags: dict[str, str] = {}

    def ask() -> None:
        tags.update(node.open_tags(node.instance(), node.cloud).read())

    try:
        bounded.bounded(ask, seconds=seconds)
    except (FlashbootError, OSError) as error:
        return Heard(problems=(f"the tags: {explain(error)}",))
    return Heard(tags=dict(tags))
