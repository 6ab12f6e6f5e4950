"""check, stage and cancel: every reason at once, and nothing left behind by what fails."""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flashboot import cpio, handoff
from flashboot.errors import FlashbootError, MachineError, ObjectMissing, Refused, explain
from flashboot.handoff import DIRECTORY
from flashboot.image.protocol import Tail
from flashboot.machine.kernelfs import DeviceNumber
from flashboot.machine.memory import Memory
from flashboot.node import check, files, findings, runs, stage
from flashboot.node.check import Wish
from flashboot.node.findings import Severity
from flashboot.node.stage import StageOptions
from flashboot.record import Program
from flashboot.units import GIB, MIB
from tests.unit.test_node_world import (
    INITRAMFS,
    INSTANCE,
    KERNEL,
    MD,
    OLD_BOOT,
    OLD_GUID,
    SECRET,
    URL,
    World,
    mount,
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    result = World(tmp_path)
    result.publish()
    return result


def wish(**changes: object) -> Wish:
    values: dict[str, object] = {"image": "app-42", "store": URL, **changes}
    return Wish(**values)  # type: ignore[arg-type]  # its fields by name


def options(**changes: object) -> StageOptions:
    return StageOptions(**{"wish": wish(), **changes})  # type: ignore[arg-type]  # likewise


def ids(world: World, severity: Severity, **changes: object) -> list[str]:
    found = check.check(world.node, wish(**changes)).findings
    return [finding.id for finding in found if finding.severity is severity]


def test_a_fit_node_has_no_refusal_and_no_warning(world: World) -> None:
    checked = check.check(world.node, wish())
    assert {finding.severity for finding in checked.findings} == {Severity.NOTE}
    checked.require()
    text = findings.sentence(checked.findings)
    assert "db (pid 100 of db.service)" in text
    assert "data (ext4) is on md0 (md raid0) on /dev/nvme1n1, /dev/nvme2n1" in text
    assert "flashboot (pid" not in text, "we do not count ourselves"
    assert world.system.deeds == []


Break = Callable[[World], object]
REFUSALS: list[tuple[str, Break]] = [
    ("root-not-plain", lambda w: setattr(w.system, "root_problem", "is on md0")),
    (
        "root-instance-store",
        lambda w: setattr(
            w.system,
            "root",
            replace(w.system.root, model="Amazon EC2 NVMe Instance Storage"),
        ),
    ),
    ("root-read-only", lambda w: setattr(w.system, "root", replace(w.system.root, read_only=True))),
    (
        "root-unidentified",
        lambda w: setattr(w.system, "root", replace(w.system.root, serial=None)),
    ),
    ("kexec", lambda w: setattr(w.system, "refusals", ("this is a container",))),
    ("memory", lambda w: setattr(w.system, "mem", Memory(400 * MIB, 300 * MIB, None))),
    ("memory-available", lambda w: setattr(w.system, "mem", Memory(4 * GIB, 1000, None))),
    ("memory-available", lambda w: setattr(w.system, "mem", Memory(4 * GIB, GIB, 1000))),
    ("instance", lambda w: setattr(w, "metadata", False)),
    ("image", lambda w: w.store.objects.clear()),
    ("image", lambda w: w.store.objects.update({"images/app-42": b"{}"})),
    ("image-unfit", lambda w: setattr(w.system, "architecture", "aarch64")),
    ("image-unfit", lambda w: setattr(w.system, "mode", "uefi")),
    ("image-unfit", lambda w: setattr(w.system, "root", replace(w.system.root, size=512))),
    ("image-unfit", lambda w: setattr(w.system, "root", replace(w.system.root, sector_size=4096))),
    ("image-ramos", lambda w: w.publish(ramos=None)),
    ("image-expired", lambda w: w.publish(expires=1)),
    (
        "data-foreign",
        lambda w: w.system.extra_mounts.append(
            mount(50, DeviceNumber(0, 60), "/pool", "pool", filesystem="zfs")
        ),
    ),
]


@pytest.mark.parametrize(("name", "spoil"), REFUSALS, ids=[name for name, _ in REFUSALS])
def test_refusals_of_check_and_of_stage(world: World, name: str, spoil: Break) -> None:
    spoil(world)
    assert set(ids(world, Severity.REFUSAL)) == {name}
    with pytest.raises(Refused) as caught:
        stage.stage(world.node, options())
    assert caught.value.exit_code == 50
    assert world.system.deeds == []
    assert not world.node.places.state.exists()
    assert world.tags.values == {}


def test_all_refusals_come_at_once(world: World) -> None:
    world.metadata = False
    world.system.refusals = ("one", "two")
    world.system.mode = "uefi"
    with pytest.raises(Refused) as caught:
        check.check(world.node, wish()).require()
    for words in ("kexec is not permitted: one", "permitted: two", "starts with uefi", "silent"):
        assert words in str(caught.value)


def test_what_lies_on_root_and_data_disks_at_once_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = world.system.layers_above
    monkeypatch.setattr(
        world.system,
        "layers_above",
        lambda disk: (MD,) if disk.name == "nvme0n1" else above(disk),
    )
    assert ids(world, Severity.REFUSAL) == ["root-layered", "data-shared"]


WARNINGS: list[tuple[str, Break]] = [
    (
        "root-extra",
        lambda w: w.system.extra_mounts.append(
            mount(50, DeviceNumber(259, 2), "/var", "/dev/nvme0n1p2")
        ),
    ),
    (
        "data-layer",
        lambda w: w.system.layers.update({"dm-0": replace(w.system.layers["dm-0"], kind="crypt")}),
    ),
    ("kexec-loaded", lambda w: setattr(w.system, "loaded", True)),
    ("memory-budget", lambda w: setattr(w.system, "mem", Memory(520 * MIB, 500 * MIB, None))),
    (
        "state",
        lambda w: files.write(w.node.places.state, b"{"),
    ),
]


@pytest.mark.parametrize(("name", "spoil"), WARNINGS, ids=[name for name, _ in WARNINGS])
def test_warnings_do_not_refuse(world: World, name: str, spoil: Break) -> None:
    spoil(world)
    assert ids(world, Severity.WARNING, budget=600 * MIB) == [name]
    check.check(world.node, wish()).require()


def test_boot_partitions_are_no_warning(world: World) -> None:
    world.system.extra_mounts.append(
        mount(50, DeviceNumber(259, 2), "/boot/efi", "/dev/nvme0n1p2", filesystem="vfat")
    )
    assert ids(world, Severity.WARNING) == []


def test_without_an_image_only_the_machine_is_judged(world: World) -> None:
    world.store.objects.clear()
    assert ids(world, Severity.REFUSAL, image="", store="") == []


def test_an_instance_that_is_named_needs_no_metadata(world: World) -> None:
    world.metadata = False
    assert ids(world, Severity.REFUSAL, instance=INSTANCE) == []


def test_the_store_error_is_the_cause_of_the_refusal(world: World) -> None:
    with pytest.raises(Refused) as caught:
        stage.stage(world.node, options(wish=wish(image="app-43")))
    assert isinstance(caught.value.__cause__, ObjectMissing)


def test_findings_can_be_told_as_json(world: World) -> None:
    value = findings.values(check.check(world.node, wish()).findings)
    assert json.loads(json.dumps(value))[0].keys() == {"severity", "id", "cause", "remedy"}


def unpack(world: World) -> dict[str, cpio.Entry]:
    assert world.system.kexec is not None
    kernel, initramfs, _ = world.system.kexec
    assert kernel == KERNEL
    assert initramfs.startswith(INITRAMFS)
    start = -(-len(INITRAMFS) // 4) * 4
    assert start != len(INITRAMFS)
    return {entry.name: entry for entry in cpio.read(initramfs[start:])}


def test_what_is_loaded_is_what_the_statement_pins_and_the_handoff(world: World) -> None:
    published = world.publish()
    (world.home / "more").write_bytes(b"ssh-ed25519 CCCC ops\n")
    (world.home / "ca.pem").write_bytes(b"a certificate")
    node = replace(world.node, places=replace(world.node.places, ca_bundle=world.home / "ca.pem"))
    plan = stage.stage(
        node,
        options(wish=wish(keys=(world.home / "more",)), tail=Tail.ZERO, ntp="169.254.169.123"),
    )
    entries = unpack(world)
    files = {name: entry for name, entry in entries.items() if stat.S_ISREG(entry.mode)}
    assert {entry.mode & 0o777 for entry in files.values()} == {0o600}
    others = {entry.mode & 0o777 for name, entry in entries.items() if name not in files}
    assert others == {0o700}
    loaded = handoff.load(files[f"{DIRECTORY}/handoff.json"].data)
    handoff.check_documents(
        loaded,
        statement=files[f"{DIRECTORY}/statement"].data,
        table=files[f"{DIRECTORY}/table"].data,
    )
    assert loaded.statement_digest == hashlib.sha256(published.envelope).digest()
    assert loaded.run == plan.staged.run.name
    assert (loaded.instance, loaded.image, loaded.store) == (INSTANCE, "app-42", URL)
    assert loaded.root.serial == "vol0123456789abcdef0"
    assert loaded.root.disk_guid == OLD_GUID
    assert loaded.tail is Tail.ZERO
    assert loaded.network.ntp == "169.254.169.123"
    assert loaded.cloud == {"region": "eu-west-1", "endpoints": {"s3": "http://localhost:1"}}
    keys = files[f"{DIRECTORY}/ssh/authorized_keys"].data
    assert keys == b"ssh-ed25519 CCCC ops\nssh-ed25519 AAAA me\n"
    assert files[f"{DIRECTORY}/ssh/ssh_host_ed25519_key"].data == SECRET
    assert files[f"{DIRECTORY}/ca.pem"].data == b"a certificate"
    assert b"FLASHBOOT_MAC=02:00:00:00:00:01\n" in files[f"{DIRECTORY}/network.env"].data


def test_the_command_line_keeps_consoles_and_nothing_else(world: World) -> None:
    stage.stage(world.node, options())
    assert world.system.kexec is not None
    line = world.system.kexec[2]
    assert line.startswith("console=ttyS0,115200n8 panic=10 oops=panic loglevel=5")
    assert "raid=noautodetect" in line, "no array is ever assembled"
    assert not {"quiet", "root=", "hunter2"} & set(line.replace("=", "= ").split())
    assert stage.command_line("ro quiet").startswith("console=tty0 console=ttyS0,115200 panic=10")


def test_state_record_and_tags_tell_what_is_staged(world: World) -> None:
    plan = stage.stage(world.node, options())
    state = runs.read_state(world.node.places.state)
    assert state == plan.staged
    assert state is not None
    assert state.run.boot_id == OLD_BOOT
    assert world.node.places.state.stat().st_mode & 0o777 == 0o600
    assert world.tags.values == {"state": "staged", "run": state.run.name}
    told = world.record(state.run.name, Program.NODE)
    assert [event.phase for event in told.events] == ["stage"]


def test_secrets_are_nowhere_but_in_memory(world: World) -> None:
    plan = stage.stage(world.node, options())
    written = [path.read_bytes() for path in world.home.rglob("*.json")]
    written += [data for key, data in world.store.objects.items() if key.startswith("records/")]
    written += [repr(value).encode() for value in (plan, world.tags.values, world.system.said)]
    written += [" ".join(argv).encode() for argv in world.system.argvs]
    assert world.system.kexec is not None
    written.append(world.system.kexec[2].encode())
    for text in written:
        assert b"nobody may see" not in text
        assert b"hunter2" not in text


def test_staging_again_replaces(world: World) -> None:
    first = stage.stage(world.node, options()).staged
    second = stage.stage(world.node, options()).staged
    assert first.run.name != second.run.name
    assert runs.read_state(world.node.places.state) == second


def test_a_plan_changes_nothing(world: World) -> None:
    before = dict(world.store.objects)
    plan = stage.plan(world.node, options())
    assert plan.staged.run.image == "app-42"
    assert (world.system.deeds, world.tags.values) == ([], {})
    assert world.store.objects == before
    assert not world.node.places.state.exists()


@pytest.mark.parametrize("part", ["kernel", "initramfs", "table"])
@pytest.mark.parametrize("how", ["other bytes", "longer", "missing"])
def test_a_ramos_that_is_not_the_pinned_one_is_not_loaded(
    world: World, part: str, how: str
) -> None:
    prefix = "tables/" if part == "table" else "ramos/"
    key = next(
        key
        for key in world.store.objects
        if key.startswith(prefix) and (part == "table" or key.endswith(part))
    )
    data = world.store.objects[key]
    if how == "missing":
        del world.store.objects[key]
    else:
        world.store.objects[key] = data + b"!" if how == "longer" else b"!" + data[1:]
    with pytest.raises(FlashbootError):
        stage.stage(world.node, options())
    assert world.system.deeds == []
    assert not world.node.places.state.exists()
    assert world.tags.values == {}


def test_a_state_file_that_cannot_be_written_unloads_again(world: World) -> None:
    world.node.places.state.parent.write_text("not a directory")
    with pytest.raises(MachineError, match="cannot be written"):
        stage.stage(world.node, options())
    assert world.system.deeds == ["load kexec", "unload kexec"]


def test_a_kexec_that_does_not_hold_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.system, "kexec_loaded", lambda: False)
    with pytest.raises(FlashbootError, match="none is loaded"):
        stage.stage(world.node, options())
    assert not world.node.places.state.exists()


def test_record_and_tags_are_not_needed(world: World) -> None:
    def fault(operation: str, key: str) -> None:
        if operation == "put":
            raise MachineError("the store", "is down")

    world.store.fault = fault
    world.tags.problem = MachineError("the tags", "are down")
    stage.stage(world.node, options())
    assert len([line for line in world.system.said if line.startswith("warning")]) == 2
    assert world.system.loaded


@pytest.mark.parametrize(
    ("data", "words"), [(None, "is not there"), (b"PRIVATE KEY\n", "has no key that opens")]
)
def test_a_file_of_keys_that_is_of_no_use_is_refused(
    world: World, data: bytes | None, words: str
) -> None:
    path = world.home / "named"
    if data:
        path.write_bytes(data)
    with pytest.raises(Refused, match=words):
        stage.stage(world.node, options(wish=wish(keys=(path,))))
    assert world.system.deeds == []


def test_a_handoff_without_a_key_is_a_warning(world: World) -> None:
    world.keys.write_bytes(b'no-pty,command="echo Please login as admin" ssh-rsa BBBB root\n')
    checked = check.check(world.node, wish())
    warning = next(one for one in checked.findings if one.severity is Severity.WARNING)
    assert (warning.id, warning.remedy) == ("rescue-door", "say --ssh-key FILE")
    stage.stage(world.node, options())
    assert f"{DIRECTORY}/ssh/authorized_keys" not in unpack(world)


def test_a_host_key_of_another_name_stays_here(world: World) -> None:
    for name in ("ssh_host_old_rsa_key", "ssh_host_RSA_key"):
        (world.home / "ssh" / name).write_bytes(SECRET)
    (world.home / "ssh/ssh_host_dir_key").mkdir()
    stage.stage(world.node, options())
    found = [name for name in unpack(world) if "ssh_host" in name]
    assert found == [f"{DIRECTORY}/ssh/ssh_host_ed25519_key"]


def test_cancel_undoes_it(world: World) -> None:
    before = world.system.snapshot()
    staged = stage.stage(world.node, options()).staged
    assert stage.cancel(world.node) == staged
    assert world.system.snapshot() == before
    assert not world.node.places.state.exists()
    assert world.tags.values["state"] == "cancelled"
    told = world.record(staged.run.name, Program.NODE)
    assert [event.phase for event in told.events] == ["stage", "cancel"]
    assert stage.cancel(world.node) is None


def test_cancel_of_another_boot_unloads_nothing(world: World) -> None:
    stage.stage(world.node, options())
    world.system.boot = "later"
    world.system.deeds.clear()
    assert stage.cancel(world.node) is None
    assert world.system.deeds == []
    assert not world.node.places.state.exists()


def test_cancel_removes_a_broken_state_file(world: World) -> None:
    world.node.places.state.parent.mkdir()
    world.node.places.state.write_bytes(b"{")
    assert stage.cancel(world.node) is None
    assert not world.node.places.state.exists()
    assert "malformed" in " ".join(world.system.said)


def test_names_of_runs_sort_by_time_and_differ() -> None:
    early, late = stage.new_run(1_700_000_000), stage.new_run(1_700_000_001)
    assert early < late
    assert early.startswith("20231114T221320Z-")
    assert stage.new_run(1_700_000_000) != early


def test_a_cause_is_explained_in_one_line(world: World) -> None:
    world.store.objects.clear()
    with pytest.raises(Refused) as caught:
        stage.stage(world.node, options())
    assert "\n" not in explain(caught.value)
    assert "images/app-42" in explain(caught.value)


def test_a_second_stage_that_fails_does_not_leave_the_first_ones_state(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel holds one kernel: what was staged first is not loaded any more."""
    stage.stage(world.node, options())
    monkeypatch.setattr(world.system, "kexec_loaded", lambda: False)
    with pytest.raises(FlashbootError, match="none is loaded"):
        stage.stage(world.node, options())
    assert not world.node.places.state.exists()
    assert world.system.deeds[-1] == "unload kexec"
