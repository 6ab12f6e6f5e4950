"""The node's verbs as an operator types them: exit codes, one JSON on stdout, words on stderr."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashboot.cli.main import main
from flashboot.node import local
from tests.unit.test_node_world import Gone, World

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHBOOT_STORE", "s3://memory/store")
    monkeypatch.setenv("FLASHBOOT_ENVIRONMENT", str(tmp_path / "none"))
    result = World(tmp_path)
    result.publish()
    monkeypatch.setattr(local, "open_node", lambda **options: result.node)
    return result


@pytest.fixture
def run(world: World, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str]:
        code = main(words)
        return code, capsys.readouterr().out

    return call


def value(answer: tuple[int, str], *, code: int = 0) -> dict[str, Any]:
    assert answer[0] == code, answer
    found: dict[str, Any] = json.loads(answer[1])
    return found


def test_check(run: Run, world: World) -> None:
    found = value(run("check", "--image", "app-42", "--json"))
    assert found["flashable"] is True
    code, text = run("check")
    assert code == 0
    assert text.endswith("This node can be flashed.\n")
    world.system.refusals = ("this is a container",)
    found = value(run("check", "--json"), code=50)
    assert found["flashable"] is False
    assert found["findings"][0]["id"] == "kexec"
    assert run("check")[1].endswith("This node cannot be flashed: 1 reason.\n")
    world.system.refusals = ("one", "two")
    assert run("check")[1].endswith("This node cannot be flashed: 2 reasons.\n")


def test_check_and_stage_take_further_keys(run: Run, world: World) -> None:
    world.keys.unlink()
    (world.home / "ops").write_bytes(b"ssh-ed25519 CCCC ops\n")
    assert "warning  no authorized key" in run("check")[1]
    assert "no authorized key" not in run("check", "--ssh-key", str(world.home / "ops"))[1]
    words = ("stage", "--image", "app-42", "--dry-run", "--json")
    assert "flashboot/ssh/authorized_keys" not in value(run(*words))["handoff"]
    found = value(run(*words, "--ssh-key", str(world.home / "ops")))
    assert "flashboot/ssh/authorized_keys" in found["handoff"]


def test_stage_status_cancel(run: Run, world: World) -> None:
    dry = value(run("stage", "--image", "app-42", "--dry-run", "--json"))
    assert dry["dry_run"] is True
    assert any(line.startswith("step 1: clear sector 0") for line in dry["plan"])
    assert "flashboot/ssh/ssh_host_ed25519_key" in dry["handoff"]
    assert value(run("status", "--json"))["situation"] == "nothing"
    staged = value(run("stage", "--image", "app-42", "--tail", "zero", "--json"))
    assert staged["dry_run"] is False
    assert "nobody may see" not in json.dumps(staged)
    found = value(run("status", "--json"))
    assert (found["situation"], found["run"]) == ("staged", staged["run"])
    assert "is staged as run" in run("status")[1]
    assert value(run("cancel", "--json")) == {"cancelled": True, "run": staged["run"]}
    assert run("cancel") == (0, "nothing was staged\n")


def test_stage_and_status_tell_the_same_command(run: Run) -> None:
    command = "`flashboot flash --unprotected --yes` leaves for it"
    assert command in run("stage", "--image", "app-42")[1]
    assert command in run("status")[1]


def test_several_reasons_are_a_list_and_a_sentence(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.system.refusals = ("one",)
    main(("stage", "--image", "app-42"))
    words = capsys.readouterr().err.splitlines()
    assert len(words) == 1, "one reason is told once"
    world.system.refusals = ("one", "two")
    main(("stage", "--image", "app-42"))
    words = capsys.readouterr().err.splitlines()
    assert words[:2] == [
        "flashboot: refusal  kexec is not permitted: one",
        "flashboot: refusal  kexec is not permitted: two",
    ]
    assert words[2].startswith("flashboot: error: This node cannot be flashed: kexec")
    assert len(words) == 3


def test_stage_refuses_with_all_reasons(run: Run, world: World) -> None:
    world.metadata = False
    error = value(run("stage", "--image", "none", "--json"), code=50)["error"]
    assert error["kind"] == "Refused"
    assert "images/none" in error["message"]
    assert "--instance-id" in error["message"]


def test_flash(run: Run, world: World) -> None:
    assert run("flash", "--unprotected", "--yes")[0] == 51
    run("stage", "--image", "app-42")
    dry = value(run("flash", "--dry-run", "--json"))
    assert dry["steps"]["stop"] == ["db.service"]
    assert "nothing was changed" in run("flash", "--dry-run")[1]
    assert run("flash", "--yes")[0] == 50
    assert run("flash", "--unprotected")[0] == 3
    assert run("flash", "--unprotected", "--yes", "--timeout", "0")[0] == 2
    world.system.goes = False
    hooks = str(world.home / "hooks.d")
    words = ("flash", "--unprotected", "--yes", "--timeout", "2", "--hooks", hooks)
    error = value(run(*words, "--json"), code=52)["error"]
    assert error["kind"] == "LeaveFailed"
    world.system.goes = True
    with pytest.raises(Gone):
        run(*words)


def test_arrive(run: Run) -> None:
    assert value(run("arrive", "--json"))["outcome"] == "nothing"
    assert "nothing to do" in run("arrive")[1]


@pytest.mark.parametrize("verb", ["check", "stage", "cancel", "flash", "status", "arrive"])
def test_help_fits_a_serial_console(verb: str, run: Run) -> None:
    code, text = run(verb, "--help")
    assert code == 0
    assert max(map(len, text.splitlines())) < 80
