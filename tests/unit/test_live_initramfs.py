"""The recipe of the RAM OS: its pure parts, and that the same inputs give the same bytes."""

import ast
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from flashboot import cpio

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "live-initramfs"))

import build
import debian
import elf
import modules

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = Path("/usr/bin/python3.11")
# What the wheels of the RAM OS are imported as.
_THIRD = {"botocore", "dateutil", "jmespath", "six", "urllib3", "zstandard"}


def _module(name: str, *depends: str) -> modules.Module:
    return modules.Module(f"usr/lib/modules/r/kernel/{name}.ko", b"", depends, ())


# Kernel modules


def test_modules_load_after_what_they_need() -> None:
    table = {
        "net": _module("net", "ring", "failover"),
        "pci": _module("pci", "ring", "virtio"),
        "virtio": _module("virtio", "ring"),
        "ring": _module("ring"),
        "failover": _module("failover", "core"),
    }
    order = modules.load_order(["pci", "net"], table, frozenset({"core"}))
    assert order == ["ring", "virtio", "pci", "failover", "net"]


def test_a_missing_module_and_a_circle_are_named() -> None:
    with pytest.raises(LookupError, match="no module ena"):
        modules.load_order(["ena"], {}, frozenset())
    table = {"a": _module("a", "b"), "b": _module("b", "a")}
    with pytest.raises(LookupError, match="a > b > a"):
        modules.load_order(["a"], table, frozenset())
    assert modules.load_order(["a-b"], {}, frozenset({"a_b"})) == []


def test_a_module_says_what_it_needs() -> None:
    data = b"ELF\0alias=pci:v1\0alias=pci:v2\0depends=md-mod,ring\0softdep=pre: crc post: x\0name=m"
    module = modules.modinfo("kernel/xen-blkfront.ko", data)
    assert module.depends == ("md_mod", "ring", "crc")
    assert module.aliases == ("pci:v1", "pci:v2")
    assert modules.module_name(module.path) == "xen_blkfront"


def test_the_lists_for_modprobe_hold_only_what_is_shipped() -> None:
    root = "usr/lib/modules/r/"
    names = [*build.DRIVERS, *build.SPARE_MODULES, "md-mod", "stranger"]
    data = {"raid0": b"\0depends=md-mod\0", "efivarfs": b"\0alias=fs-efivarfs\0"}
    kernel = {f"{root}k/{n}.ko": cpio.file(f"{root}k/{n}.ko", data.get(n, b"")) for n in names}
    kernel[root + "modules.builtin"] = cpio.file(root + "modules.builtin", b"kernel/nvme.ko\n")
    files = build.module_files(kernel, "r")
    assert f"{root}k/stranger.ko" not in files
    assert b"k/raid0.ko: k/md-mod.ko\n" in files[root + "modules.dep"].data
    assert files[root + "modules.alias"].data == b"alias fs-efivarfs efivarfs\n"


# Shared objects


@pytest.mark.skipif(not PYTHON.exists(), reason="no Debian Python 3.11 here")
def test_what_a_program_needs_is_what_ldd_says(tmp_path: Path) -> None:
    data = PYTHON.read_bytes()
    listing = subprocess.run(["ldd", str(PYTHON)], capture_output=True, text=True, check=True)
    named = elf.needed(data)
    assert "libc.so.6" in named
    assert set(named) <= set(listing.stdout.split())
    program = tmp_path / "python3.11"
    program.write_bytes(elf.stripped(data))
    program.chmod(0o755)
    assert elf.needed(elf.stripped(data)) == named
    done = subprocess.run([program, "-S", "-c", "print(6 * 7)"], capture_output=True, check=True)
    assert done.stdout == b"42\n"


@pytest.mark.skipif(not PYTHON.exists(), reason="no Debian Python 3.11 here")
def test_a_library_that_no_package_holds_is_named() -> None:
    tree = {"usr/bin/python3.11": cpio.file("usr/bin/python3.11", PYTHON.read_bytes())}
    with pytest.raises(debian.BuildError, match=r"lib.*\.so"):
        build.link_closure(tree, {})


# Debian packages


def test_the_candidate_is_the_first_of_a_name() -> None:
    text = (
        "Package: a\nVersion: 2\nDepends: b (= 2), c\nSHA256: 22\nDescription: x\n y: z\n\n"
        "Package: a\nVersion: 1\nSHA256: 11\n\nPackage: not-offered\nVersion: 3\n"
    )
    assert debian.parse_packages(text) == {"a": debian.Package("a", "2", "22", "b (= 2), c")}
    assert debian.parse_packages("") == {}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./bin/busybox", "usr/bin/busybox"),
        ("./lib64/ld.so", "usr/lib64/ld.so"),
        ("./usr/sbin/dropbear", "usr/sbin/dropbear"),
        ("./library", "library"),
    ],
)
def test_paths_lie_below_usr(name: str, path: str) -> None:
    assert debian.merged(name) == path


# Python


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("json/decoder.py", True),
        ("email/mime/text.py", True),
        ("lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", True),
        ("lib-dynload/_hashlib.cpython-311-x86_64-linux-gnu.so", True),
        ("lib-dynload/_curses_panel.cpython-311-x86_64-linux-gnu.so", False),
        ("lib-dynload/_sqlite3.cpython-311-x86_64-linux-gnu.so", False),
        ("sitecustomize.py", False),
        ("turtle.py", False),
        ("unittest/mock.py", False),
        ("ctypes/test/test_arrays.py", False),
        ("LICENSE.txt", False),
    ],
)
def test_the_standard_library_is_trimmed(path: str, kept: bool) -> None:
    assert build.keep_of_stdlib(build.STDLIB + path) is kept


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("botocore/client.py", True),
        ("botocore/data/partitions.json", True),
        ("botocore/data/s3/2006-03-01/service-2.json.gz", True),
        ("botocore/data/s3/2006-03-01/examples-1.json", False),
        ("botocore/data/s3control/2018-08-20/service-2.json.gz", False),
        ("botocore/cacert.pem", False),  # a link to the one bundle takes its place
        ("zstandard/backend_c.cpython-311-x86_64-linux-gnu.so", True),
        ("zstandard/_cffi.cpython-311-x86_64-linux-gnu.so", False),
        ("urllib3/py.typed", False),
    ],
)
def test_wheels_are_trimmed(path: str, kept: bool) -> None:
    assert build.keep_of_wheel(path) is kept


def test_only_the_newest_model_of_a_service_is_kept() -> None:
    paths = [f"botocore/data/ec2/{day}/service-2.json.gz" for day in ("2015-10-01", "2016-11-15")]
    others = ["botocore/data/s3/2006-03-01/waiters-2.json", "botocore/data/partitions.json"]
    assert build.old_models([*others, *paths]) == {paths[0]}


def _imports(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_closure_imports_nothing_that_stays_behind() -> None:
    package = REPOSITORY / "flashboot"
    files = build.closure_files(package)
    known = {f"flashboot/{path}" for path in files}
    assert "flashboot/errors.py" in known
    strangers: set[str] = set()
    for path in files:
        for name in _imports((package / path).read_text()):
            top = name.split(".")[0]
            if top == "flashboot":
                # The last part may be a name in the module before it.
                places = [name.replace(".", "/"), name.rpartition(".")[0].replace(".", "/")]
                found = known & {
                    f"{place}{end}" for place in places for end in (".py", "/__init__.py")
                }
                if not found:
                    strangers.add(f"{path}: {name}")
            elif top in sys.stdlib_module_names:
                if not build.keep_of_stdlib(f"{build.STDLIB}{top}.py"):
                    strangers.add(f"{path}: {name}")
            elif top not in _THIRD:
                strangers.add(f"{path}: {name}")
    assert strangers == set()


def test_the_closure_is_the_flasher_s_and_no_other_program_s(tmp_path: Path) -> None:
    for name in ("errors.py", "image/table.py", "cli/main.py", "node/stage.py", "image/x.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path) for path in build.closure_files(tmp_path)] == ["errors.py", "image/table.py"]


# The whole


def test_the_same_sources_give_the_same_bytes() -> None:
    sources = {
        **build.own_sources(),
        "usr/lib/flashboot/sets.py": b"def f(x):\n    return x in {'a', 'b', 'c', None, 1.5}\n",
    }
    first = build.frame(build.own_tree(sources, "v"))
    again = build.frame(build.own_tree(dict(reversed(sources.items())), "v"))
    assert hashlib.sha256(first).digest() == hashlib.sha256(again).digest()
    assert len(first) % 4 == 0
    entries = {e.name: e for e in cpio.read(zstandard.ZstdDecompressor().decompress(first))}
    assert entries["init"].mode == 0o100755
    assert entries["root"].mode == 0o40700
    # Never compared with the source: bit 0 is "by hash", bit 1 "check it" (PEP 552).
    pyc = entries["usr/lib/flashboot/flashboot/__pycache__/errors.cpython-311.pyc"].data
    assert pyc[4:8] == b"\1\0\0\0"
    assert str(REPOSITORY).encode() not in pyc


def test_digests_tell_parts_apart() -> None:
    assert build.digest_of(["ab", "c"]) != build.digest_of(["a", "bc"])
    assert build.digest_of([b"a"]) == build.digest_of(["a"])


def test_a_cached_part_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"part"

    assert [build.cached(tmp_path / "deep/part", make) for _ in range(2)] == [b"part", b"part"]
    assert made == [1]


def test_the_cache_does_not_grow_for_ever(tmp_path: Path) -> None:
    for number in range(build.KEPT + 3):
        build.cached(tmp_path / f"own-{number}", lambda: b"")
    (tmp_path / "base-1").touch()
    assert len(list(tmp_path.glob("own-*"))) == build.KEPT
    assert (tmp_path / f"own-{build.KEPT + 2}").exists()


def test_the_kernel_is_told_to_restart_and_to_wait_for_its_disks() -> None:
    words = build.COMMAND_LINE.split()
    for word in ("panic=10", "oops=panic", "nvme_core.io_timeout=4294967295", "raid=noautodetect"):
        assert word in words
    assert [word for word in words if word.startswith("console=")][-1] == "console=ttyS0,115200"


# init


def _script(name: str) -> str:
    return (REPOSITORY / "live-initramfs" / name).read_text()


@pytest.mark.parametrize("name", ["init", "dhcp", "profile"])
def test_scripts_are_shell(name: str) -> None:
    path = REPOSITORY / "live-initramfs" / name
    subprocess.run(["sh", "-n", str(path)], check=True)
    for checker in (["busybox", "ash", "-n"], ["shellcheck", "-s", "dash"]):
        if shutil.which(checker[0]):
            subprocess.run([*checker, str(path)], check=True)


def test_init_never_powers_off_and_never_touches_a_filesystem_or_an_array() -> None:
    for name in ("init", "dhcp"):
        words = set(re.findall(r"[a-z0-9]+", _script(name).lower()))
        forbidden = {"poweroff", "halt", "shutdown", "mdadm", "lvm", "vgchange", "fsck", "udevd"}
        assert not words & forbidden
    mounted = re.findall(r"mount -t (\w+)", _script("init"))
    assert mounted == ["proc", "sysfs", "devtmpfs", "devpts", "tmpfs"]
    assert len(mounted) == len(re.findall(r"\bmount ", _script("init")))
    applets = set(build.APPLETS_FILE.read_text().split())
    assert not applets & {"poweroff", "halt", "init", "fsck", "mkswap", "swapon", "blkdiscard"}


def test_init_protects_the_disks_before_all_else() -> None:
    main = _script("init").split("\nset_up\n")[1]
    order = [main.index(step) for step in (
        "protect_disks", "load_drivers", "start_network", "open_door", "run_flasher",
    )]  # fmt: skip
    assert order == sorted(order)
    # Drivers bring forth disks, and so does time.
    assert main.count("protect_disks") == 3
    assert main.index("run_flasher") > main.rindex("protect_disks")


def test_what_init_calls_is_there_by_name() -> None:
    applets = set(build.APPLETS_FILE.read_text().split()) | {"modprobe"}
    text = re.sub(r"#.*", "", _script("init") + _script("dhcp"))
    for name in ("mount", "blockdev", "udhcpc", "timeout", "reboot", "grep", "ip", "mv", "env"):
        assert re.search(rf"\b{name}\b", text)
        assert name in applets
