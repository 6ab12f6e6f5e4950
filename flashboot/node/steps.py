"""The steps of leaving, in their order: each does one thing and says beforehand how to undo it.

Data filesystems see no write after `unmount`, and `flush` is the last thing that data disks hear
of this system.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flashboot.errors import (
    CommandFailed,
    DeviceBusy,
    FlashbootError,
    MachineError,
    NotStaged,
    Refused,
    explain,
)
from flashboot.machine.blockdevices import Layer
from flashboot.machine.process import Holder
from flashboot.node import files, holders, hooks, loading, residency, runs
from flashboot.node.check import users_of
from flashboot.node.findings import below
from flashboot.node.layout import Layout, Placed
from flashboot.node.leaving import PAUSE_SECONDS, Leaving
from flashboot.node.recorder import tag
from flashboot.node.runs import MAP, MARK, MARK_DIRECTORY, Mark, Staged
from flashboot.node.system import Node
from flashboot.record import Kind

# The rig and people on the console wait for exactly these words.
QUIET = "data filesystems are unmounted and flushed"

# A busy network must not make the downtime longer than this, for record and tag each.
_REPORT_SECONDS = 10.0
# After SIGTERM a process gets this long before SIGKILL, or half of the step's time.
_PATIENCE_SECONDS = 5.0
# kexec.target gives up by itself after half an hour (systemd.special(7), JobTimeoutSec).
_STOPPING_SECONDS = 1800
_SYSTEMCTL_SECONDS = 30.0
# What a stopped service may have taken with it, and what is worth starting again.
_UNIT_KINDS = (".service", ".socket", ".timer", ".path", ".target")


@dataclass(frozen=True, slots=True)
class Step:
    """A named step; `text` says to people what it does, `act` returns what came of it."""

    name: str
    text: str
    act: Callable[[Leaving], str]


def require_staged(node: Node) -> Staged:
    """What is staged in this boot and loaded. Raises NotStaged with the reason."""
    staged = runs.read_state(node.places.state)
    if staged is None:
        raise NotStaged
    if staged.run.boot_id != node.system.host().boot_id:
        raise NotStaged(
            hint=f"run {staged.run.name} was staged before the last restart, which has undone it; "
            "run `flashboot stage` again"
        )
    if not node.system.kexec_loaded():
        raise NotStaged(
            hint=f"somebody has unloaded the kernel of run {staged.run.name}; "
            "run `flashboot stage` again"
        )
    return staged


def run_hooks(job: Leaving) -> str:
    directory = job.options.hooks
    job.will_undo(
        "the hooks of after-abort",
        lambda: hooks.run_all(
            job.system, directory / hooks.AFTER_ABORT, job.run, timeout_seconds=job.timeout
        ),
    )
    names = hooks.run_all(
        job.system, directory / hooks.BEFORE_FLASH, job.run, timeout_seconds=job.timeout
    )
    return ", ".join(names) or "there are none"


def dump_residency(job: Leaving) -> str:
    """A map that cannot be made costs a cold start and nothing else: never a reason to stay."""
    pages = 0
    for place in _writable(job.survey()):
        directory = Path(place.target) / MARK_DIRECTORY
        path = directory / MAP
        job.will_undo(f"{path} removed", partial(_forget, path))
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            pages += residency.dump(
                job.system, path, Path(place.target), timeout_seconds=job.timeout
            )
        except (FlashbootError, OSError) as error:
            job.say(f"warning: no residency map of {place.target}: {explain(error)}")
        else:
            job.maps[place.target] = MAP
    return f"{pages} pages of {len(job.maps)} filesystems"


def mark_data(job: Leaving) -> str:
    """Tell the new system what it was made from: on the data, since the root disk is replaced."""
    found = job.survey()
    planned = holders.sort(users_of(job.system, found), own_unit=job.system.unit()).units
    services = tuple(dict.fromkeys((*job.options.services, *planned)))
    places = _writable(found)
    for place in places:
        path = Path(place.target) / MARK_DIRECTORY / MARK
        mark = Mark(
            run=job.run,
            left_at=job.system.now() // 1000,
            target=place.target,
            services=services,
            map=job.maps.get(place.target, ""),
        )
        job.will_undo(f"{path} removed", partial(_forget, path))
        files.write(path, runs.dump_mark(mark))
    return ", ".join(place.target for place in places) or "no data filesystem to write it to"


def stop_services(job: Leaving) -> str:
    """Stop whoever holds data, until nobody does."""
    before = _active_units(job)
    job.will_undo("the services that were stopped", lambda: _start_again(job, before))
    wanted = [unit for unit in job.options.services if unit not in job.options.kept]
    stopped: list[str] = []
    told: set[int] = set()
    patience = min(_PATIENCE_SECONDS, job.timeout / 2)
    users: tuple[Holder, ...] = ()
    for number in job.rounds():
        users = users_of(job.system, job.survey())
        held = holders.sort(users, own_unit=job.system.unit(), kept=job.options.kept)
        if held.barred:
            raise DeviceBusy("the data", "; ".join(held.barred))
        if held.people and not job.options.kill:
            raise DeviceBusy(
                "the data",
                "; ".join(map(str, held.people)),
                hint="end these processes, or say --kill",
            )
        new = [unit for unit in dict.fromkeys((*wanted, *held.units)) if unit not in stopped]
        if not users and not new:
            return ", ".join(stopped) or "nobody uses the data"
        _stop(job, new)
        stopped += new
        for person in held.people:
            if person.pid not in told or number * PAUSE_SECONDS >= patience:
                job.say(f"ending {person}, which is not started again if the flash fails")
                job.system.end_process(person.pid, force=person.pid in told)
                told.add(person.pid)
    raise DeviceBusy("the data", f"after {job.timeout:g} s still by {'; '.join(map(str, users))}")


def unmount(job: Leaving) -> str:
    """Unmount every data filesystem, the last mounted first."""
    found = job.survey()
    for swap in found.data_swaps:
        job.will_undo(
            f"{swap.path} swapped on again",
            partial(job.system.run, ["swapon", swap.path], timeout_seconds=job.timeout),
        )
        job.system.run(["swapoff", swap.path], timeout_seconds=job.timeout)
    for place in reversed(found.data_mounts):
        job.will_undo(f"{place.target} mounted again", partial(_mount, job, place))
        _unmount(job, place)
    return ", ".join(place.target for place in found.data_mounts) or "no data was mounted"


def deactivate(job: Leaving) -> str:
    """Stop md arrays and LVM groups on data disks, so that nothing writes their superblocks."""
    found = job.survey()
    done: dict[str, None] = {}
    for layer in found.layers:
        name = layer.group if layer.kind == "lvm" and layer.group else layer.name
        if name in done:
            continue
        if layer.kind == "lvm":
            _deactivate_lvm(job, name)
        elif layer.kind == "md":
            _stop_md(job, layer, found)
        else:
            raise MachineError(
                layer, "lies on a data disk", hint="stop it in a hook of before-flash"
            )
        done[name] = None
    return ", ".join(done) or "there are none"


def prove(job: Leaving) -> str:
    """Nothing is taken for granted: the kernel says that nobody has any part of a data disk."""
    problems: list[str] = []
    for _ in job.rounds():
        found = job.survey()
        problems = [f"{place.target} is mounted" for place in found.data_mounts]
        problems += [f"{swap.path} is swapped on" for swap in found.data_swaps]
        problems += [f"{layer} is active" for layer in found.layers]
        for disk in found.disks:
            who = job.system.claimed(disk)
            if who is not None:
                problems.append(f"{disk.path} is claimed by {who}")
        if not problems:
            return ", ".join(disk.path for disk in found.disks) or "there are no data disks"
    raise DeviceBusy("the data", "; ".join(problems))


def flush(job: Leaving) -> str:
    disks = job.survey().disks
    job.system.flush(disks, timeout_seconds=job.timeout)
    return ", ".join(disk.path for disk in disks)


def seal(job: Leaving) -> str:
    """Read-only until the end of this system: a late writer gets an error instead of the data."""
    disks = job.survey().disks
    for disk in disks:
        if not disk.read_only:
            job.will_undo(
                f"{disk.path} writable again",
                partial(job.system.set_read_only, disk, flag=False),
            )
            job.system.set_read_only(disk, flag=True)
    job.say(QUIET)
    return ", ".join(disk.path for disk in disks)


def arm(job: Leaving) -> str:
    """Load once more what is staged, now with the word that the RAM OS wants to see."""
    loadable = loading.kept(job.node)
    job.will_undo("what is loaded is not armed any more", lambda: loading.load(job.node, loadable))
    loading.load(job.node, loadable, armed=job.run.name)
    return f"run {job.run.name}"


def report(job: Leaving) -> str:
    """The last look, and the last word of this system."""
    staged = require_staged(job.node)
    if staged.run.name != job.run.name:
        raise Refused(f"run {staged.run.name} was staged in the meantime")
    job.will_undo("the state file says staged again", lambda: _stay(job))
    left_at = job.system.now() // 1000
    runs.write_state(job.node.places.state, replace(job.staged, left_at=left_at))
    text = f"run {job.run.name} leaves for image {job.run.image}"
    job.recorder.add("leave", Kind.OUTCOME, text, state="left", image=job.run.image)
    problems = {
        "record": job.recorder.save(seconds=_REPORT_SECONDS),
        "tags": tag(job.node, job.run, {"state": "flashing"}, seconds=_REPORT_SECONDS),
    }
    for what, problem in problems.items():
        if problem:
            job.say(f"warning: the {what} could not be written: {problem}")
    return text


def leave(job: Leaving) -> str:
    """Does not return where it works: systemd ends this process with all others."""
    job.signals.leaving()
    job.system.leave()
    for _ in job.rounds():
        pass
    waited = 0
    while waited < _STOPPING_SECONDS and _is_stopping(job):
        if not waited:
            job.say("systemd is still stopping services; waiting for it")
        job.system.pause(5)
        waited += 5
    raise MachineError("systemd", f"did not take the machine away within {job.timeout:g} s")


STEPS = (
    Step("hooks", "running the hooks of before-flash", run_hooks),
    Step("dump", "dumping which pages are in memory", dump_residency),
    Step("mark", "leaving word for the new system on the data filesystems", mark_data),
    Step("stop", "stopping whoever uses the data", stop_services),
    Step("unmount", "unmounting the data filesystems", unmount),
    Step("deactivate", "stopping md arrays and LVM groups", deactivate),
    Step("prove", "making sure that nothing uses a data disk", prove),
    Step("flush", "flushing the data disks", flush),
    Step("seal", "making the data disks read-only", seal),
    Step("arm", "telling the RAM OS that this is a flash", arm),
    Step("report", "telling that the node leaves", report),
    Step("leave", "leaving by kexec, through systemd", leave),
)


def describe(
    found: Layout, held: holders.Holders, services: tuple[str, ...]
) -> dict[str, list[str]]:
    """What each step would have to do here, by its name."""
    return {
        "dump": [place.target for place in _writable(found)],
        "stop": list(dict.fromkeys((*services, *held.units))),
        "in the way": [*map(str, held.people), *held.barred],
        "unmount": [f"{place.target} on {below(place)}" for place in reversed(found.data_mounts)],
        "swapoff": [swap.path for swap in found.data_swaps],
        "deactivate": [str(layer) for layer in found.layers],
        "seal": [disk.path for disk in found.disks],
    }


def _writable(found: Layout) -> tuple[Placed, ...]:
    return tuple(place for place in found.data_filesystems if not place.mount.read_only)


def _forget(path: Path) -> None:
    files.remove(path)
    with contextlib.suppress(OSError):  # it holds something else, or is not there
        path.parent.rmdir()


def _stop(job: Leaving, units: list[str]) -> None:
    if units:
        job.say(f"stopping {', '.join(units)}")
        # One call, so that systemd keeps the order that the units ask for.
        job.system.run(["systemctl", "stop", "--", *units], timeout_seconds=job.timeout)


def _active_units(job: Leaving) -> frozenset[str]:
    words = "systemctl list-units --state=active --plain --no-legend --no-pager --full"
    text = job.system.run(words.split(), timeout_seconds=_SYSTEMCTL_SECONDS).stdout
    names = (line.split()[0] for line in text.splitlines() if line.strip())
    return frozenset(name for name in names if name.endswith(_UNIT_KINDS))


def _start_again(job: Leaving, before: frozenset[str]) -> None:
    """Start what was active and is not any more: stopping one unit may have stopped others."""
    missing = sorted(before - _active_units(job))
    if missing:
        job.say(f"starting {', '.join(missing)}")
        job.system.run(["systemctl", "start", "--", *missing], timeout_seconds=job.timeout)


def _unmount(job: Leaving, place: Placed) -> None:
    """Unmount, and again while somebody looks through all mounts (udisks, df) and holds it."""
    busy: DeviceBusy | None = None
    for _ in job.rounds():
        try:
            job.system.unmount(place.target, timeout_seconds=job.timeout)
        except DeviceBusy as error:
            busy = error
        else:
            return
    assert busy is not None  # there is at least one round
    raise busy


def _mount(job: Leaving, place: Placed) -> None:
    """Mount it as it was: as fstab says, else as the kernel said."""
    mount = place.mount
    if any(other.mount_id == mount.mount_id for other in job.system.mounts()):
        return  # it was never unmounted
    job.first_that_works(
        ["mount", mount.target],
        *(_mount_command(job, place, options) for options in _option_sets(place)),
    )


def _option_sets(place: Placed) -> tuple[str, ...]:
    mount = place.mount
    everything = dict.fromkeys((*mount.options, *mount.super_options))
    # Some filesystems show options that they do not take.
    return (",".join(everything), ",".join(mount.options))


def _mount_command(job: Leaving, place: Placed, options: str) -> list[str]:
    mount = place.mount
    if mount.root == "/" or mount.filesystem == "btrfs":
        return ["mount", "-t", mount.filesystem, "-o", options, mount.source, mount.target]
    for other in job.system.mounts():
        if other.device == mount.device and other.root == "/":
            return ["mount", "--bind", other.target.rstrip("/") + mount.root, mount.target]
    return ["mount", mount.target]


def _deactivate_lvm(job: Leaving, group: str) -> None:
    job.will_undo(
        f"the volume group {group} active again",
        lambda: job.system.run(
            ["vgchange", "--activate", "y", "--", group], timeout_seconds=job.timeout
        ),
    )
    job.system.deactivate_lvm(group, timeout_seconds=job.timeout)


def _stop_md(job: Leaving, layer: Layer, found: Layout) -> None:
    array = f"/dev/{layer.name}"
    members = [f"/dev/{name}" for name in _members(job, layer)]

    def assemble() -> None:
        if layer.name not in {disk.name for disk in job.system.disks()}:
            job.first_that_works(
                ["mdadm", "--assemble", array, *members], ["mdadm", "--assemble", "--scan"]
            )

    job.will_undo(f"{array} assembled again", assemble)
    job.system.stop_md(layer.name, timeout_seconds=job.timeout)


def _members(job: Leaving, layer: Layer) -> tuple[str, ...]:
    return next((disk.slaves for disk in job.system.disks() if disk.name == layer.name), ())


def _stay(job: Leaving) -> None:
    runs.write_state(job.node.places.state, replace(job.staged, left_at=0))
    problem = tag(job.node, job.run, {"state": "staged"}, seconds=_REPORT_SECONDS)
    if problem:
        job.say(f"warning: the tags could not be written: {problem}")


def _is_stopping(job: Leaving) -> bool:
    try:
        argv = ["systemctl", "is-system-running"]
        done = job.system.run(argv, timeout_seconds=_SYSTEMCTL_SECONDS, check=False)
    except CommandFailed:
        return False
    return done.stdout.strip() == "stopping"
