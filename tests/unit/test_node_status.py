"""status and arrive: what a system says of a run, in each of the ways in which one can end."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from flashboot import record
from flashboot.errors import CommandFailed, MachineError, NotArrived, StoreUnavailable
from flashboot.node import arrival, arrive, flash, marks, report, runs, stage, status
from flashboot.node.arrival import Outcome
from flashboot.node.arrive import ArriveOptions
from flashboot.node.check import Wish
from flashboot.node.leaving import FlashOptions
from flashboot.node.report import Heard, Known, Situation
from flashboot.node.runs import Mark, Run
from flashboot.node.stage import StageOptions
from flashboot.node.words import Word
from flashboot.record import Event, Kind, Program, Record
from tests.unit.test_node_world import INSTANCE, NEW_BOOT, NEW_GUID, OLD_GUID, URL, Gone, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.chdir(tmp_path)
    result = World(tmp_path)
    result.publish()
    return result


def stage_it(world: World) -> Run:
    return stage.stage(world.node, StageOptions(wish=Wish(image="app-42", store=URL))).staged.run


def leave(world: World) -> Run:
    """Stage and leave; the machine is between two systems then."""
    run = stage_it(world)
    options = FlashOptions(hooks=world.node.places.hooks)
    with pytest.raises(Gone):
        flash.flash(world.node, options, unprotected=True, confirmed=True)
    return run


def boot(world: World, *, new: bool) -> None:
    """The next system: NEW has another root disk, OLD its own; both mount the data."""
    system = world.system
    system.boot, system.loaded = NEW_BOOT, False
    system.deeds.clear()
    system.said.clear()
    system.layers = system.layers_all
    for place in system.filesystems:
        system.attach(place)
    if new:
        system.guid = NEW_GUID
        world.node.places.state.unlink()


def flasher(world: World, run: Run, text: str, **facts: int | str) -> None:
    """The flasher's record, with one outcome."""
    event = Event(1, Program.FLASHER, "report", Kind.OUTCOME, text, facts)
    data = record.dump(Record(run.name, INSTANCE, (event,)))
    world.store.put(record.key(INSTANCE, run.name, program=Program.FLASHER), data, replace=True)


def flashed(world: World, run: Run, **changes: str) -> None:
    facts = {"state": "flashed", "image": run.image, "digest": run.digest, "disk_guid": NEW_GUID}
    flasher(world, run, "flashed", **{**facts, **changes})


def tagged(world: World, run: Run, /, **changes: str) -> None:
    """The flasher's tags, where its record could not be stored."""
    plain = {"state": "flashed", "run": run.name, "image": run.image, "digest": run.digest}
    world.tags.values = {**plain, "record": "flashed app-42, 7 bytes written", **changes}


def denied(world: World) -> None:
    """A store that gives and takes no records."""

    def fault(operation: str, key: str) -> None:
        raise StoreUnavailable(URL, key, "no route")

    world.store.fault = fault


def situation(world: World) -> tuple[Situation, str]:
    found = status.status(world.node)
    return found.situation, found.text


def test_nothing_is_known(world: World) -> None:
    assert situation(world)[0] is Situation.NOTHING
    world.metadata = False
    assert situation(world)[0] is Situation.NOTHING


def test_only_the_tags_know(world: World) -> None:
    world.tags.values = {"run": "r1", "state": "flashing"}
    found, text = situation(world)
    assert found is Situation.STRANGE
    assert "state flashing" in text


def test_a_cancelled_run_is_told(world: World) -> None:
    run = stage_it(world)
    stage.cancel(world.node)
    wanted = f"Nothing is staged; run {run.name} was cancelled."
    assert situation(world) == (Situation.NOTHING, wanted)


def test_staged_unloaded_and_expired(world: World) -> None:
    run = stage_it(world)
    found, text = situation(world)
    assert found is Situation.STAGED
    assert run.name in text
    assert "2023-11-14 22:13" in text
    assert "`flashboot flash --unprotected --yes` leaves for it" in text
    world.system.loaded = False
    assert situation(world)[0] is Situation.UNLOADED
    world.system.boot = NEW_BOOT
    assert situation(world)[0] is Situation.EXPIRED


def test_leaving(world: World) -> None:
    leave(world)
    assert situation(world)[0] is Situation.LEAVING


def test_old_again_and_the_flasher_says_why(world: World) -> None:
    run = leave(world)
    flasher(world, run, "returned to the old system: Chunk 3 is wrong.", state="returned")
    boot(world, new=False)
    found, text = situation(world)
    assert found is Situation.RETURNED
    assert text.endswith("did not happen, this is the old system: Chunk 3 is wrong.")


def test_old_again_and_only_the_tags_say_why(world: World) -> None:
    run = leave(world)
    world.tags.values = {"run": run.name, "state": "returned", "record": "returned: no route"}
    boot(world, new=False)
    found, text = situation(world)
    assert found is Situation.RETURNED
    assert text.endswith("did not happen, this is the old system: no route")


def test_old_again_and_nobody_says_anything(world: World) -> None:
    run = leave(world)
    boot(world, new=False)
    found, text = situation(world)
    assert found is Situation.SILENT
    assert f"Run {run.name} left at 2023-11-14" in text
    assert "did not report; the console log has the reason" in text


def test_old_again_and_nobody_can_be_asked(world: World) -> None:
    run = leave(world)
    boot(world, new=False)

    def fault(operation: str, key: str) -> None:
        raise StoreUnavailable(URL, key, "no answer")

    world.store.fault = fault
    world.tags.problem = MachineError("the tags", "are silent")
    found = status.status(world.node)
    assert found.situation is Situation.SILENT
    assert run.name in found.text
    assert len(found.problems) == 2
    assert "no answer" in found.problems[0]


def test_tags_of_another_run_do_not_count(world: World) -> None:
    leave(world)
    world.tags.values = {"run": "other", "state": "returned", "record": "long ago"}
    boot(world, new=False)
    assert situation(world)[0] is Situation.SILENT


def test_an_old_system_that_was_replaced_is_strange(world: World) -> None:
    flashed(world, leave(world))
    boot(world, new=False)
    assert situation(world)[0] is Situation.STRANGE


def test_an_old_system_that_was_replaced_is_strange_by_its_tags_too(world: World) -> None:
    tagged(world, leave(world))
    boot(world, new=False)
    found, text = situation(world)
    assert found is Situation.STRANGE
    assert text.endswith("So say the instance's tags; the flasher's record is not there.")


def test_new_before_and_after_its_arrival(world: World) -> None:
    run = leave(world)
    flashed(world, run)
    boot(world, new=True)
    found, text = situation(world)
    assert found is Situation.FLASHED
    assert run.digest in text
    arrive.arrive(world.node, options(world))
    found, text = situation(world)
    assert found is Situation.READY
    assert run.digest in text
    value = report.value(status.status(world.node))
    assert value["situation"] == "ready"
    assert value["facts"]["resident_pages"] == 16


def test_a_state_file_that_came_with_an_image_is_not_ours(world: World) -> None:
    stage_it(world)
    world.system.guid = NEW_GUID
    world.system.boot = NEW_BOOT
    assert situation(world)[0] is not Situation.EXPIRED


RUN = Run(
    name="r1", image="app", digest="d", store=URL, instance=INSTANCE, boot_id="old",
    root_serial="vol0", old_disk_guid=OLD_GUID,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "heard", "wanted"),
    [
        ("run.done.json", Heard(), Situation.READY),
        ("run.returned.json", Heard(), Situation.RETURNED),
        ("run.json", Heard(), Situation.SILENT),
        ("run.json", Heard(tags={"run": "r1", "state": "flashed"}), Situation.FLASHED),
        ("run.json", Heard(tags={"run": "r1", "state": "returned"}), Situation.RETURNED),
        (
            "run.json",
            Heard(arrive=Event(1, Program.ARRIVE, "arrive", Kind.FAILED, "no", {})),
            Situation.FLASHED,
        ),
    ],
)
def test_what_the_mark_alone_tells(name: str, heard: Heard, wanted: Situation) -> None:
    known = Known(mark=Mark(run=RUN, left_at=5, target="/data"), mark_name=name)
    assert report.judge(known, heard).situation is wanted


@pytest.mark.parametrize("who", ["record", "tags"])
def test_why_it_is_not_ready_is_told_once(who: str) -> None:
    text = "not ready: the hook said no"
    heard = Heard(tags={"run": "r1", "state": "failed", "record": text})
    if who == "record":
        heard = Heard(arrive=Event(1, Program.ARRIVE, "arrive", Kind.FAILED, text, {}))
    known = Known(mark=Mark(run=RUN, left_at=5, target="/data"), mark_name="run.json")
    found = report.judge(known, heard)
    assert found.situation is Situation.FLASHED
    assert found.text == "Run r1 is not ready: the hook said no"


def options(world: World, **changes: object) -> ArriveOptions:
    values = {"hooks": world.node.places.hooks, "patience_seconds": 9.0, **changes}
    return ArriveOptions(**values)  # type: ignore[arg-type]  # its fields by name


def test_nothing_to_do(world: World) -> None:
    found = arrive.arrive(world.node, options(world))
    assert found.outcome is Outcome.NOTHING
    leave(world)
    boot_back = world.system
    boot(world, new=False)
    boot_back.boot = "boot-of-old"
    assert arrive.arrive(world.node, options(world)).outcome is Outcome.NOTHING


def test_ready(world: World) -> None:
    run = leave(world)
    flashed(world, run)
    boot(world, new=True)
    world.hook("after-arrive", "10-tell")
    found = arrive.arrive(world.node, options(world))
    assert found.outcome is Outcome.READY
    assert world.system.deeds[-1] == "10-tell"
    line = f"ready: image app-42 digest {run.digest} pages 16 of 18 resident"
    assert world.system.said[-1] == line
    assert world.tags.values["state"] == "ready"
    assert world.tags.values["digest"] == run.digest
    outcome = world.record(run.name, Program.ARRIVE).outcome
    assert outcome is not None
    assert outcome.facts["disk_guid"] == NEW_GUID
    assert outcome.facts["asked_pages"] == 18
    assert (
        sorted(path.name for path in world.home.glob("fs-*/.flashboot/*.json"))
        == ["run.done.json"] * 2
    )
    world.system.deeds.clear()
    assert arrive.arrive(world.node, options(world)).outcome is Outcome.NOTHING
    assert world.system.deeds == [], "a second boot does not do it again"


def test_the_stores_own_settings_travel_with_the_run(world: World) -> None:
    run = leave(world)
    flashed(world, run)
    boot(world, new=True)
    world.asked.clear()
    arrive.arrive(replace(world.node, cloud={}), options(world))
    assert world.asked[0] == (URL, run.cloud)


def test_a_network_that_comes_late_is_waited_for(world: World) -> None:
    flashed(world, leave(world))
    boot(world, new=True)
    silent = [1, 2]

    def fault(operation: str, key: str) -> None:
        if silent:
            silent.pop()
            raise StoreUnavailable(URL, key, "no route")

    world.store.fault = fault
    assert arrive.arrive(world.node, options(world)).outcome is Outcome.READY
    assert "waiting for the flasher's record" in " ".join(world.system.said)


def test_a_rewarm_that_fails_does_not_make_it_unready(world: World) -> None:
    flashed(world, leave(world))
    boot(world, new=True)

    def fault(when: str, deed: str) -> None:
        if "happycache" in deed:
            raise CommandFailed("happycache", "exit code 12", "damaged")

    world.system.fault = fault
    assert arrive.arrive(world.node, options(world)).outcome is Outcome.READY
    assert "pages 0 of 0 resident" in world.system.said[-1]


@pytest.mark.parametrize(
    ("changes", "guid", "words"),
    [
        ({"image": "app-41"}, NEW_GUID, "image written is app-41, app-42 was staged"),
        ({"digest": "00"}, NEW_GUID, "digest written is 00"),
        ({"disk_guid": "other"}, NEW_GUID, "identifier is 99999999"),
        ({}, OLD_GUID, "identifier is 11111111"),
    ],
)
def test_another_system_than_the_flashed_one(
    world: World, changes: dict[str, str], guid: str, words: str
) -> None:
    run = leave(world)
    flashed(world, run, **changes)
    boot(world, new=True)
    world.system.guid = guid
    with pytest.raises(NotArrived, match=words) as caught:
        arrive.arrive(world.node, options(world))
    assert caught.value.exit_code == 53
    assert world.tags.values["state"] == "failed"
    assert "happycache" not in " ".join(world.system.deeds)
    assert marks.find(world.system), "the next start tries again"


def test_another_root_device(world: World) -> None:
    flashed(world, leave(world))
    boot(world, new=True)
    world.system.root = replace(world.system.root, serial="vol9")
    with pytest.raises(NotArrived, match="serial is vol9"):
        arrive.arrive(world.node, options(world))


def test_a_new_system_without_a_record_has_not_arrived(world: World) -> None:
    leave(world)
    boot(world, new=True)
    with pytest.raises(NotArrived, match="left no record"):
        arrive.arrive(world.node, options(world))


@pytest.mark.parametrize("guid", ["", NEW_GUID])
@pytest.mark.parametrize("how", ["no record", "no store"])
def test_the_tags_are_the_flashers_word_where_its_record_is_not_there(
    world: World, how: str, guid: str
) -> None:
    run = leave(world)
    tagged(world, run, **({"disk_guid": guid} if guid else {}))
    boot(world, new=True)
    if how == "no store":
        denied(world)
    found, text = situation(world)
    assert found is Situation.FLASHED
    assert "So say the instance's tags" in text
    arrived = arrive.arrive(world.node, options(world))
    assert arrived.outcome is Outcome.READY
    why = {
        "no record": "; by the instance's tags, as the flasher left no record",
        "no store": "; by the instance's tags, as the flasher's record cannot be read: ",
    }
    assert why[how] in arrived.text
    assert world.tags.values["state"] == "ready"
    assert situation(world)[0] is Situation.READY


@pytest.mark.parametrize(
    ("changes", "guid", "words"),
    [
        ({"run": "other"}, NEW_GUID, "left no record"),
        ({"state": "flashing"}, NEW_GUID, "left no record"),
        ({"image": ""}, NEW_GUID, "image written is unknown"),
        ({"image": "app-41"}, NEW_GUID, "image written is app-41"),
        ({"digest": "00"}, NEW_GUID, "digest written is 00"),
        ({}, OLD_GUID, "identifier is 11111111.*, which is the old system's"),
        ({}, "", "identifier is unknown"),
        ({"disk_guid": "other"}, NEW_GUID, "identifier is 99999999.*, other was written"),
        # An earlier run's, and arrive has failed without having heard of this one.
        ({"state": "failed"}, NEW_GUID, "left no record"),
        ({"state": "failed", "flashed": "other"}, NEW_GUID, "left no record"),
    ],
)
def test_tags_that_do_not_fit(world: World, changes: dict[str, str], guid: str, words: str) -> None:
    tagged(world, leave(world), **changes)
    boot(world, new=True)
    world.system.guid = guid
    with pytest.raises(NotArrived, match=words):
        arrive.arrive(world.node, options(world))


def test_who_is_silent_is_told(world: World) -> None:
    leave(world)
    boot(world, new=True)
    denied(world)
    world.tags.problem = MachineError("the tags", "are silent")
    words = "cannot be read: .*no route.*; the tags cannot be read: the tags: are silent"
    with pytest.raises(NotArrived, match=words):
        arrive.arrive(world.node, options(world))


def test_the_tags_count_after_a_failed_arrival_too(world: World) -> None:
    """Its own `failed` takes the place of the flasher's `flashed`."""
    tagged(world, leave(world))
    boot(world, new=True)
    world.hook("after-arrive", "10-bad")
    for _ in range(2):
        with pytest.raises(NotArrived, match="10-bad"):
            arrive.arrive(world.node, options(world))
        assert world.tags.values["state"] == "failed"
    (world.home / "hooks.d/after-arrive/10-bad").unlink()
    assert arrive.arrive(world.node, options(world)).outcome is Outcome.READY


def test_an_outcome_in_the_tags_is_later_than_a_failure_in_the_record(world: World) -> None:
    """Past the point of no return the flasher records every try that fails."""
    run = leave(world)
    event = Event(1, Program.FLASHER, "write", Kind.FAILED, "the volume is slow", {})
    data = record.dump(Record(run.name, INSTANCE, (event,)))
    world.store.put(record.key(INSTANCE, run.name, program=Program.FLASHER), data)
    tagged(world, run)
    boot(world, new=True)
    assert arrive.arrive(world.node, options(world)).outcome is Outcome.READY


def test_the_old_system_hears_from_the_tags_why(world: World) -> None:
    run = leave(world)
    world.tags.values = {"run": run.name, "state": "returned", "record": "returned: no access"}
    boot(world, new=False)
    wanted = "the flash did not happen, this is the old system: no access"
    assert arrive.arrive(world.node, options(world)).text == wanted
    assert world.tags.values["record"] == wanted
    assert situation(world)[1].endswith("did not happen, this is the old system: no access")


def test_a_hook_that_fails_means_not_ready(world: World) -> None:
    flashed(world, leave(world))
    boot(world, new=True)
    world.hook("after-arrive", "10-bad")
    with pytest.raises(NotArrived, match="10-bad"):
        arrive.arrive(world.node, options(world))
    assert world.tags.values["state"] == "failed"


@pytest.mark.parametrize("how", ["it says so", "no record", "no store"])
def test_the_old_system_says_that_it_is_the_old_one(world: World, how: str) -> None:
    run = leave(world)
    if how == "it says so":
        flasher(world, run, "returned to the old system: no network", state="returned")
    boot(world, new=False)
    if how == "no store":

        def fault(operation: str, key: str) -> None:
            raise StoreUnavailable(URL, key, "no route")

        world.store.fault = fault
    found = arrive.arrive(world.node, options(world))
    assert found.outcome is Outcome.RETURNED
    assert found.text.startswith("the flash did not happen, this is the old system: ")
    assert found.text.count("old system") == 1
    assert world.tags.values["state"] == "returned"
    assert found.figures.resident == 16, "its page cache is as cold as a new system's"
    assert arrive.arrive(world.node, options(world)).outcome is Outcome.NOTHING
    if how != "no store":
        returned, text = situation(world)
        assert returned is Situation.RETURNED
        assert text.count("old system") == 1


def test_only_the_latest_run_counts(world: World) -> None:
    run = leave(world)
    flashed(world, run)
    boot(world, new=True)
    stale = Mark(run=replace(run, name="older"), left_at=1, target="/x")
    (world.home / "fs-logs/.flashboot/run.json").write_bytes(runs.dump_mark(stale))
    assert [one.mark.run.name for one in marks.find(world.system)] == [run.name]


def test_a_mark_that_is_none_is_left_out(world: World) -> None:
    leave(world)
    boot(world, new=True)
    for name in ("data", "logs"):
        (world.home / f"fs-{name}/.flashboot/run.json").write_bytes(b"{}")
    assert marks.find(world.system) == ()
    assert "is left out" in " ".join(world.system.said)


def scene(**changes: object) -> arrival.Scene:
    event = Event(
        1, Program.FLASHER, "report", Kind.OUTCOME, "flashed",
        {"state": "flashed", "image": "app", "digest": "d", "disk_guid": NEW_GUID},
    )  # fmt: skip
    plain = arrival.Scene(
        run=RUN, boot_id="new", root_serial="vol0", disk_guid=NEW_GUID, same_root=False,
        flasher=Word(event),
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]  # its fields by name


RETURNED = Word(
    Event(1, Program.FLASHER, "report", Kind.OUTCOME, "returned: why", {"state": "returned"})
)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, Outcome.READY),
        ({"boot_id": "old"}, Outcome.NOTHING),
        ({"same_root": True}, Outcome.FAILED),
        ({"root_serial": ""}, Outcome.FAILED),
        ({"disk_guid": ""}, Outcome.FAILED),
        ({"flasher": Word()}, Outcome.FAILED),
        ({"flasher": Word(), "disk_guid": OLD_GUID}, Outcome.FAILED),  # nobody knows
        ({"flasher": Word(), "same_root": True}, Outcome.RETURNED),
        ({"flasher": RETURNED, "disk_guid": OLD_GUID}, Outcome.RETURNED),
        ({"flasher": RETURNED}, Outcome.FAILED),  # it says returned, and this is another disk
    ],
)
def test_the_verdict(changes: dict[str, object], wanted: Outcome) -> None:
    assert arrival.judge(scene(**changes)).outcome is wanted


def test_arrive_waits_for_filesystems_that_systemd_still_mounts(world: World) -> None:
    run = leave(world)
    flashed(world, run)
    boot(world, new=True)
    world.system.pending = ["56 data.mount start running\n", "57 late.mount start waiting\n"]
    assert arrive.arrive(world.node, options(world)).outcome is Outcome.READY
    assert world.system.pending == []


def test_arrive_does_not_wait_for_ever(world: World) -> None:
    world.system.pending = ["56 data.mount start waiting\n"] * 10_000
    assert arrive.arrive(world.node, options(world)).outcome is Outcome.NOTHING
    assert any("still not mounted" in line for line in world.system.said)
