"""Dump and load against the real page cache, on a filesystem with a disk behind it."""

import ctypes
import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from happycache import dump, kernel, load, scan, system
from happycache.errors import ResidencyHidden
from happycache.kernel import PAGE_SIZE
from happycache.mapfile import MapReader
from happycache.memory import MemoryGuard
from happycache.target import FileState

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder whose files can leave the page cache: not on tmpfs."""
    place = REPOSITORY / ".cache"
    place.mkdir(exist_ok=True)
    if place.stat().st_dev in system.pseudo_devices():
        pytest.skip("needs a filesystem with a disk behind it")
    folder = Path(tempfile.mkdtemp(prefix="happycache-", dir=place))
    yield folder
    shutil.rmtree(folder)


def evict(*paths: Path) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def make(path: Path, pages: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(pages * PAGE_SIZE))
    evict(path)
    return path


def touch(path: Path, *pages: int) -> None:
    """Brings single pages of an evicted file into memory, nothing around them."""
    fd = os.open(path, os.O_RDONLY)
    kernel.expect_random(fd)
    for page in pages:
        os.pread(fd, 1, page * PAGE_SIZE)
    os.close(fd)


def runs_of(path: Path) -> list[tuple[int, int]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(scan.resident_runs(fd, os.fstat(fd), name=bytes(path)))
    finally:
        os.close(fd)


def silent(text: str) -> None:
    raise AssertionError(f"unexpected warning: {text}")


def do_dump(target: Path, *directories: Path, one_file_system: bool = False) -> dump.DumpReport:
    return dump.dump(
        str(target),
        [str(at) for at in directories],
        warn=silent,
        one_file_system=one_file_system,
    )


def do_load(
    target: Path, *, warn: Callable[[str], None] = silent, **options: object
) -> load.LoadReport:
    return load.load(str(target), load.LoadOptions(**options), warn=warn)  # type: ignore[arg-type]


def listed(target: Path) -> dict[bytes, list[tuple[int, int]]]:
    with target.open("rb") as source:
        return {entry.path: list(entry.runs) for entry in MapReader(source).files()}


@pytest.fixture(params=["cachestat", "mincore alone"])
def either_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "mincore alone":
        monkeypatch.setattr(kernel._Cachestat, "there", False)


@pytest.mark.usefixtures("either_kernel")
def test_dump_evict_load(disk: Path) -> None:
    data = disk / "data"
    table = make(data / "ks" / "table.db", 600)
    cold = make(data / "ks" / "cold.db", 40)
    odd = make(data / "odd\udcff\n", 3)
    (data / "empty").touch()
    touch(table, 0, 1, 2, 100, 599)
    touch(odd, 1)
    report = do_dump(disk / "m", data)
    assert (report.scanned, report.cold, report.head.files, report.head.pages) == (4, 2, 2, 6)
    assert listed(disk / "m") == {
        b"ks/table.db": [(0, 3), (100, 1), (599, 1)],
        b"odd\xff\n": [(1, 1)],
    }
    evict(table, odd)
    assert runs_of(table) == []
    first = do_load(disk / "m")
    assert (first.asked_pages, first.loaded_pages, first.already_pages) == (6, 6, 0)
    assert first.ready
    assert runs_of(table) == [(0, 3), (100, 1), (599, 1)]
    assert runs_of(odd) == [(1, 1)]
    assert runs_of(cold) == []
    again = do_load(disk / "m")
    assert (again.loaded_pages, again.already_pages) == (0, 6)


@pytest.mark.usefixtures("either_kernel")
def test_large_sparse_file(disk: Path) -> None:
    path = make(disk / "data" / "sparse", 4)
    os.truncate(path, (3 << 30) + 5)
    last = (3 << 30) // PAGE_SIZE
    middle = (1 << 30) // PAGE_SIZE
    touch(path, 1, middle - 1, middle, last)
    assert runs_of(path) == [(1, 1), (middle - 1, 2), (last, 1)]
    do_dump(disk / "m", disk / "data")
    evict(path)
    assert do_load(disk / "m").loaded_pages == 4


@pytest.mark.skipif(shutil.which("fincore") is None, reason="needs fincore (util-linux)")
def test_fincore_agrees(disk: Path) -> None:
    paths = [make(disk / "data" / f"f{i}", 64 + i) for i in range(5)]
    for number, path in enumerate(paths):
        touch(path, *range(0, 64, number + 1))
    do_dump(disk / "m", disk / "data")
    answer = subprocess.run(
        ["fincore", "--json", "--bytes", "--output", "pages,file", *paths],
        check=True,
        capture_output=True,
    )
    witness = {
        os.path.basename(row["file"]).encode(): int(row["pages"])
        for row in json.loads(answer.stdout)["fincore"]
    }
    ours = {path: sum(n for _, n in runs) for path, runs in listed(disk / "m").items()}
    assert ours == witness


def test_files_that_are_no_more_as_they_were(disk: Path) -> None:
    data = disk / "data"
    names = ("same", "gone", "shrunk", "replaced", "grown", "newer", "link", "fifo")
    paths = {name: make(data / name, 8) for name in names}
    for path in paths.values():
        touch(path, 0, 7)
    do_dump(disk / "m", data)
    evict(*paths.values())
    paths["gone"].unlink()
    os.truncate(paths["shrunk"], 3 * PAGE_SIZE + 1)
    make(data / "other", 8).rename(paths["replaced"])
    with paths["grown"].open("ab") as file:
        file.write(b"more")
    evict(paths["grown"])
    os.utime(paths["newer"])
    paths["link"].unlink()
    paths["link"].symlink_to(paths["same"])
    paths["fifo"].unlink()
    os.mkfifo(paths["fifo"])
    report = do_load(disk / "m")
    assert report.files == {
        FileState.SAME: 1,
        FileState.CHANGED: 2,
        FileState.SHRUNK: 1,
        FileState.REPLACED: 3,
        FileState.GONE: 1,
        FileState.UNREADABLE: 0,
    }
    assert (report.asked_pages, report.resident_pages, report.gone_pages) == (16, 7, 9)
    assert report.failed_pages == 0
    assert not report.ready
    assert runs_of(paths["grown"])[0] == (0, 1)


def test_another_device_number_and_another_root(disk: Path) -> None:
    path = make(disk / "data" / "f", 4)
    touch(path, 2)
    do_dump(disk / "m", disk / "data")
    evict(path)
    (disk / "data").rename(disk / "moved")
    moves = ((str(disk / "data"), str(disk / "moved")),)
    assert do_load(disk / "m", roots=moves).loaded_pages == 1
    assert not do_load(disk / "m").ready


def test_walk(disk: Path) -> None:
    """Links are not followed, a hard link counts once, neither map lists itself."""
    data = disk / "data"
    touch(make(data / "a" / "one", 2), 0)
    os.link(data / "a" / "one", data / "a" / "two")
    (data / "b").symlink_to(data / "a")
    (data / "c").symlink_to(data / "a" / "one")
    os.mkfifo(data / "pipe")
    for _ in range(2):
        report = do_dump(data / "m", data, data / "a", one_file_system=True)
        assert set(listed(data / "m")) == {b"a/one"}
    assert report.scanned == 4
    assert sorted(at.name for at in data.iterdir()) == ["a", "b", "c", "m", "pipe"]
    assert (data / "m").stat().st_mode & 0o777 == 0o600


def test_pseudo_filesystems_are_not_entered() -> None:
    assert Path("/proc").stat().st_dev in system.pseudo_devices()


def test_a_little_memory_stops_the_load(disk: Path) -> None:
    path = make(disk / "data" / "f", 64)
    touch(path, *range(0, 64, 2))
    do_dump(disk / "m", disk / "data")
    evict(path)
    guard = MemoryGuard(lambda: (1 << 30, system.MIB * 64 + 4 * PAGE_SIZE))
    report = load.load(str(disk / "m"), load.LoadOptions(jobs=1), warn=silent, guard=guard)
    assert (report.stopped, report.loaded_pages, report.failed_pages) == ("memory", 4, 28)


def test_the_deadline_stops_the_load(disk: Path) -> None:
    path = make(disk / "data" / "f", 8)
    touch(path, 1, 3)
    do_dump(disk / "m", disk / "data")
    evict(path)
    report = do_load(disk / "m", deadline_seconds=1e-9)
    assert (report.stopped, report.loaded_pages, report.failed_pages) == ("deadline", 0, 2)


def test_advice_that_is_dropped_is_made_good(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(disk / "data" / "f", 300)
    touch(path, *range(200))
    do_dump(disk / "m", disk / "data")
    evict(path)
    monkeypatch.setattr(kernel, "will_need", lambda fd, *, offset, length: None)
    assert do_load(disk / "m").loaded_pages == 200


def test_a_read_error_is_told(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(disk / "data" / "f", 8)
    touch(path, 1)
    do_dump(disk / "m", disk / "data")
    evict(path)

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(kernel, "will_need", lambda fd, *, offset, length: None)
    monkeypatch.setattr(os, "preadv", broken)
    heard: list[str] = []
    report = do_load(disk / "m", warn=heard.append)
    assert (report.failed_pages, report.ready) == (1, False)
    assert heard == [f"{path} cannot be read: Input/output error"]


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder on a disk that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="happycache-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.usefixtures("either_kernel")
def test_residency_that_the_kernel_hides(public: Path) -> None:
    """As nobody: mincore says of a stranger's file that all is resident, and that is found out."""
    if public.stat().st_dev in system.pseudo_devices():
        pytest.skip("needs /var/tmp on a disk")
    data = public / "data"
    half, own = make(data / "half", 10), make(data / "own", 10)
    touch(half, 1)
    touch(own, *range(10))
    secret = make(data / "secret", 1)
    secret.chmod(0o600)
    (data / "closed").mkdir(mode=0o700)
    (public / "maps").mkdir()
    for path in (own, public / "maps"):
        os.chown(path, 65534, 65534)
    heard: list[str] = []
    kernel._owns_all.cache_clear()

    def as_nobody() -> object:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        target = str(public / "maps" / "m")
        report = dump.dump(target, [str(data)], warn=heard.append, jobs=1)
        names = sorted(os.path.basename(text.split(" is ")[0]) for text in heard)
        return [report.scanned, report.unreadable, report.head.files, report.head.pages, names]

    answer = in_a_child(as_nobody)
    assert answer == [3, 3, 1, 10, ["closed", "half", "secret"]]


def in_a_child(function: Callable[[], object]) -> object:
    """What `function` returns in a process of its own, through JSON."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = function()
        except BaseException as error:  # noqa: BLE001 - the parent shows it
            answer = repr(error)
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.waitpid(child, 0)
    answer = json.loads(os.read(reader, 1 << 16))
    os.close(reader)
    os.close(writer)
    return answer


def test_hidden_residency_without_another_user(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(disk / "data" / "f", 4)
    touch(path, 0)
    do_dump(disk / "m", disk / "data")
    monkeypatch.setattr(kernel, "cached_pages", lambda fd, *, offset, length: None)
    monkeypatch.setattr(kernel, "_owns_all", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(
        kernel, "resident_flags", lambda fd, *, first, count: bytearray(b"\1" * count)
    )
    with pytest.raises(ResidencyHidden, match="this user"):
        runs_of(path)
    heard: list[str] = []
    report = do_load(disk / "m", warn=heard.append)
    assert (report.failed_pages, report.files[FileState.UNREADABLE]) == (1, 1)
    assert "hidden" in heard[0]


def test_kernel_errors_are_errors(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.resident_flags(-1, first=0, count=1)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(OSError, match="symbolic"):
        kernel.open_quietly(bytes(tmp_path / "link"))


def test_no_cachestat_is_remembered(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        calls = 0

        def syscall(self, *_: object) -> int:
            self.calls += 1
            ctypes.set_errno(errno.ENOSYS)
            return -1

    old = Old()
    monkeypatch.setattr(kernel, "_libc", old)
    monkeypatch.setattr(kernel._Cachestat, "there", True)
    for _ in range(3):
        assert kernel.cached_pages(0, offset=0, length=1) is None
    assert old.calls == 1
