"""Real loop devices: made for one test, always detached."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

LoopMaker = Callable[..., str]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LoopMaker]:
    """`loop(size, sector_size=512)` gives the path of a loop device over a sparse file."""

    def make(size: int, *, sector_size: int = 512, file: Path | None = None) -> str:
        if file is None:
            file = tmp_path / f"loop-{len(made)}.img"
            with file.open("wb") as image:
                image.truncate(size)
        argv = ["losetup", "--find", "--show", "--sector-size", str(sector_size), str(file)]
        path = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        cleanup.callback(subprocess.run, ["losetup", "--detach", path], check=False)
        made.append(path)
        return path

    made: list[str] = []
    with ExitStack() as cleanup:
        yield make


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`mounted(device)` mounts it and gives the mount point; unmounted after the test."""

    def mount(device: str) -> Path:
        point = tmp_path / f"mount {len(made)}"
        point.mkdir()
        subprocess.run(["mount", device, str(point)], check=True, capture_output=True)
        made.append(point)
        cleanup.callback(
            subprocess.run, ["umount", str(point)], check=False, stderr=subprocess.DEVNULL
        )
        return point

    made: list[Path] = []
    with ExitStack() as cleanup:
        yield mount
