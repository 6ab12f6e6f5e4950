"""The small parts of the node: files, waiting, signals, hooks, happycache, holders, routes."""

import contextlib
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import CommandFailed, FlashbootError, MachineError, MalformedDocument
from flashboot.machine.kernelfs import Tree
from flashboot.machine.process import Completed, Holder
from flashboot.node import bounded, door, files, holders, hooks, local, residency, runs
from flashboot.node.recorder import Recorder, fetch, last_word
from flashboot.node.runs import Mark, Run, Staged
from flashboot.node.signals import Signals
from flashboot.node.system import System
from flashboot.record import Kind, Program
from tests.unit.test_node_world import INSTANCE, URL, World

RUN = Run(
    name="r1", image="app", digest="d", store=URL, instance=INSTANCE, boot_id="old",
    root_serial="vol0", old_disk_guid="g", cloud={"region": "eu", "endpoints": {"s3": "http://x"}},
)  # fmt: skip

# files


def test_a_file_is_written_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new/state.json"
    assert files.read(path) is None
    files.write(path, b"one")
    files.write(path, b"two")
    assert files.read(path) == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["state.json"]
    assert files.remove(path)
    assert not files.remove(path)


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    files.write(path, b"old")

    def broken(descriptor: int) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(MachineError, match="cannot be written"):
        files.write(path, b"new")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / ".run.json.part").symlink_to(tmp_path / "victim")
    with pytest.raises(MachineError):
        files.write(tmp_path / "run.json", b"x")
    assert (tmp_path / "victim").read_bytes() == b"precious"


# runs


def test_state_and_mark_come_back_as_they_were() -> None:
    state = Staged(run=RUN, staged_at=5, version="0.1.0", left_at=7)
    assert runs.load_state(runs.dump_state(state)) == state
    mark = Mark(run=RUN, left_at=7, target="/data", services=("db.service",), map=runs.MAP)
    assert runs.load_mark(runs.dump_mark(mark)) == mark


@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_damaged_mark_is_malformed_or_a_mark(patch: bytes, at: int) -> None:
    data = bytearray(runs.dump_mark(Mark(run=RUN, left_at=7, target="/data")))
    data[at : at + len(patch)] = patch
    with contextlib.suppress(MalformedDocument):
        runs.load_mark(bytes(data))


def test_a_mark_cannot_name_a_file_elsewhere() -> None:
    mark = Mark(run=RUN, left_at=7, target="/data", map="../../etc/passwd")
    with pytest.raises(MalformedDocument, match="no map is called"):
        runs.load_mark(runs.dump_mark(mark))


# bounded


def test_work_is_waited_for_and_its_errors_come_through() -> None:
    assert bounded.bounded(lambda: 5, seconds=5) == 5
    with pytest.raises(ZeroDivisionError):
        bounded.bounded(lambda: 1 // 0, seconds=5)


def test_work_that_hangs_is_left_alone() -> None:
    end = threading.Event()
    assert bounded.attempt(end.wait, seconds=0.01) == "no answer in 0.01 s"
    end.set()


# signals


def test_sigterm_interrupts_until_the_way_back_has_begun() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        signals.undoing()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        signals.leaving()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# hooks


def test_hooks_are_the_executables_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, mode in (("20-b", 0o755), ("10-a", 0o755), ("15-no", 0o644)):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    (tmp_path / "dir").mkdir()
    assert [path.name for path in hooks.find(tmp_path)] == ["10-a", "20-b"]
    assert hooks.find(tmp_path / "missing") == ()


def test_a_real_hook_gets_the_run_and_its_last_words_are_told(tmp_path: Path) -> None:
    for name, body in (("10-a", 'echo "$FLASHBOOT_RUN $FLASHBOOT_IMAGE" > out'), ("20-b", "nope")):
        (tmp_path / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{body}\n")
        (tmp_path / name).chmod(0o755)
    system: System = _Quiet()
    with pytest.raises(CommandFailed, match="nope"):
        hooks.run_all(system, tmp_path, RUN, timeout_seconds=10)
    assert (tmp_path / "out").read_text() == "r1 app\n"


class _Quiet(local.LocalSystem):
    """The real machine, whose console is left in peace."""

    def say(self, text: str) -> None:
        pass


# happycache


def test_happycache_is_spoken_to_as_it_is(tmp_path: Path) -> None:
    """The real program, in a process: its options and its JSON are what we think."""
    data, moved = tmp_path / "data", tmp_path / "moved"
    data.mkdir()
    (data / "file").write_bytes(b"x" * 100_000)
    system = _Quiet()
    pages = residency.dump(system, data / runs.MAP, data, timeout_seconds=60)
    assert pages >= 100_000 // os.sysconf("SC_PAGE_SIZE")
    data.rename(moved)
    figures = residency.load(
        system, moved / runs.MAP, old_root=str(data), root=moved, timeout_seconds=60
    )
    assert figures.asked == pages
    assert figures.resident == pages
    with pytest.raises(CommandFailed, match="exit code 10"):
        residency.load(system, moved / "none", old_root=str(moved), root=moved, timeout_seconds=60)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"pages": "many"}', "{}"])
def test_another_answer_than_expected_is_a_failed_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    world = World(tmp_path)
    monkeypatch.setattr(
        world.system, "run", lambda argv, **options: Completed(tuple(argv), 0, text, "")
    )
    with pytest.raises(CommandFailed):
        residency.dump(world.system, tmp_path / "map", tmp_path, timeout_seconds=1)


def test_fewer_pages_than_wanted_are_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    text = '{"asked_pages": 9, "resident_pages": 2, "loaded_pages": 1}'
    monkeypatch.setattr(
        world.system, "run", lambda argv, **options: Completed(tuple(argv), 3, text, "")
    )
    figures = residency.load(
        world.system, tmp_path / "map", old_root="/a", root=tmp_path, timeout_seconds=1
    )
    assert (figures.asked, figures.resident) == (9, 2)


# holders


@pytest.mark.parametrize(
    ("unit", "field"),
    [
        ("db.service", "units"),
        ("docker-0123.scope", "units"),
        ("session-4.scope", "people"),
        ("user@1000.service", "people"),
        (None, "people"),
        ("own.service", "barred"),
        ("kept.service", "barred"),
    ],
)
def test_who_is_who(unit: str | None, field: str) -> None:
    found = holders.sort(
        [Holder(9, "x", unit, ("/data",))], own_unit="own.service", kept=["kept.service"]
    )
    assert [name for name in ("units", "people", "barred") if getattr(found, name)] == [field]


def test_those_that_only_look_are_waited_for() -> None:
    udev = Holder(9, "udevd", "systemd-udevd.service", ("/dev/sdb",))
    assert holders.sort([udev], own_unit=None) == holders.Holders((), (), ())
    assert holders.sort([replace(udev, pid=1)], own_unit=None).barred


# recorder


def test_a_second_command_adds_to_the_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    for phase in ("stage", "leave"):
        recorder = Recorder(world.node, RUN)
        recorder.add(phase, Kind.DONE, "well", number=1)
        assert recorder.save() is None
        assert recorder.save() is None, "saving again does not double it"
    assert [event.phase for event in world.record("r1", Program.NODE).events] == ["stage", "leave"]


def test_the_last_word_is_the_outcome_else_the_last_failure(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert fetch(world.node, RUN, Program.NODE) is None
    assert last_word(None) is None
    recorder = Recorder(world.node, RUN)
    for kind in (Kind.NOTE, Kind.FAILED, Kind.NOTE):
        recorder.add("x", kind, kind.value)
    recorder.save()
    word = last_word(fetch(world.node, RUN, Program.NODE))
    assert word is not None
    assert word.kind is Kind.FAILED


# door

PASSWD = """\
root:x:0:0:root:{home}/root:/bin/bash
sync:x:4:65534:sync:/bin:/bin/sync
admin:x:{uid}:1000:the cloud's:{home}/admin:/bin/bash
ec2-user:x:{uid}:1001::{home}/ec2-user:/bin/sh
reader:x:{uid}:1002:reads logs:{home}/reader:/bin/bash
wheeled:x:{uid}:10::{home}/wheeled:
daemon:x:{uid}:1003::{home}/daemon:/usr/sbin/nologin
broken
"""
GROUP = "wheel:x:10:\nsudo:x:27:admin,daemon\nadm:x:4:reader,ec2-user\n"
USERS = ("root", "admin", "ec2-user", "reader", "wheeled", "daemon")


def make_etc(home: Path) -> Path:
    """Files of /etc, and a home with a key for everybody."""
    etc = home / "etc"
    (etc / "sudoers.d").mkdir(parents=True)
    (etc / "passwd").write_text(PASSWD.format(home=home, uid=os.geteuid() or 1000))
    (etc / "group").write_text(GROUP)
    (etc / "sudoers.d/90-cloud-init-users").write_text(
        "# User rules for ec2-user\nec2-user ALL=(ALL) NOPASSWD:ALL\n"
    )
    for name in USERS:
        write_keys(home / name, f"ssh-ed25519 {name.upper()} x\n")
    return etc


def write_keys(home: Path, text: str) -> Path:
    path = home / ".ssh/authorized_keys"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_the_door_opens_to_whoever_may_become_root(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    names = {"admin", "ec2-user", "wheeled"} | ({"root"} if os.geteuid() == 0 else set())
    assert set(door.guests(etc).sources) == names
    caller = door.Person("reader", os.geteuid(), tmp_path / "reader")
    found = door.guests(etc, people=(caller,), further=(tmp_path / "daemon/.ssh/authorized_keys",))
    assert found.keys.startswith(b"ssh-ed25519 DAEMON x\nssh-ed25519 READER x\n")
    assert door.guests(tmp_path / "nowhere") == door.Guests()


def test_a_key_counts_once(tmp_path: Path) -> None:
    etc = make_etc(tmp_path)
    for name in USERS:
        write_keys(tmp_path / name, "ssh-ed25519 SAME x\n")
    assert door.guests(etc).keys == b"ssh-ed25519 SAME x\n"


@pytest.mark.parametrize(
    ("line", "opens"),
    [
        ("ssh-ed25519 AAAA me", True),
        ("ecdsa-sha2-nistp256 AAAA", True),
        ("sk-ssh-ed25519@openssh.com AAAA me", True),
        ("no-pty,no-X11-forwarding ssh-rsa AAAA", True),
        ('no-port-forwarding,no-agent-forwarding,command="echo" ssh-rsa AAAA', False),
        ('COMMAND="echo" ssh-rsa AAAA', False),
        ('from="10.0.0.0/8" ssh-rsa AAAA', False),
        ("cert-authority ssh-rsa AAAA", False),
        ("# ssh-rsa AAAA", False),
        ("ssh-rsa", False),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", False),
    ],
)
def test_which_keys_open(tmp_path: Path, line: str, opens: bool) -> None:
    write_keys(tmp_path, f"{line}\n")
    person = door.Person("me", os.geteuid(), tmp_path)
    found = door.guests(tmp_path / "etc", people=(person,))
    assert found.keys == (f"{line}\n".encode() if opens else b"")


@pytest.mark.parametrize("how", ["a link out", "a link round", "a pipe", "a directory", "writable"])
def test_a_file_of_keys_that_sshd_would_not_trust_either(tmp_path: Path, how: str) -> None:
    path = write_keys(tmp_path / "me", "ssh-ed25519 AAAA me\n")
    person = door.Person("me", os.geteuid(), tmp_path / "me")
    assert door.guests(tmp_path, people=(person,)).keys
    if how == "writable":
        path.chmod(0o666)
    else:
        path.rename(tmp_path / "elsewhere")
    if how == "a link out":
        path.symlink_to(tmp_path / "elsewhere")
    elif how == "a link round":
        path.symlink_to(path)
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "a directory":
        path.mkdir()
    assert door.guests(tmp_path, people=(person,)) == door.Guests()


def test_a_link_within_the_home_and_a_bound(tmp_path: Path) -> None:
    path = write_keys(tmp_path, "ssh-ed25519 AAAA me\n" * 10_000)
    path.rename(tmp_path / "keys")
    path.symlink_to(tmp_path / "keys")
    person = door.Person("me", os.geteuid(), tmp_path)
    assert door.guests(tmp_path, people=(person,)).keys.startswith(b"ssh-ed25519 AAAA me\n")


# local

ROUTE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
ens6\t00000000\t0102A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0
ens5\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
ens5\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
ens7\t00000000\t0102A8C0\t0002\t0\t0\t10\t00000000\t0\t0\t0
"""
IPV6 = """\
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     ens8
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00200200       lo
"""  # noqa: E501


def test_the_interface_with_the_default_route() -> None:
    assert local.default_interface(ROUTE, IPV6) == "ens5"
    assert local.default_interface("", IPV6) == "ens8"
    assert local.default_interface(ROUTE.splitlines()[0], "") is None


def test_its_mac_address(tmp_path: Path) -> None:
    tree = Tree(proc=f"{tmp_path}/proc", sys=f"{tmp_path}/sys")
    (tmp_path / "proc/net").mkdir(parents=True)
    with pytest.raises(MachineError, match="no default route"):
        local.mac_address(tree=tree)
    (tmp_path / "proc/net/route").write_text(ROUTE)
    with pytest.raises(MachineError, match="ens5"):
        local.mac_address(tree=tree)
    (tmp_path / "sys/class/net/ens5").mkdir(parents=True)
    (tmp_path / "sys/class/net/ens5/address").write_text("02:AB:00:00:00:01\n")
    assert local.mac_address(tree=tree) == "02:ab:00:00:00:01"


def test_this_machine_is_a_system_that_can_be_looked_at() -> None:
    system: System = _Quiet()
    assert system.host().boot_id
    assert system.memory().total > 0
    assert system.pid() == os.getpid()
    assert "/" in [mount.target for mount in system.mounts()]
    assert system.device_number("/dev/null/none") is None


@pytest.mark.parametrize("region", ["eu-west-1", ""])
def test_what_a_run_remembers_holds_no_path_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/ca.pem")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    if region:
        monkeypatch.setenv("AWS_REGION", region)
    node = local.open_node()
    assert node.cloud.get("region", "") == region
    assert "hush" not in repr(node.cloud)
    assert "ca.pem" not in repr(node.cloud)
    assert node.places.ca_bundle == Path("/etc/ca.pem")
    assert node.open_store("file:///tmp", node.cloud).url == "file:///tmp"
    with pytest.raises(FlashbootError):
        node.open_store("ftp://nowhere", node.cloud)
