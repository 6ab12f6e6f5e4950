"""The command from end to end, and the small parts around it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from happycache import atomic, cli, dump, parallel, system, words
from happycache.memory import MemoryGuard, keep_bytes
from happycache.progress import Progress

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tree whose files are in memory, because they were just written."""
    folder = tmp_path / "data"
    for name, pages in (("ks/big.db", 50), ("ks/small.db", 2), ("log/odd\x1b[1m", 5)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(pages * 4096))
    return folder


def test_dump_show_load(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "m")
    assert cli.main(["dump", "-o", target, "--json", "--jobs", "2", str(data)]) == 0
    dumped = json.loads(capsys.readouterr().out)
    assert (dumped["files"], dumped["bytes"], dumped["unreadable"]) == (3, 57 * 4096, 0)
    assert dumped["roots"] == [str(data)]
    assert dumped["map_bytes"] == os.path.getsize(target)

    assert cli.main(["show", target, "--json", "--top", "1"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["directories"] == 2
    assert shown["top"] == [
        {
            "directory": str(data / "ks"),
            "files": 2,
            "pages": 52 * 4096 // shown["page_size"],
            "bytes": 52 * 4096,
        }
    ]
    assert shown["sha256"] == dumped["sha256"]
    assert cli.main(["show", target]) == 0
    assert f"208.0 KiB  91.2%          2  {data}/ks" in capsys.readouterr().out

    assert cli.main(["load", target, "--json"]) == 0
    loaded = json.loads(capsys.readouterr().out)
    assert loaded["ready"] is True
    assert loaded["resident_pages"] == loaded["asked_pages"] == dumped["pages"]
    assert loaded["files"]["same"] == 3
    assert cli.main(["load", target]) == 0
    assert capsys.readouterr().out.startswith("100.0 % of 228.0 KiB in memory: 0 B loaded, ")


def test_stable_keys(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "m")
    keys = []
    for line in (["dump", "-o", target, str(data)], ["load", target], ["show", target]):
        assert cli.main([*line, "--json"]) == 0
        keys.append(" ".join(json.loads(capsys.readouterr().out)))
    pages = (
        "asked_pages asked_bytes already_pages loaded_pages loaded_bytes resident_pages "
        "gone_pages failed_pages"
    )
    head = "created created_ns page_size roots files pages bytes map_bytes sha256"
    assert keys == [
        f"map {head} scanned_files cold_files unreadable vanished_files unmappable_files seconds",
        f"map page_size {pages} files stopped ready ready_share wanted_share seconds",
        f"map {head} runs file_bytes directories top",
    ]


def test_not_ready(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "m")
    assert cli.main(["dump", "-o", target, str(data)]) == 0
    (data / "ks" / "big.db").unlink()
    assert cli.main(["load", target]) == 3
    out, err = capsys.readouterr()
    assert out.endswith("files not as they were: 1 gone\n")
    assert "error: Only 12.3 % of the pages asked for are in memory, 95 % were wanted." in err
    assert cli.main(["load", "--ready-share", "12", target]) == 0


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        ("load {}/none", 10, "none cannot be read: No such file"),
        ("load {}", 10, "Is a directory"),
        ("show {}/none", 10, "none cannot be read: No such file"),
        ("show {}/text", 11, "not a valid residency map"),
        ("load {}/text", 11, "not a valid residency map"),
        ("dump -o {}/m {}/none", 20, "none cannot be dumped: No such file"),
        ("dump -o {}/m {}/text", 20, "text cannot be dumped: Not a directory"),
        ("dump -o {}/none/m {}", 15, "cannot be written: No such file"),
        ("dump -o {} {}/empty", 15, "cannot be written: Is a directory"),
        ("load {}/m --root /else={}", 21, "the map has "),
        ("load {}/m --root {}/empty=/nowhere", 21, "/nowhere is no directory"),
    ],
)
def test_errors(
    line: str, code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("no map")
    (tmp_path / "empty").mkdir()
    assert cli.main(["dump", "-o", f"{tmp_path}/m", f"{tmp_path}/empty"]) == 0
    capsys.readouterr()
    before = sorted(os.listdir(tmp_path))
    assert cli.main(line.replace("{}", str(tmp_path)).split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "line",
    ["", "dump x", "load", "load m --jobs 0", "load m --ready-share 101", "load m --root a",
     "load m --deadline 0", "show m --top -1", "melt"],
)  # fmt: skip
def test_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 2
    assert "usage: happycache" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["", "dump", "load", "show"])
def test_help_fits_a_terminal(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([*verb.split(), "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_names_are_safe_on_a_terminal(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = data / "x\x1b[2J\udcff"
    odd.mkdir()
    (odd / "f").write_bytes(b"1")
    assert cli.main(["dump", "-o", str(tmp_path / "m"), str(data)]) == 0
    assert cli.main(["show", str(tmp_path / "m")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"x\x1b[2J\udcff" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(
    number: signal.Signals,
    code: int,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def slow(_look: object, _listed: object) -> bool:
        os.kill(os.getpid(), number)
        return True

    (tmp_path / "m").write_text("old")
    monkeypatch.setattr(dump, "_first_time", slow)
    threads = threading.active_count()
    assert cli.main(["dump", "--jobs", "3", "-o", str(tmp_path / "m"), str(data)]) == code
    assert "nothing was left behind" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["data", "m"]
    assert (tmp_path / "m").read_text() == "old"
    assert threading.active_count() == threads


def test_as_a_program_of_its_own(data: Path, tmp_path: Path) -> None:
    """It runs alone, imports nothing of flashboot and little else, and survives a closed pipe."""
    code = (
        "import sys; from happycache.cli import main; main(sys.argv[1:]); "
        "heavy = {'flashboot', 'asyncio', 'logging', 'subprocess', 'numpy', 'concurrent'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    target = str(tmp_path / "m")
    for line in (["dump", "-o", target, str(data)], ["load", target], ["show", target]):
        done = subprocess.run(
            [sys.executable, "-c", code, *line], cwd=REPOSITORY, capture_output=True, check=True
        )
        assert done.stderr == b"[]\n"
    readers, writers = os.pipe()
    os.close(readers)
    done = subprocess.run(
        [sys.executable, "-m", "happycache", "show", target],
        cwd=REPOSITORY,
        stdout=writers,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writers)
    assert (done.returncode, done.stderr) == (141, b"")


# The parts


def test_many_warnings_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    warnings = cli._Warnings(Progress("x", StringIO()))
    for number in range(1030):
        warnings.say(f"file {number}")
    warnings.close()
    err = capsys.readouterr().err
    assert "file 19" in err
    assert "file 20" not in err
    assert "1,010 more" in err


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log() -> None:
    times = iter([0.0, 1.0, 4.9, 5.0, 6.0, 10.5])
    stream = StringIO()
    progress = Progress("loading", stream, clock=lambda: next(times))
    for share in (0.1, 0.2, 0.3, 0.4, 0.5):
        progress.show(lambda: "1 GiB", share=share)
    progress.close()
    assert stream.getvalue() == "loading  30% 1 GiB\nloading  50% 1 GiB\n"


def test_progress_on_a_terminal() -> None:
    times = iter([0.0, 1.0, 2.0])
    stream = Terminal()
    progress = Progress("loading", stream, clock=lambda: next(times))
    progress.show(lambda: "1 GiB", share=0.5)
    progress.show(lambda: "x" * 500)
    progress.close()
    _, first, second, last = stream.getvalue().split("\r\x1b[K")
    assert first == f"loading [{'#' * 12}{'.' * 12}]  50% 1 GiB"
    assert (len(second), last) == (79, "")


@pytest.mark.parametrize("jobs", [1, 3])
def test_in_order(jobs: int) -> None:
    stop = threading.Event()
    numbers = parallel.in_order(lambda n: n * n, range(50), jobs=jobs, ahead=5, stop=stop)
    assert list(numbers) == [n * n for n in range(50)]
    assert not stop.is_set()


def test_in_order_is_bounded_and_ends_early() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    stop = threading.Event()
    results = parallel.in_order(lambda n: n, items(), jobs=2, ahead=4, stop=stop)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()
    assert stop.is_set()
    assert len(taken) <= 7


def test_in_order_passes_errors_on() -> None:
    stop = threading.Event()
    with pytest.raises(ZeroDivisionError):
        list(parallel.in_order(lambda n: 1 // n, [2, 1, 0, 5], jobs=2, ahead=2, stop=stop))
    assert stop.is_set()


def test_memory_guard() -> None:
    total, now = 1000 * system.MIB, [0.0]
    available = [164 * system.MIB]
    guard = MemoryGuard(lambda: (total, available[0]), clock=lambda: now[0])
    assert guard.charge(60 * system.MIB)
    assert guard.charge(0, resident=39 * system.MIB)
    assert guard.charge(1 * system.MIB)
    assert not guard.charge(1), "100 MiB were free to use"
    assert guard.low

    guard = MemoryGuard(lambda: (total, available[0]), clock=lambda: now[0])
    available[0] = 63 * system.MIB
    assert guard.charge(1), "not asked again so soon"
    now[0] = 1.0
    assert not guard.charge(1)
    available[0] = 900 * system.MIB
    now[0] = 2.0
    assert not guard.charge(1), "no is no"


def test_what_stays_available() -> None:
    assert keep_bytes(768 * system.MIB) == 64 * system.MIB
    assert keep_bytes(64 << 30) == (64 << 30) // 20


def test_memory_is_read(tmp_path: Path) -> None:
    total, available = system.memory() or (0, 0)
    assert 0 < available < total
    (tmp_path / "odd").write_text("MemTotal: many kB\n")
    assert system.memory(str(tmp_path / "odd")) is None
    assert system.memory(str(tmp_path / "none")) is None
    assert MemoryGuard(lambda: None).charge(1 << 50)


@pytest.mark.parametrize(
    ("limit", "want"), [("1280", 256), ("64", 64), ("0", 128), ("rubbish", 128), (None, 128)]
)
def test_piece_bytes(limit: str | None, want: int, tmp_path: Path) -> None:
    """A partition takes its disk's limit; what names no disk gets the default."""
    disk = tmp_path / "devices" / "nvme1n1"
    (disk / "nvme1n1p1").mkdir(parents=True)
    (tmp_path / "259:3").symlink_to(disk / "nvme1n1p1")
    if limit is not None:
        (disk / "queue").mkdir()
        (disk / "queue" / "max_sectors_kb").write_text(f"{limit}\n")
    assert system.piece_bytes(os.makedev(259, 3), sys_block=str(tmp_path)) == want * 1024


def test_pseudo_devices(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 0:21 / /proc rw - proc proc rw\n"
        "23 1 259:1 / / rw shared:1 - ext4 /dev/nvme0n1p1 rw\n"
        "24 1 0:30 / /tmp rw shared:2 master:3 - tmpfs tmpfs rw\n"
    )
    assert system.pseudo_devices(str(table)) == {os.makedev(0, 21), os.makedev(0, 30)}
    assert system.pseudo_devices(str(tmp_path / "none")) == frozenset()


def test_atomic_file_is_flushed_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(*arguments: object, **options: object) -> object:
            order.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, watched)

    watch("fsync")
    watch("rename")
    with atomic.replacing(bytes(tmp_path / "f")) as stream:
        stream.write(b"1")
    assert order == ["fsync", "rename", "fsync"]

    def fail() -> None:
        with atomic.replacing(bytes(tmp_path / "f")) as stream:
            stream.write(b"22")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(tmp_path / name).read_bytes() for name in os.listdir(tmp_path)] == [b"1"]


def test_words() -> None:
    assert words.size(0) == "0 B"
    assert words.size(1536) == "1.5 KiB"
    assert words.size(5 << 40) == "5.0 TiB"
    assert words.number(1, "file") == "1 file"
    assert words.name(b"a\n\xff") == r"a\n\udcff"
