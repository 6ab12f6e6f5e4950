"""kexec's refusals on fake machines, and files in memory. Loading is tried in tests/vm."""

import os
from pathlib import Path

import pytest

from flashboot.errors import KexecRefused
from flashboot.machine.kernelfs import Tree
from flashboot.machine.kexec import load, loaded, memory_file, refusals
from flashboot.machine.process import run


@pytest.fixture
def nitro(tmp_path: Path) -> Path:
    """A machine where kexec may be tried."""
    for name, text in {
        "sys/kernel/kexec_loaded": "0\n",
        "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
        "sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
        "proc/sys/kernel/kexec_load_disabled": "0\n",
        "proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\n",
    }.items():
        put(tmp_path, name, text)
    return tmp_path


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def tree(root: Path) -> Tree:
    return Tree(proc=f"{root}/proc", sys=f"{root}/sys", dev=f"{root}/dev", run=f"{root}/run")


def test_nothing_bars_it_on_nitro_or_metal(nitro: Path) -> None:
    assert refusals(tree=tree(nitro)) == ()
    (nitro / "sys/hypervisor").mkdir()
    assert refusals(tree=tree(nitro)) == ()
    assert not loaded(tree=tree(nitro))
    put(nitro, "sys/kernel/kexec_loaded", "1\n")
    assert loaded(tree=tree(nitro))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("sys/hypervisor/type", "xen\n", "Xen"),
        ("sys/hypervisor/type", "acme\n", "(acme) is not known"),
        ("sys/hypervisor/type/not-readable", "", "(not readable) is not known"),
        ("sys/class/dmi/id/sys_vendor", "Xen\n", "Xen"),
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n", "locked down"),
        ("sys/kernel/security/lockdown", "none integrity [confidentiality]\n", "locked down"),
        ("proc/sys/kernel/kexec_load_disabled", "1\n", "kexec_load_disabled is 1"),
        ("proc/sys/kernel/kexec_load_limit_reboot", "0\n", "used up"),
        ("proc/self/status", "CapEff:\t0000000000000000\n", "CAP_SYS_BOOT"),
        ("proc/self/status", "Name:\tx\n", "not readable"),
        ("run/systemd/container", "docker\n", "container"),
    ],
)
def test_each_reason_is_named(nitro: Path, name: str, text: str, words: str) -> None:
    put(nitro, name, text)
    (reason,) = refusals(tree=tree(nitro))
    assert words in reason


def test_all_reasons_come_at_once(nitro: Path) -> None:
    put(nitro, "sys/hypervisor/type", "xen\n")
    put(nitro, "proc/sys/kernel/kexec_load_disabled", "1\n")
    (nitro / "sys/kernel/kexec_loaded").unlink()
    assert len(refusals(tree=tree(nitro))) == 3
    (nitro / "proc/sys/kernel/kexec_load_disabled").unlink()
    assert len(refusals(tree=tree(nitro))) == 2


def test_a_command_line_has_room_for_2047_bytes() -> None:
    with pytest.raises(KexecRefused, match="2047 fit"):
        load(-1, -1, command_line="x" * 2048)
    with pytest.raises(KexecRefused, match="NUL"):
        load(-1, -1, command_line="a\0b")


def test_a_memory_file_holds_its_parts_and_is_sealed() -> None:
    descriptor = memory_file("parts", [b"one ", memoryview(b"two"), b"", b" three" * 100_000])
    try:
        assert os.pread(descriptor, 13, 0) == b"one two three"
        assert os.fstat(descriptor).st_size == 7 + 600_000
        assert not os.get_inheritable(descriptor)
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_TRUNC)
    finally:
        os.close(descriptor)


def test_a_memory_file_is_not_open_for_writing() -> None:
    # execve(2) has the same rule as kexec_file_load(2): ETXTBSY while anyone may write.
    descriptor = memory_file("program", [Path("/bin/true").read_bytes()])
    try:
        run([f"/proc/self/fd/{descriptor}"], timeout_seconds=5, pass_fds=[descriptor])
    finally:
        os.close(descriptor)
