"""Leaving: every way in which it can fail ends where it began, and the cause is told first."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flashboot import handoff
from flashboot.errors import (
    LeaveFailed,
    MachineError,
    NotConfirmed,
    NotStaged,
    Refused,
    explain,
)
from flashboot.machine.blockdevices import Layer
from flashboot.machine.process import Holder
from flashboot.node import flash, loading, runs, stage, steps
from flashboot.node.check import Wish
from flashboot.node.leaving import FlashOptions, Leaving
from flashboot.node.stage import StageOptions
from flashboot.record import Kind, Program
from tests.unit.test_node_world import URL, Gone, World


def staged_world(home: Path) -> World:
    world = World(home)
    world.publish()
    stage.stage(world.node, StageOptions(wish=Wish(image="app-42", store=URL)))
    for kind in ("before-flash", "after-abort"):
        world.hook(kind, "10-tell")
    world.system.deeds.clear()
    world.system.said.clear()
    return world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.chdir(tmp_path)  # flash goes to '/'
    return staged_world(tmp_path)


def leave(world: World, **changes: object) -> None:
    values = {"hooks": world.node.places.hooks, "timeout_seconds": 5.0, **changes}
    options = FlashOptions(**values)  # type: ignore[arg-type]  # its fields by name
    flash.flash(world.node, options, unprotected=True, confirmed=True)


def run_name(world: World) -> str:
    state = runs.read_state(world.node.places.state)
    assert state is not None
    return state.run.name


def armed(world: World) -> bool:
    """Whether the archive that is loaded ends with the word that `flash` has left for this run."""
    assert world.system.kexec is not None
    _, initramfs, _ = world.system.kexec
    return initramfs.endswith(loading.archive(handoff.arming(run_name(world))))


def test_the_whole_way_in_its_order(world: World) -> None:
    before = world.system.snapshot()
    with pytest.raises(Gone):
        leave(world)
    deeds = world.system.deeds
    assert deeds[0] == "10-tell"
    assert "stop db.service" in " | ".join(deeds)
    wanted = [
        "systemctl stop db.service", "swapoff nvme4n1", "unmount logs", "unmount data",
        "stop md0", "stop dm-0", "flush nvme1n1 nvme2n1 nvme3n1 nvme4n1",
        *(f"nvme{n}n1 read-only: True" for n in range(1, 5)), "load kexec", "leave",
    ]  # fmt: skip
    assert deeds[-len(wanted) :] == wanted
    assert world.system.snapshot() != before
    assert armed(world)
    said = world.system.said
    quiet = said.index(steps.QUIET)
    assert steps.QUIET == "data filesystems are unmounted and flushed"
    assert any(line.startswith("flash 11/12 report") for line in said[quiet:])
    state = runs.read_state(world.node.places.state)
    assert state is not None
    assert state.left_at > 0
    assert world.tags.values["state"] == "flashing"
    told = world.record(state.run.name, Program.NODE)
    assert told.events[0].phase == "stage"
    assert told.outcome is not None
    assert told.outcome.facts["state"] == "left"
    assert Path.cwd() == Path("/")


def test_the_marks_tell_the_new_system_what_it_needs(world: World) -> None:
    with pytest.raises(Gone):
        leave(world)
    for name in ("data", "logs"):
        path = world.home / f"fs-{name}/.flashboot"
        mark = runs.load_mark((path / "run.json").read_bytes())
        assert mark.run.name == run_name(world)
        assert mark.services == ("db.service",)
        assert mark.target.endswith(name)
        assert (path / mark.map).read_bytes() == b"a map"
        assert (path / "run.json").stat().st_mode & 0o777 == 0o600


def deeds_of_a_flash(home: Path) -> list[str]:
    world = staged_world(home)
    here = Path.cwd()
    try:
        with pytest.raises(Gone):
            leave(world)
    finally:
        os.chdir(here)
    return world.system.deeds


def breaking(deed: str, when: str, error: BaseException) -> Callable[[str, str], None]:
    """A fault that happens once."""
    armed = [error]

    def fault(now: str, text: str) -> None:
        if armed and (now, text) == (when, deed):
            raise armed.pop()

    return fault


@pytest.mark.parametrize("error", [MachineError("it", "broke"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["before", "after"])
def test_whatever_breaks_all_of_it_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, error: BaseException
) -> None:
    """Every single deed of the way, and not only every step, breaks once."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    deeds = deeds_of_a_flash(tmp_path / "model")
    assert len(set(deeds)) == len(deeds)
    for number, deed in enumerate(deeds):
        if deed.startswith("python") or (deed == "leave" and when == "after"):
            continue  # a dump that fails is no reason to stay; who has left cannot break
        home = tmp_path / str(number)
        home.mkdir()
        world = staged_world(home)
        before = world.system.snapshot()
        world.system.fault = breaking(deed, when, error)
        with pytest.raises(LeaveFailed) as caught:
            leave(world)
        assert world.system.snapshot() == before, deed
        assert caught.value.__cause__ is not None
        assert "undone" not in caught.value.advice
        state = runs.read_state(world.node.places.state)
        assert state is not None
        assert state.left_at == 0
        assert world.tags.values["state"] == "staged"
        cause = next(i for i, line in enumerate(world.system.said) if "does not leave" in line)
        undone = [i for i, line in enumerate(world.system.said) if line.startswith("undone")]
        assert undone
        assert cause < min(undone), "the cause is told first"
        told = world.record(state.run.name, Program.NODE)
        assert told.outcome is not None
        assert told.outcome.facts["state"] == "stayed"
        assert world.system.deeds[-1] == "10-tell", "the operator's hooks of after-abort come last"


@pytest.mark.parametrize("step", steps.STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("error", [OSError(5, "broken"), KeyboardInterrupt(), ValueError("a bug")])
def test_a_step_that_fails_at_its_end_is_undone(
    world: World, monkeypatch: pytest.MonkeyPatch, step: steps.Step, error: BaseException
) -> None:
    def broken(job: Leaving) -> str:
        if step.name != "leave":
            step.act(job)
        raise error

    changed = tuple(
        steps.Step(one.name, one.text, broken) if one is step else one for one in steps.STEPS
    )
    monkeypatch.setattr(flash, "STEPS", changed)
    before = world.system.snapshot()
    with pytest.raises(LeaveFailed, match=step.name):
        leave(world)
    assert world.system.snapshot() == before


def test_undoing_goes_backwards(world: World) -> None:
    world.system.fault = breaking("leave", "before", MachineError("systemd", "said no"))
    with pytest.raises(LeaveFailed):
        leave(world)
    sealed = world.system.deeds.index("nvme4n1 read-only: True")
    assert world.system.deeds[sealed + 1 : sealed + 3] == ["load kexec", "load kexec"]
    assert not armed(world), "what is loaded is only staged again"
    back = world.system.deeds[sealed + 3 :]
    mounts = [deed for deed in back if deed.startswith("mount -t")]
    assert back[:4] == [f"nvme{n}n1 read-only: False" for n in (4, 3, 2, 1)]
    assert [deed.split()[0] for deed in back[4:6]] == ["vgchange", "mdadm"]
    assert [deed.split()[-1] for deed in mounts] == ["data", "logs"]
    assert "rw,relatime,stripe=8" in mounts[0]
    assert back[-2:] == ["systemctl start db.service db.timer", "10-tell"]


def test_what_cannot_be_undone_is_told_and_the_rest_is_undone(world: World) -> None:
    def fault(when: str, deed: str) -> None:
        if when == "before" and (deed == "leave" or deed.startswith("vgchange")):
            raise MachineError(deed, "broke")

    world.system.fault = fault
    with pytest.raises(LeaveFailed) as caught:
        leave(world)
    assert "volume group vg" in caught.value.advice
    assert "logs mounted again" in caught.value.advice
    assert "leave: leave: broke" in explain(caught.value)
    assert "db.service" in world.system.active
    assert [place.source for place in world.system.mounted] == ["/dev/md0"]


def test_systemd_that_does_not_take_us_away_is_a_failure(world: World) -> None:
    world.system.goes = False
    before = world.system.snapshot()
    with pytest.raises(LeaveFailed, match="did not take the machine away"):
        leave(world)
    assert world.system.snapshot() == before


def test_store_and_tags_that_fail_are_no_reason_to_stay(world: World) -> None:
    def fault(operation: str, key: str) -> None:
        raise MachineError("the store", "is down")

    world.store.fault = fault
    world.tags.problem = MachineError("the tags", "are down")
    with pytest.raises(Gone):
        leave(world)
    assert any("the tags could not be written" in line for line in world.system.said)


def test_a_dump_that_fails_is_no_reason_to_stay(world: World) -> None:
    def fault(when: str, deed: str) -> None:
        if "happycache" in deed:
            raise MachineError("happycache", "broke")

    world.system.fault = fault
    with pytest.raises(Gone):
        leave(world)
    assert any("no residency map" in line for line in world.system.said)
    assert runs.load_mark((world.home / "fs-data/.flashboot/run.json").read_bytes()).map == ""


def test_a_failing_hook_stops_it_before_anything_is_stopped(world: World) -> None:
    world.hook("before-flash", "20-bad")
    with pytest.raises(LeaveFailed, match="20-bad"):
        leave(world)
    assert world.system.deeds == ["10-tell", "20-bad", "10-tell"]


PERSON = Holder(500, "bash", "session-7.scope", ("/data",))


def test_people_in_the_way_are_named_and_nothing_is_stopped(world: World) -> None:
    world.system.people = [PERSON]
    with pytest.raises(LeaveFailed, match=r"bash \(pid 500"):
        leave(world)
    assert not any("systemctl stop" in deed for deed in world.system.deeds)


def test_kill_ends_people_gently_first(world: World) -> None:
    stubborn = Holder(666, "vi", None, ("/data/x",))
    world.system.people = [PERSON, stubborn]
    with pytest.raises(Gone):
        leave(world, kill=True)
    ends = [deed for deed in world.system.deeds if deed.startswith("end")]
    assert ends == ["end 500", "end 666", "end 666 by force"]


@pytest.mark.parametrize(
    ("changes", "own_unit", "words"),
    [
        ({"kept": ("db.service",)}, "x.service", "is to be kept"),
        ({}, "db.service", "runs in the same unit"),
    ],
)
def test_units_that_may_not_be_stopped(
    world: World, changes: dict[str, object], own_unit: str, words: str
) -> None:
    world.system.own_unit = own_unit
    with pytest.raises(LeaveFailed, match=words):
        leave(world, **changes)
    assert "db.service" in world.system.active


def test_a_service_that_never_lets_go_ends_at_the_deadline(world: World) -> None:
    world.system.stubborn = {"db.service", "ssh.service"}
    with pytest.raises(LeaveFailed, match="still by db"):
        leave(world)
    assert "db.service" in world.system.active


def test_named_services_are_stopped_even_if_they_hold_nothing(world: World) -> None:
    with pytest.raises(Gone):
        leave(world, services=("ssh.service",))
    assert "systemctl stop ssh.service db.service" in world.system.deeds


def test_another_layer_is_the_operators_business(world: World) -> None:
    crypt = Layer("dm-1", "crypt", "secret", None, world.system.layers["md0"].number)
    world.system.layers["dm-0"] = crypt
    with pytest.raises(LeaveFailed, match="hook of before-flash"):
        leave(world)


def test_it_asks_for_all_that_it_needs(world: World) -> None:
    options = FlashOptions(hooks=world.node.places.hooks)
    with pytest.raises(Refused, match="power cut"):
        flash.flash(world.node, options, unprotected=False, confirmed=True)
    with pytest.raises(NotConfirmed, match="app-42"):
        flash.flash(world.node, options, unprotected=True, confirmed=False)
    assert world.system.deeds == []


@pytest.mark.parametrize("how", ["nothing", "another boot", "unloaded"])
def test_what_is_not_staged_is_not_flashed(world: World, how: str) -> None:
    if how == "nothing":
        world.node.places.state.unlink()
    elif how == "another boot":
        world.system.boot = "later"
    else:
        world.system.loaded = False
    with pytest.raises(NotStaged):
        leave(world)
    assert world.system.deeds == []


def test_another_root_device_than_the_staged_one_is_refused(world: World) -> None:
    world.system.root = world.system.data[3]
    with pytest.raises(Refused, match="vol0123456789abcdef0 was staged"):
        leave(world)


def test_the_plan_changes_nothing_and_names_everything(world: World) -> None:
    before = world.system.snapshot()
    items = flash.plan(world.node, FlashOptions(hooks=world.node.places.hooks)).items
    assert items["stop"] == ["db.service"]
    assert [line.split()[0].rpartition("/")[2] for line in items["unmount"]] == ["logs", "data"]
    assert items["deactivate"] == ["md0 (md raid0)", "dm-0 (lvm vg-logs)"]
    assert items["swapoff"] == ["/dev/nvme4n1"]
    assert world.system.snapshot() == before
    assert world.system.deeds == []


def test_events_of_a_failure_are_kept(world: World) -> None:
    world.system.fault = breaking("unmount data", "before", MachineError("/data", "hangs"))
    with pytest.raises(LeaveFailed):
        leave(world)
    told = world.record(run_name(world), Program.NODE)
    failed = [event for event in told.events if event.kind is Kind.FAILED]
    assert [event.phase for event in failed] == ["unmount"]
    assert "hangs" in failed[0].text


def test_a_disk_that_somebody_claims_is_not_quiet(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount in another namespace shows in no mountinfo of ours."""
    before = world.system.snapshot()
    monkeypatch.setattr(
        world.system, "claimed", lambda disk: "a container" if disk.name == "nvme4n1" else None
    )
    with pytest.raises(LeaveFailed, match="nvme4n1 is claimed by a container"):
        leave(world)
    assert not [deed for deed in world.system.deeds if deed.startswith("flush")]
    assert steps.QUIET not in world.system.said
    assert world.system.snapshot() == before
