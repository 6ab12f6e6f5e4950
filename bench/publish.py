"""How fast publishing is, beside `zstd -9 -T0` on the same bytes in the same run.

    .venv/bin/python bench/publish.py [--mib 512] [--zero 40] [--runs 3]

The image is made of text-like and random parts, with a share of zero chunks, in a directory of
--directory (a file system in memory shows the processor's side best).
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHUNK = 512 * 1024


def make_image(path: Path, *, mib: int, zero_percent: int) -> None:
    """Zero chunks, half-random chunks and words, as a root disk has them."""
    source = random.Random(1)
    words = [source.randbytes(source.randint(2, 9)).hex() for _ in range(4000)]
    with path.open("wb") as file:
        for _ in range(mib * 1024 * 1024 // CHUNK):
            if source.random() * 100 < zero_percent:
                file.write(bytes(CHUNK))
            elif source.random() < 0.25:
                file.write(source.randbytes(CHUNK))
            else:
                text = " ".join(source.choices(words, k=CHUNK // 8)).encode()
                file.write(text[:CHUNK].ljust(CHUNK, b"."))


def timed(argv: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of processor, MiB of memory at most."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    # /proc gives the peak of one child; getrusage only that of the largest so far.
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    if child.returncode:
        raise SystemExit(f"{' '.join(argv)} failed with {child.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, spent, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--zero", type=int, default=40, help="percent of zero chunks")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as work:
        image, store = Path(work, "disk.raw"), Path(work, "store")
        make_image(image, mib=arguments.mib, zero_percent=arguments.zero)
        publish = [sys.executable, "-m", "flashboot.cli.main", "image", "publish", str(image)]
        publish += ["--name", "bench", "--store", f"file://{store}", "--quiet"]
        zstd = ["zstd", "-9", "-T0", "-q", "-f", str(image), "-o", str(Path(work, "disk.zst"))]
        rows: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(arguments.runs):
            shutil.rmtree(store, ignore_errors=True)
            rows.setdefault("publish", []).append(timed(publish))
            rows.setdefault("publish again", []).append(timed(publish))
            rows.setdefault("zstd -9 -T0", []).append(timed(zstd))
        stored = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        packed = Path(work, "disk.zst").stat().st_size
    print(f"image {arguments.mib} MiB, {arguments.zero} % zero chunks, ", end="")
    print(f"{len(os.sched_getaffinity(0))} cores, median of {arguments.runs}")
    print(f"{'':14} {'MiB/s':>8} {'CPU s':>7} {'peak MiB':>9}")
    for name, runs in rows.items():
        seconds, spent, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{name:14} {arguments.mib / seconds:8.1f} {spent:7.1f} {peak:9.0f}")
    print(f"stored {stored / 2**20:.1f} MiB; one zstd stream {packed / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
