"""`flashboot image write` and `image verify --device` on real devices."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashboot.cli.main import main
from flashboot.image.table import CHUNK_SIZE
from tests.fakes.images import random_image
from tests.root.conftest import LoopMaker

pytestmark = pytest.mark.root

IMAGE = random_image(9, seed=3, tail=1536)  # ends within a chunk, and on no multiple of 4096
MIB = 1024 * 1024
SIZE = 8 * MIB

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run(words...)` gives exit code, stdout and stderr; the store holds IMAGE as `app`."""
    monkeypatch.setenv("FLASHBOOT_STORE", f"file://{tmp_path}/store")
    monkeypatch.setenv("FLASHBOOT_ENVIRONMENT", str(tmp_path / "no-environment"))

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["image", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    disk = tmp_path / "disk.raw"
    disk.write_bytes(IMAGE)
    assert call("publish", str(disk), "--name", "app")[0] == 0
    return call


def as_json(answer: tuple[int, str, str]) -> dict[str, Any]:
    assert answer[0] == 0, answer
    value: dict[str, Any] = json.loads(answer[1])
    return value


def fill(path: str) -> bytes:
    """Bytes that are neither zeroes nor the image, onto the whole device."""
    data = os.urandom(MIB) * (SIZE // MIB)
    with open(path, "r+b") as device:
        device.write(data)
    return data


def bytes_of(path: str) -> bytes:
    with open(path, "rb") as device:
        return device.read()


def test_a_device_holds_the_image_afterwards_and_its_rest_is_kept(
    run: Run, loop: LoopMaker
) -> None:
    path = loop(SIZE)
    before = fill(path)
    written = as_json(run("write", "app", path, "--yes", "--json"))
    assert (written["device_kind"], written["device_size"]) == ("block device", SIZE)
    assert written["verified"]
    after = bytes_of(path)
    assert after[: len(IMAGE)] == IMAGE
    # Beyond it only places of old signatures change: the first MiB, and the backup GPT at the end.
    assert after[len(IMAGE) + MIB : -MIB] == before[len(IMAGE) + MIB : -MIB]
    assert as_json(run("verify", "app", "--device", path, "--json"))["verified"]


def test_the_tail_is_zeroed_when_told_to(run: Run, loop: LoopMaker) -> None:
    path = loop(SIZE)
    fill(path)
    assert run("write", "app", path, "--yes", "--tail", "zero")[0] == 0
    assert bytes_of(path) == IMAGE.ljust(SIZE, b"\0")


def test_a_changed_device_is_seen_and_only_its_difference_written(
    run: Run, loop: LoopMaker
) -> None:
    path = loop(SIZE)
    run("write", "app", path, "--yes")
    with open(path, "r+b") as device:
        device.seek(3 * CHUNK_SIZE + 17)
        device.write(b"?!")
    code, out, _ = run("verify", "app", "--device", path, "--json")
    assert code == 41
    assert json.loads(out)["wrong"] == [{"offset": 3 * CHUNK_SIZE, "length": CHUNK_SIZE}]
    again = as_json(run("write", "app", path, "--yes", "--json"))
    assert again["chunks_differing"] <= 2  # and the first one, whose boot sector was cleared
    assert bytes_of(path)[: len(IMAGE)] == IMAGE


def test_without_a_yes_nothing_is_written(run: Run, loop: LoopMaker) -> None:
    path = loop(SIZE)
    before = fill(path)
    assert run("write", "app", path)[0] == 3
    assert run("write", "app", path, "--dry-run")[0] == 0
    assert bytes_of(path) == before


def test_a_mounted_device_is_refused(
    run: Run, loop: LoopMaker, mounted: Callable[[str], Path]
) -> None:
    path = loop(SIZE)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    point = mounted(path)
    (point / "file").write_text("kept")
    for words in (("--yes",), ("--dry-run",)):
        code, _, err = run("write", "app", path, *words)
        assert code == 31
        assert str(point) in err
    assert (point / "file").read_text() == "kept"


def test_a_device_that_is_too_small_is_refused(run: Run, loop: LoopMaker) -> None:
    path = loop(MIB)
    assert run("write", "app", path, "--yes")[0] == 13
    assert not any(bytes_of(path))


def test_a_device_of_other_sectors_is_refused(run: Run, loop: LoopMaker) -> None:
    path = loop(SIZE, sector_size=4096)
    before = fill(path)
    code, _, err = run("write", "app", path, "--yes")
    assert code == 13
    assert "sectors of 512 bytes, the device has 4096" in err
    assert bytes_of(path) == before
