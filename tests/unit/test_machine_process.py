"""Commands end in time and say what went wrong; holders and units come from fake /proc trees."""

import contextlib
import os
import select
import subprocess
import time
from pathlib import Path

import pytest

from flashboot.errors import CommandFailed, MachineError
from flashboot.machine import process
from flashboot.machine.kernelfs import Tree
from flashboot.machine.process import (
    run,
    start_unit,
    stop_unit,
    unit_of_cgroup,
    unit_state,
    users_of_filesystems,
    who_uses,
)


def test_gives_input_environment_and_output() -> None:
    done = run(
        ["sh", "-c", "cat; echo $WORD >&2"], timeout_seconds=5, input="in", env={"WORD": "w"}
    )
    assert (done.code, done.stdout, done.stderr) == (0, "in", "w\n")


def test_a_failure_can_be_pasted_and_has_the_last_words() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "printf '1\\n2\\n3\\n4.\\n' >&2; exit 7"], timeout_seconds=5)
    text = str(caught.value)
    assert "`sh -c 'printf '\"'\"'1" in text
    assert text.endswith("failed with exit code 7: 2 / 3 / 4.")
    assert run(["false"], timeout_seconds=5, check=False).code == 1


def test_a_signal_and_a_missing_program_have_their_own_words() -> None:
    with pytest.raises(CommandFailed, match="signal SIGTERM: it said nothing"):
        run(["sh", "-c", "kill $$"], timeout_seconds=5)
    with pytest.raises(CommandFailed, match="no such program") as caught:
        run(["no-such-program"], timeout_seconds=5)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_the_whole_group_is_killed_at_the_deadline(tmp_path: Path) -> None:
    script = f"echo asleep >&2; sleep 60 & echo $! > {tmp_path}/pid; wait"
    start = time.monotonic()
    with pytest.raises(CommandFailed, match=r"no end in 0.3 s: it was killed; .* asleep"):
        run(["sh", "-c", script], timeout_seconds=0.3)
    assert time.monotonic() - start < 30, "not the 60 s that it sleeps"
    with contextlib.suppress(ProcessLookupError):  # it is gone already
        child = os.pidfd_open(int((tmp_path / "pid").read_text()))
        ended = select.poll()
        ended.register(child, select.POLLIN)  # pidfd_open(2): readable once it has ended
        assert ended.poll(10_000), "the child of the killed shell lives on"
        os.close(child)


def test_a_process_that_leaves_the_group_does_not_hang_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_KILL_GRACE_SECONDS", 0.2)
    with pytest.raises(CommandFailed, match="runs on"):
        run(["sh", "-c", "setsid sleep 2 & sleep 60"], timeout_seconds=0.2)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/cassandra.service\n", "cassandra.service"),
        ("0::/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("0::/user.slice/user-0.slice/session-3.scope", "session-3.scope"),
        ("0::/user.slice/user-1.slice/user@1.service/app.slice/x.service", "user@1.service"),
        ("0::/system.slice/docker-ab.scope/inner", "docker-ab.scope"),
        ("9:name=systemd:/system.slice/a.service\n4:memory:/x.service\n0::/b.service", "a.service"),
        ("0::/init.scope", "init.scope"),
        ("0::/", None),
        ("0::/some/container", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_finds_the_unit(text: str, unit: str | None) -> None:
    assert unit_of_cgroup(text) == unit


def test_finds_holders_in_a_fake_proc(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    device = os.stat("/dev/shm").st_dev
    for pid, command in ((7, "postgres"), (3, "java"), (5, "sshd")):
        (proc / str(pid) / "fd").mkdir(parents=True)
        (proc / str(pid) / "comm").write_text(f"{command}\n")
        (proc / str(pid) / "cgroup").write_text(f"0::/system.slice/{command}.service\n")
    (proc / "7/cwd").symlink_to("/dev/shm")
    for number in range(8):
        (proc / f"7/fd/{number}").symlink_to(f"/dev/shm{'/.' * number}")
    (proc / "5/fd/0").symlink_to("/proc/version")
    (proc / "5/fd/1").symlink_to("/nowhere")
    dev = f"{os.major(device):02x}:{os.minor(device):02x}"
    (proc / "3/maps").write_text(
        "7f0000000000-7f0000001000 r-xp 00000000 fe:63 12   /usr/lib/libc.so\n"
        f"7f0000001000-7f0000002000 rw-s 00000000 {dev} 99      /data/with space.db\n"
        "7f0000002000-7f0000003000 rw-p 00000000 00:00 0\n"
    )
    java, postgres = users_of_filesystems({device}, tree=Tree(proc=str(proc)))
    assert str(java) == "java (pid 3 of java.service): /data/with space.db"
    assert (postgres.pid, postgres.unit) == (7, "postgres.service")
    assert len(postgres.paths) == 6
    assert postgres.paths[-1] == "and 3 more"


def test_finds_a_real_holder(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"], cwd="/dev/shm")
    try:
        found = {holder.pid: holder for holder in who_uses("/dev/shm")}
        assert "/dev/shm" in found[child.pid].paths
    finally:
        child.kill()
        child.wait()
    with pytest.raises(MachineError, match="cannot be looked at"):
        who_uses(str(tmp_path / "missing"))


def test_units_go_through_systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "systemctl"
    fake.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/calls\n'
        '[ "$1" = stop ] && { echo "Failed to stop" >&2; exit 5; }\n'
        "printf 'LoadState=loaded\\nActiveState=active\\nSubState=running\\n'\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert unit_state("a.service").active == "active"
    start_unit("a.service", timeout_seconds=5)
    with pytest.raises(CommandFailed, match="exit code 5: Failed to stop"):
        stop_unit("a.service", timeout_seconds=5)
    assert (tmp_path / "calls").read_text().splitlines()[1:] == [
        "start -- a.service",
        "stop -- a.service",
    ]
