"""What only a directory can do wrong."""

import errno
import os
from pathlib import Path

import pytest

from flashboot.errors import AccessDenied, ObjectMissing, StoreError, StoreUnavailable, explain
from flashboot.store.directory import DirectoryStore


def _files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_leaves_no_temporary_files(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("images/i", b"1")
    store.put("images/i", b"2")
    store.put("images/i", b"3", replace=True)
    assert _files(tmp_path) == ["images/i"]


def test_leaves_nothing_of_a_put_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        store.put("i", b"1")
    assert caught.type is StoreError
    assert _files(tmp_path) == []


def test_another_writer_between_look_and_link_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)
    link = os.link

    def late(source: str, target: str) -> None:
        Path(target).write_bytes(b"theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert not store.put("i", b"ours")
    assert store.get("i", limit=10) == b"theirs"
    assert _files(tmp_path) == ["i"]


def test_says_that_the_directory_is_missing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "none")
    for call in (
        lambda: store.get("i", limit=1),
        lambda: store.size("i"),
        lambda: list(store.keys("")),
    ):
        with pytest.raises(StoreError, match="its directory does not exist") as caught:
            call()
        assert caught.type is StoreError
        assert "Errno" not in explain(caught.value)


def test_what_is_missing_is_said_without_the_systems_words(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing) as caught:
        DirectoryStore(tmp_path).get("images/app", limit=1)
    sentence = f"The store at file://{tmp_path} has no object images/app."
    assert explain(caught.value) == f"{sentence} [{ObjectMissing.hint}]"


def test_makes_the_directory_but_not_what_is_above_it(tmp_path: Path) -> None:
    assert DirectoryStore(tmp_path / "new").put("images/i", b"1")
    with pytest.raises(StoreError, match="its directory does not exist"):
        DirectoryStore(tmp_path / "not-mounted" / "store").put("images/i", b"1")
    assert not (tmp_path / "not-mounted").exists()


def test_hides_what_is_not_an_object(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("images/i", b"1")
    (tmp_path / "images" / ".left.tmp").write_bytes(b"half")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "with space").write_bytes(b"foreign")
    assert list(store.keys("")) == ["images/i"]
    assert store.size("images") is None


def test_a_folder_where_a_file_must_be_is_said_to_be_so(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a", b"1")
    with pytest.raises(StoreError, match="a/b") as caught:
        store.put("a/b", b"1")
    assert caught.type is StoreError


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EACCES, AccessDenied),
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
        (errno.ELOOP, StoreError),
    ],
)
def test_errors_of_the_system_become_ours(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    expected: type[StoreError],
) -> None:
    store = DirectoryStore(tmp_path)
    store.put("i", b"1")

    def fail(*args: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(expected) as caught:
        store.get("i", limit=1)
    assert caught.type is expected


def test_a_file_cut_short_while_it_is_read_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)
    store.put("i", b"0123456789")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 3), at) if at < 6 else b"")
    with pytest.raises(StoreUnavailable, match="6 of 10 bytes"):
        store.get("i", limit=10)


def test_joins_what_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    store.put("i", b"0123456789")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 3), at))
    assert store.get("i", offset=1, length=8, limit=10) == b"12345678"
