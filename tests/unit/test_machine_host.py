"""Host, memory, the kernel's log, the clock and the one way out."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flashboot
from flashboot.errors import MachineError
from flashboot.machine.clock import set_wall_clock
from flashboot.machine.host import host
from flashboot.machine.kernelfs import Tree
from flashboot.machine.kmsg import ERROR, kmsg
from flashboot.machine.memory import memory

MIB = 1024 * 1024


def put(root: Path, name: str, text: str | bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    put(tmp_path, "proc/uptime", "12.5 20.1\n")
    put(tmp_path, "proc/sys/kernel/random/boot_id", "b0b0\n")
    put(tmp_path, "proc/meminfo", "MemTotal:  2048 kB\nMemAvailable: 1024 kB\nHugePages_Total: 0\n")
    return Tree(proc=f"{tmp_path}/proc", sys=f"{tmp_path}/sys", run=f"{tmp_path}/run")


def test_a_bios_host(tree: Tree) -> None:
    facts = host(tree=tree)
    assert (facts.boot_mode, facts.boot_id, facts.uptime_seconds) == ("bios", "b0b0", 12.5)
    assert (facts.secure_boot, facts.hypervisor) == (None, None)
    assert facts.architecture


@pytest.mark.parametrize(
    ("value", "answer"),
    [(b"\x06\0\0\0\x01", True), (b"\x06\0\0\0\x00", False), (b"", None), (b"\x01", None)],
)
def test_a_uefi_host(tree: Tree, tmp_path: Path, value: bytes, answer: bool | None) -> None:
    name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    put(tmp_path, f"sys/firmware/efi/efivars/{name}", value)
    put(tmp_path, "sys/class/dmi/id/sys_vendor", "QEMU\n")
    facts = host(tree=tree)
    assert (facts.boot_mode, facts.secure_boot, facts.hypervisor) == ("uefi", answer, "QEMU")


def test_no_boot_id_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="boot_id"):
        host(tree=Tree(proc=str(tmp_path)))


def test_memory_without_a_limit(tree: Tree) -> None:
    facts = memory(tree=tree)
    assert (facts.total, facts.available, facts.limit) == (2 * MIB, MIB, None)
    assert facts.usable == MIB


def test_the_narrowest_group_counts(tree: Tree, tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/system.slice/flash.service\n")
    groups = "sys/fs/cgroup/system.slice"
    put(tmp_path, f"{groups}/memory.max", f"{900 * 1024}\n")
    put(tmp_path, f"{groups}/memory.current", f"{600 * 1024}\n")
    put(tmp_path, f"{groups}/memory.stat", f"anon 1\ninactive_file {100 * 1024}\n")
    put(tmp_path, f"{groups}/flash.service/memory.max", "max\n")
    put(tmp_path, f"{groups}/flash.service/memory.current", "5\n")
    assert memory(tree=tree).usable == 400 * 1024


def test_version_1_groups(tree: Tree, tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "8:pids:/\n4:cpu,memory:/a\n")
    put(tmp_path, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4096\n")
    put(tmp_path, "sys/fs/cgroup/memory/a/memory.usage_in_bytes", "8192\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n")
    assert memory(tree=tree).limit == 0


def test_meminfo_must_say_what_is_available(tmp_path: Path) -> None:
    put(tmp_path, "meminfo", "MemTotal: 1 kB\n")
    with pytest.raises(MachineError, match="MemAvailable"):
        memory(tree=Tree(proc=str(tmp_path)))


def test_kmsg_writes_short_lines_with_a_priority(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.touch()
    assert kmsg("one\n" + "ä" * 2000, priority=ERROR, path=str(log))
    first, second = (tmp_path / "kmsg").read_bytes().splitlines()
    assert second.decode().startswith("<11>flashboot: ää")
    assert len(second) < 976
    assert first == b"<11>flashboot: one"


def test_no_kmsg_is_no_error(tmp_path: Path) -> None:
    assert not kmsg("lost", path=str(tmp_path / "missing"))
    assert not kmsg("lost", path="/dev/full")


def test_a_clock_that_cannot_be_set_is_said() -> None:
    with pytest.raises(MachineError, match="wall clock"):
        set_wall_clock(-1)


def test_no_code_stops_or_powers_off_the_machine() -> None:
    # linux/reboot.h: HALT, POWER_OFF; sys/reboot.h: RB_*; systemctl's verbs and their short forms.
    banned = re.compile(
        r"0x(?:cdef0123|4321fedc)|RB_(?:HALT|POWER)|CMD_(?:HALT|POWER)"
        r"|[\"'](?:halt|poweroff|shutdown|telinit)[\"']|kexec[\"'], *[\"']-e",
        re.IGNORECASE,
    )
    for path in Path(flashboot.__path__[0]).rglob("*.py"):
        if path.name in ("qemu.py", "door.py"):
            continue  # these speak of guests, and of the shells of accounts
        found = banned.search(path.read_text())
        assert found is None, f"{path}: {found}"


# What the flasher imports on its way to the first write: none may pull in the heavy ones.
LEAN = ("device", "buffers", "heads", "mounts", "blockdevices", "memory", "kmsg", "power", "host")
HEAVY = ("subprocess", "psutil", "asyncio", "uuid", "boto3", "botocore", "typing_extensions")


def test_imports_are_lean() -> None:
    modules = [f"flashboot.machine.{name}" for name in LEAN]
    for name in modules:
        importlib.import_module(name)
    code = f"import sys, {', '.join(modules)}; print(*sorted({{*sys.modules}} & {{*{HEAVY!r}}}))"
    root = Path(flashboot.__path__[0]).parent
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(root)!r}); {code}",
    ]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
