"""What the rig needs before anything can run: images, the RAM OS, the cloud; made side by side."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rig.cloud import REPOSITORY
from tests.rig.images import Images

RAMOS = REPOSITORY / ".cache" / "ramos-current"


@dataclass(frozen=True, slots=True)
class Parts:
    """OLD, NEW, and the RAM OS's directory with what its builder says of it."""

    images: Images
    ramos: Path
    ramos_facts: dict[str, Any]


def build_images() -> Images:
    """Both images, by a process of their own so that a Ctrl-C ends all of it."""
    old, new, key = map(
        Path, _run([sys.executable, "-m", "tests.rig.images", "build"]).splitlines()[-3:]
    )
    return Images(old.parent, old, new, key)


def build_ramos() -> dict[str, Any]:
    """The RAM OS into RAMOS; what its builder says."""
    script = str(REPOSITORY / "live-initramfs" / "build.py")
    facts: dict[str, Any] = json.loads(
        _run([sys.executable, script, "--output", str(RAMOS), "--json"])
    )
    return facts


def prepare(start_cloud: Callable[[], None]) -> Parts:
    """Images and RAM OS in the background while the caller's thread starts the cloud."""
    with ThreadPoolExecutor(2, thread_name_prefix="build") as pool:
        images, ramos = pool.submit(build_images), pool.submit(build_ramos)
        start_cloud()
        return Parts(images.result(), RAMOS, ramos.result())


def _run(argv: list[str]) -> str:
    done = subprocess.run(
        ["setpriv", "--pdeathsig", "TERM", *argv],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout
