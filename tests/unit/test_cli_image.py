"""The image verbs from end to end, with files and a directory as store."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashboot.cli import exit_codes
from flashboot.cli.main import main
from flashboot.image.table import CHUNK_SIZE
from tests.fakes.images import random_image

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run(words...)` gives exit code, stdout and stderr; the store is `store` in tmp_path."""
    monkeypatch.setenv("FLASHBOOT_STORE", f"file://{tmp_path}/store")
    monkeypatch.setenv("FLASHBOOT_ENVIRONMENT", str(tmp_path / "no-environment"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["image", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    file = tmp_path / "disk.raw"
    file.write_bytes(random_image(9, seed=2, tail=1536))
    return file


def objects(tmp_path: Path) -> dict[str, bytes]:
    store = tmp_path / "store"
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def as_json(answer: tuple[int, str, str], *, code: int = 0) -> dict[str, Any]:
    assert answer[0] == code, answer
    value: dict[str, Any] = json.loads(answer[1])
    return value


PUBLISH_KEYS = {
    "image", "already_published", "consistent", "dry_run", "chunks", "objects_sent", "bytes_sent",
    "objects_found", "seconds", "mib_per_second", "warnings", "repaired",
}  # fmt: skip
STATEMENT_KEYS = {
    "name", "image_size", "digest", "created", "expires", "sequence", "architecture", "boot_modes",
    "sector_size", "source_ami", "source_snapshot", "table", "ramos",
}  # fmt: skip


def test_publish_then_again(run: Run, disk: Path, tmp_path: Path) -> None:
    first = as_json(run("publish", str(disk), "--name", "app-1", "--json"))
    assert set(first) == PUBLISH_KEYS
    assert set(first["image"]) == STATEMENT_KEYS
    assert set(first["chunks"]) == {"total", "new", "known", "repeated", "zero"}
    assert first["image"]["image_size"] == disk.stat().st_size
    assert first["image"]["boot_modes"] == ["bios"]
    assert first["objects_sent"] == len(objects(tmp_path))
    before = objects(tmp_path)
    code, out, err = run("publish", str(disk), "--name", "app-1")
    assert (code, out) == (0, "app-1 is already published, nothing was uploaded\n")
    assert "no RAM OS is pinned" in err
    assert objects(tmp_path) == before


def test_publish_dry_run(run: Run, disk: Path, tmp_path: Path) -> None:
    code, _, err = run("publish", str(disk), "--name", "app-1", "--dry-run")
    assert code == 20, "a store that is not there yet is not made by a dry run"
    assert "its directory does not exist" in err
    assert "Errno" not in err
    (tmp_path / "store").mkdir()
    code, out, _ = run("publish", str(disk), "--name", "app-1", "--dry-run")
    assert code == 0
    assert "would be published" in out
    assert not objects(tmp_path)


def test_publish_under_a_name_that_is_taken(run: Run, disk: Path) -> None:
    run("publish", str(disk), "--name", "app-1")
    with disk.open("r+b") as file:
        file.seek(CHUNK_SIZE)
        file.write(b"changed")
    error = as_json(run("publish", str(disk), "--name", "app-1", "--json"), code=24)["error"]
    assert error["kind"] == "ObjectExists"
    assert "names are immutable" in error["hint"]


def test_publish_takes_what_it_is_told(run: Run, disk: Path) -> None:
    words = (
        "--name app-1 --json --arch aarch64 --boot-mode uefi --boot-mode bios --sequence 7 "
        "--expires 2027-01-31 --source-ami ami-1 --source-snapshot snap-1 --no-base"
    )
    image = as_json(run("publish", str(disk), *words.split()))["image"]
    assert image["architecture"] == "aarch64"
    assert image["boot_modes"] == ["bios", "uefi"]
    assert (image["sequence"], image["expires"]) == (7, 1_801_353_600)
    assert (image["source_ami"], image["source_snapshot"]) == ("ami-1", "snap-1")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("publish", "missing.raw", "--name", "a"), 70),
        (("publish", "disk.raw", "--name", "a/b"), 10),
        (("publish", "disk.raw", "--name", "a", "--base", "nix"), 21),
        (("publish", "disk.raw", "--name", "a", "--base", "x", "--no-base"), 2),
        (("publish", "disk.raw", "--name", "a", "--ramos", "nowhere"), 70),
        (("publish", "disk.raw", "--name", "a", "--store", "ftp://x"), 2),
        (("show", "nix"), 21),
        (("verify", "nix"), 21),
        (("write", "nix", "out.raw", "--yes"), 21),
        (("list", "--store", "file:///nowhere/at/all"), 20),
    ],
)
def test_refusals_have_their_codes(
    words: tuple[str, ...], code: int, run: Run, disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    found, out, err = run(*words)
    assert (found, out) == (code, "")
    assert err.startswith("flashboot: error: ")
    assert err.count("\n") == 1
    assert not objects(tmp_path)


def test_the_page_of_exit_codes_has_a_sentence_for_each() -> None:
    rows = [line.split(" | ") for line in exit_codes.page().splitlines()[6:]]
    assert not [row for row in rows[1:] if not row[2].strip()]
    assert any(row[1:3] == ["UsageError", "what is wrong with the command line"] for row in rows)


def test_no_store_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASHBOOT_STORE")
    code, _, err = run("list")
    assert code == 2
    assert "--store" in err


def test_list_and_show(run: Run, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert run("list")[1].startswith("no images at file://")
    run("publish", str(disk), "--name", "app-1", "--sequence", "3")
    run("publish", str(disk), "--name", "app-2")
    listed = as_json(run("list", "--json"))
    assert set(listed) == {"store", "images", "unreadable"}
    assert {image["name"] for image in listed["images"]} == {"app-1", "app-2"}
    assert set(listed["images"][0]) == STATEMENT_KEYS | {"stored_bytes"}
    shown = as_json(run("show", "app-1", "--json"))
    assert set(shown) == STATEMENT_KEYS | {
        "chunks", "zero_chunks", "distinct_chunks", "packs", "stored_bytes", "compression_ratio",
    }  # fmt: skip
    assert shown["chunks"] == 10
    text = run("list")[1].splitlines()
    assert text[0].split()[:2] == ["NAME", "CREATED"]
    assert len(text) == 3
    assert "sequence      3" in run("show", "app-1")[1]


def test_list_names_what_it_cannot_read(run: Run, disk: Path, tmp_path: Path) -> None:
    run("publish", str(disk), "--name", "app-1")
    (tmp_path / "store/images/broken").write_bytes(b"{}")
    listed = as_json(run("list", "--json"))
    assert [image["name"] for image in listed["images"]] == ["app-1"]
    assert [entry["name"] for entry in listed["unreadable"]] == ["broken"]


def spoil_a_pack(tmp_path: Path) -> None:
    pack = next((tmp_path / "store/packs").iterdir())
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)


def test_verify_the_store(run: Run, disk: Path, tmp_path: Path) -> None:
    run("publish", str(disk), "--name", "app-1")
    good = as_json(run("verify", "app-1", "--json"))
    assert set(good) == {
        "image", "store", "verified", "quick", "packs", "stored_chunks", "bytes_read", "wrong",
    }  # fmt: skip
    assert good["verified"]
    assert "verified" in run("verify", "app-1")[1]
    spoil_a_pack(tmp_path)
    bad = as_json(run("verify", "app-1", "--json"), code=40)
    assert set(bad) == set(good) | {"error"}
    assert not bad["verified"]
    assert set(bad["wrong"][0]) == {"key", "chunk", "problem"}
    assert bad["error"]["exit_code"] == 40
    code, out, err = run("verify", "app-1")
    assert (code, out) == (40, "")
    assert "flashboot: wrong: packs/" in err
    assert run("verify", "app-1", "--quick")[0] == 0
    assert "--repair" in err


def test_publish_repairs_a_damaged_store(run: Run, disk: Path, tmp_path: Path) -> None:
    publish = ("publish", str(disk), "--name", "app-1")
    run(*publish)
    whole = objects(tmp_path)
    spoil_a_pack(tmp_path)
    code, out, _ = run(*publish, "--repair", "--dry-run")
    assert code == 0
    assert out.startswith("app-1 is already published; 1 object would be sent again: packs/")
    assert objects(tmp_path) != whole
    code, out, _ = run(*publish, "--repair")
    assert code == 0
    assert out.startswith("app-1 is already published; 1 object was sent again: packs/")
    assert objects(tmp_path) == whole
    assert run("verify", "app-1")[0] == 0
    assert run(*publish, "--repair")[1].startswith("app-1 is already published and whole")
    spoil_a_pack(tmp_path)
    result = as_json(run("publish", str(disk), "--name", "app-2", "--repair", "--json"))
    assert [key.split("/")[0] for key in result["repaired"]] == ["packs"]
    assert run("verify", "app-1")[0] == run("verify", "app-2")[0] == 0


def test_write_then_verify_the_device(run: Run, disk: Path, tmp_path: Path) -> None:
    run("publish", str(disk), "--name", "app-1")
    target = tmp_path / "target.raw"
    code, _, err = run("write", "app-1", str(target), "--yes")
    assert code == 2
    assert f"truncate -s {disk.stat().st_size} {target}" in err
    code, _, err = run("write", "app-1", str(target), "--create")
    assert code == 3
    assert f"overwrite {target} (new file" in err
    assert not target.exists()
    assert "would overwrite" in run("write", "app-1", str(target), "--create", "--dry-run")[1]
    assert not target.exists()
    written = as_json(run("write", "app-1", str(target), "--create", "--yes", "--json"))
    assert set(written) == {
        "image", "image_size", "digest", "device", "device_kind", "device_size", "device_model",
        "device_serial", "dry_run", "verified", "chunks", "chunks_differing", "bytes_fetched",
        "bytes_written", "seconds",
    }  # fmt: skip
    assert target.read_bytes() == disk.read_bytes()
    good = as_json(run("verify", "app-1", "--device", str(target), "--json"))
    assert set(good) == {
        "image", "device", "verified", "chunks", "bytes_read", "wrong_chunks", "wrong",
    }  # fmt: skip
    with target.open("r+b") as file:
        file.seek(3 * CHUNK_SIZE + 17)
        file.write(b"?!")
    bad = as_json(run("verify", "app-1", "--device", str(target), "--json"), code=41)
    assert bad["wrong"] == [{"offset": 3 * CHUNK_SIZE, "length": CHUNK_SIZE}]
    assert bad["error"]["kind"] == "NotVerified"
    again = run("write", "app-1", str(target), "--yes")
    assert again[0] == 0
    assert "every byte was read back" in again[1]
    assert target.read_bytes() == disk.read_bytes()


def test_write_refuses_what_cannot_hold_it(run: Run, disk: Path, tmp_path: Path) -> None:
    run("publish", str(disk), "--name", "app-1")
    small = tmp_path / "small.raw"
    small.write_bytes(bytes(4096))
    assert run("write", "app-1", str(small), "--yes")[0] == 13
    assert small.read_bytes() == bytes(4096)
    assert run("write", "app-1", os.devnull, "--yes")[0] == 2
    assert run("verify", "app-1", "--device", str(small))[0] == 41
    assert run("write", "app-1", str(tmp_path / "no/dir/x"), "--create", "--yes")[0] == 30


def test_write_refuses_the_disk_it_runs_from(run: Run, disk: Path) -> None:
    from flashboot.errors import MachineError
    from flashboot.machine.blockdevices import root_disk

    try:
        root = root_disk()
    except MachineError:
        pytest.skip("'/' is on no plain disk here")
    run("publish", str(disk), "--name", "app-1")
    code, _, err = run("write", "app-1", root.path, "--dry-run")
    assert code == 31
    assert "this machine runs from it" in err
