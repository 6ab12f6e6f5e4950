"""`flash`: leave the running system for the RAM OS, in order, or stay as if nothing had been.

The cause of a failure is told first, then everything is undone, the last first. Cleaning up never
hides the cause.
"""

import os
from dataclasses import dataclass

from flashboot.errors import LeaveFailed, NotConfirmed, Refused, explain
from flashboot.node import findings, holders, layout
from flashboot.node.check import users_of
from flashboot.node.layout import Layout
from flashboot.node.leaving import FlashOptions, Leaving
from flashboot.node.recorder import Recorder, tag
from flashboot.node.runs import Staged
from flashboot.node.signals import Signals
from flashboot.node.steps import STEPS, describe, require_staged
from flashboot.node.system import Node
from flashboot.record import Kind

UNPROTECTED = (
    "from the first to the last write the disk does not boot: a power cut in between leaves an "
    "instance that needs its root volume replaced (the island that prevents this is not built yet)"
)


@dataclass(frozen=True, slots=True)
class Departure:
    """What `flash` would do: the run, and what is there for each step."""

    staged: Staged
    items: dict[str, list[str]]


def plan(node: Node, options: FlashOptions) -> Departure:
    """Look at everything, change nothing. Raises NotStaged, and Refused with every reason."""
    staged = require_staged(node)
    found = layout.survey(node.system)
    _require_possible(found, staged)
    held = holders.sort(
        users_of(node.system, found), own_unit=node.system.unit(), kept=options.kept
    )
    return Departure(staged, describe(found, held, options.services))


def flash(node: Node, options: FlashOptions, *, unprotected: bool, confirmed: bool) -> None:
    """Leave. Does not return where it works.

    Raises Refused and NotConfirmed without having done anything; NotStaged; LeaveFailed once
    everything was undone.
    """
    if not unprotected:
        raise Refused(UNPROTECTED, hint="say --unprotected if you accept that")
    departure = plan(node, options)
    run = departure.staged.run
    if not confirmed:
        raise NotConfirmed(f"replace the system of {run.instance} by image {run.image}")
    os.chdir("/")  # our own working directory may lie on the data
    node.system.say(f"run {run.name}: leaving for image {run.image}; {UNPROTECTED}")
    recorder = Recorder(node, run)
    recorder.add("flash", Kind.BEGAN, f"leaving for image {run.image}")
    # Before anything is down: this also makes the clients, which takes time on a small machine.
    problem = recorder.save()
    if problem:
        node.system.say(f"warning: the record could not be written: {problem}")
    with Signals() as signals:
        job = Leaving(node, departure.staged, options, recorder, signals)
        _go(job)


def _go(job: Leaving) -> None:
    name = ""
    try:
        for number, step in enumerate(STEPS, start=1):
            name = step.name
            start = job.system.now()
            job.recorder.say(name, Kind.BEGAN, f"flash {number}/{len(STEPS)} {name}: {step.text}")
            words = step.act(job)
            seconds = (job.system.now() - start) / 1000
            job.recorder.add(name, Kind.DONE, words, milliseconds=int(seconds * 1000))
            job.say(f"flash {number}/{len(STEPS)} {name}: {words} ({seconds:.1f} s)")
    except (Exception, KeyboardInterrupt) as error:
        raise _stay(job, name, error) from error


def _stay(job: Leaving, name: str, error: BaseException) -> LeaveFailed:
    """Tell the cause, undo everything, report; the error to raise."""
    job.signals.undoing()
    interrupted = isinstance(error, KeyboardInterrupt)
    cause = f"{name}: " + ("it was interrupted" if interrupted else explain(error))
    job.note(f"the node does not leave: {cause}")
    job.recorder.add(name, Kind.FAILED, cause)
    failures = job.undo()
    text = f"stayed in the old system: {cause}"
    job.recorder.add("leave", Kind.OUTCOME, text, state="stayed", image=job.run.image)
    job.recorder.save()
    tag(job.node, job.run, {"state": "staged", "record": text})
    if failures:
        job.note(f"{len(failures)} things could not be undone")
        return LeaveFailed(cause, hint="could not be undone: " + "; ".join(failures))
    return LeaveFailed(cause)


def _require_possible(found: Layout, staged: Staged) -> None:
    reasons = [f"{name} lies on the root disk and on others at once" for name in found.shared]
    reasons += [f"{mount.target} is {mount.filesystem}" for mount in found.foreign]
    if found.root is None:
        reasons.append(found.root_problem)
    elif (found.root.serial or "") != staged.run.root_serial:
        reasons.append(
            "the root device is "
            + findings.describe(found.root.path, found.root.serial, found.root.model)
            + f", but serial {staged.run.root_serial} was staged"
        )
    if reasons:
        raise Refused("; ".join(reasons))
