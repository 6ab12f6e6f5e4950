"""How small and how quick the RAM OS is: size, build time, import cost, boot time, memory.

    .venv/bin/python bench/ramos.py [--boots N] [--memory MIB,MIB,...]

Boots it in QEMU without KVM: compare figures of one computer and one run only. The yardsticks of
the same run are an empty Python and the kernel's own way to its first program. A boot is given up
after a minute, and only QEMUs started here are ended.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from flashboot import cpio
from flashboot.units import MIB

_REPOSITORY = Path(__file__).resolve().parent.parent
_CACHE = _REPOSITORY / ".cache/ramos"
_MAC = "52:54:00:12:34:56"
_BOOT_LIMIT_SECONDS = 60.0
_INIT = re.compile(r"flashboot: RAM OS ")
_START = re.compile(r"flashboot: run \S+: starting the flasher")
# The handoff is a stub: the flasher says that it is malformed, after it has imported its own.
_FLASHER = re.compile(r"flashboot: (error:|the flasher starts)|No module named flashboot.flasher")


@dataclass(frozen=True, slots=True)
class Boot:
    """Seconds since QEMU's start."""

    init: float
    started: float
    flasher: float


def build(output: Path, cache: Path) -> float:
    """Build into `output`; the seconds it took."""
    start = time.monotonic()
    command = [sys.executable, str(_REPOSITORY / "live-initramfs/build.py")]
    subprocess.run(
        [*command, "--output", output, "--cache", cache], check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - start


def with_stub(initramfs: bytes) -> bytes:
    """The RAM OS with a handoff that says only which interface to use."""
    environment = f"FLASHBOOT_RUN=bench\nFLASHBOOT_MAC={_MAC}\nFLASHBOOT_NTP=\n"
    return initramfs + cpio.pack(
        [
            cpio.directory("flashboot", 0o700),
            cpio.file("flashboot/handoff.json", b"{}", 0o600),
            cpio.file("flashboot/network.env", environment.encode(), 0o600),
        ]
    )


def boot(output: Path, initrd: Path, memory: int) -> Boot | None:
    """One start in a machine of `memory` MiB; None if the flasher was not reached."""
    command_line = json.loads((output / "ramos.json").read_bytes())["command_line"]
    accelerator = "tcg,thread=multi,tb-size=64"  # see flashboot/machine/qemu.py, TCG
    command = ["qemu-system-x86_64", "-accel", accelerator, "-cpu", "max", "-smp", "2"]
    command += ["-m", str(memory), "-nodefaults", "-display", "none", "-serial", "stdio"]
    command += ["-no-reboot", "-kernel", str(output / "vmlinuz"), "-initrd", str(initrd)]
    command += ["-append", command_line, "-netdev", "user,id=n"]
    command += ["-device", f"virtio-net-pci,netdev=n,mac={_MAC}"]
    start = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as qemu:
        limit = threading.Timer(_BOOT_LIMIT_SECONDS, qemu.kill)
        limit.start()
        try:
            assert qemu.stdout is not None
            return _watch(iter(qemu.stdout), start)
        finally:
            limit.cancel()
            qemu.kill()


def _watch(lines: Iterator[bytes], start: float) -> Boot | None:
    seen: dict[re.Pattern[str], float] = {}
    for raw in lines:
        line = raw.decode(errors="replace")
        if "Kernel panic" in line:
            return None
        for pattern in (_INIT, _START, _FLASHER):
            if pattern.search(line):
                seen.setdefault(pattern, time.monotonic() - start)
        if _FLASHER in seen and _START in seen:
            return Boot(seen[_INIT], seen[_START], seen[_FLASHER])
    return None


def unpacked_length(initramfs: bytes) -> int:
    """What the RAM OS takes when its two frames are unpacked."""
    total = 0
    while initramfs:
        unit = zstandard.ZstdDecompressor().decompressobj()
        total += len(unit.decompress(initramfs))
        initramfs = unit.unused_data.lstrip(b"\0")
    return total


def import_seconds(statement: str) -> float:
    """The best of seven: Python as init starts it, this repository first, `statement`."""
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{_REPOSITORY}:{site}"}
    command = ["/usr/bin/python3", "-P", "-s", "-S", "-c", statement]
    best = float("inf")
    for _ in range(7):
        start = time.monotonic()
        subprocess.run(command, env=environment, check=True)
        best = min(best, time.monotonic() - start)
    return best


def main(arguments: list[str]) -> int:
    """Print all figures."""
    parser = argparse.ArgumentParser(prog="ramos.py", description="Measure the RAM OS.")
    parser.add_argument("--boots", type=int, default=3)
    parser.add_argument("--memory", default="128,160,192,256,384,512,768", metavar="MIB,...")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        output, fresh, initrd = Path(name, "out"), Path(name, "cache"), Path(name, "initrd")
        build(output, _CACHE)
        again = build(output, _CACHE)
        fresh.mkdir()
        (fresh / "packages").symlink_to(_CACHE / "packages")
        print(f"build: {build(output, fresh):.1f} s with packages there, again {again:.1f} s")
        initramfs = (output / "initramfs").read_bytes()
        kernel = (output / "vmlinuz").stat().st_size
        print(
            f"size: kernel {kernel / MIB:.1f} MiB, initramfs {len(initramfs) / MIB:.1f} MiB, "
            f"{unpacked_length(initramfs) / MIB:.1f} MiB unpacked"
        )
        bare = import_seconds("pass")
        print(f"Python alone: {bare * 1000:.0f} ms")
        for what in ("flashboot.flasher.phases, flashboot.flasher.doors", "botocore.session"):
            print(f"import {what}: {(import_seconds(f'import {what}') - bare) * 1000:.0f} ms more")
        initrd.write_bytes(with_stub(initramfs))
        boots = [found for _ in range(options.boots) if (found := boot(output, initrd, 768))]
        if not boots:
            print("boot: the flasher was not reached in 768 MiB", file=sys.stderr)
            return 1
        middle = [statistics.median(getattr(one, name) for one in boots) for name in Boot.__slots__]
        print(
            f"boot, median of {len(boots)}: init {middle[0]:.1f} s, flasher started "
            f"{middle[1]:.1f} s, its first line {middle[2]:.1f} s after QEMU's start"
        )
        for memory in sorted(int(word) for word in options.memory.split(",")):
            if boot(output, initrd, memory):
                print(f"memory: {memory} MiB are enough to reach the flasher")
                return 0
            print(f"memory: {memory} MiB are too little")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
