"""Publishing for real: to an S3 server, and through a SIGKILL."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from flashboot.cloud.clients import s3_client
from flashboot.cloud.settings import CloudSettings
from flashboot.image.table import CHUNK_SIZE
from flashboot.store.s3 import S3Store
from flashboot.units import MIB
from tests.rig.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed

PATIENCE_SECONDS = 60


def make_disk(path: Path, *, chunks: int, seed: int = 1) -> Path:
    """A file whose every fourth chunk is zeroes and the rest hardly compresses."""
    source = random.Random(seed)
    with path.open("wb") as file:
        for index in range(chunks):
            file.write(bytes(CHUNK_SIZE) if index % 4 == 3 else source.randbytes(CHUNK_SIZE))
    return path


def flashboot(*words: str, environment: dict[str, str] | None = None) -> Any:
    """The JSON that the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "flashboot.cli.main", "image", *words, "--json"],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.server
def test_publish_write_and_verify_through_s3(seaweed: Seaweed, tmp_path: Path) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL_S3": seaweed.endpoint,
        "FLASHBOOT_STORE": f"s3://contract/{uuid.uuid4().hex}",
    }
    disk = make_disk(tmp_path / "disk.raw", chunks=160)
    first = flashboot("publish", str(disk), "--name", "app-1", environment=environment)
    assert first["chunks"] == {"total": 160, "new": 120, "known": 0, "repeated": 0, "zero": 40}
    assert first["objects_sent"] == 4  # two packs, table, statement
    again = flashboot("publish", str(disk), "--name", "app-1", environment=environment)
    assert again["already_published"]
    assert again["objects_sent"] == 0
    with disk.open("r+b") as file:
        file.seek(17 * CHUNK_SIZE)
        file.write(b"another kernel")
    second = flashboot("publish", str(disk), "--name", "app-2", environment=environment)
    assert second["chunks"]["new"] == 1
    assert second["bytes_sent"] < 2 * CHUNK_SIZE
    assert flashboot("verify", "app-2", environment=environment)["verified"]
    target = tmp_path / "target.raw"
    flashboot("write", "app-2", str(target), "--create", "--yes", environment=environment)
    assert target.read_bytes() == disk.read_bytes()
    listed = flashboot("list", environment=environment)
    assert {image["name"] for image in listed["images"]} == {"app-1", "app-2"}


@pytest.mark.server
def test_a_damaged_pack_is_mended_through_s3(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = uuid.uuid4().hex
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL_S3": seaweed.endpoint,
        "FLASHBOOT_STORE": f"s3://contract/{prefix}",
    }.items():
        monkeypatch.setenv(name, value)
    store = S3Store(s3_client(CloudSettings.from_environment()), "contract", prefix)
    publish = ("publish", str(make_disk(tmp_path / "disk.raw", chunks=24)), "--name", "app-1")
    flashboot(*publish)
    key = next(store.keys("packs/"))
    whole = store.get(key, limit=64 * MIB)
    store.put(key, whole[:-1] + bytes([whole[-1] ^ 1]), replace=True)
    assert flashboot(*publish, "--repair")["repaired"] == [key]
    assert store.get(key, limit=64 * MIB) == whole
    assert flashboot(*publish, "--repair")["repaired"] == []


def test_a_publish_that_was_killed_is_continued(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.raw", chunks=400)
    packs = tmp_path / "store/packs"
    words = [str(disk), "--name", "app-1", "--store", f"file://{tmp_path}/store"]
    running = subprocess.Popen(
        [sys.executable, "-m", "flashboot.cli.main", "image", "publish", *words],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (packs.is_dir() and any(name[0] != "." for name in os.listdir(packs))):
        assert running.poll() is None, "it was done before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "store/images").exists()
    kept = {name: (packs / name).stat().st_mtime_ns for name in visible(packs)}
    assert kept
    result = flashboot("publish", *words)
    assert result["objects_found"] == len(kept)
    assert {name: (packs / name).stat().st_mtime_ns for name in kept} == kept, "sent again"
    sent = sum((packs / name).stat().st_size for name in visible(packs) - set(kept))
    assert sent <= result["bytes_sent"] < sent + 1 * MIB  # and the table and the statement
    assert flashboot("verify", "app-1", *words[3:])["verified"]


def visible(directory: Path) -> set[str]:
    """Its objects, without the unfinished ones."""
    return {name for name in os.listdir(directory) if not name.startswith(".")}
