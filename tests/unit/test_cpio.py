"""The newc archive: what is written can be read, by us and by cpio(1), and is always the same."""

import contextlib
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot import cpio

_PART = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20
).filter(lambda part: part not in {".", ".."} and part != "TRAILER!!!")
_NAME = st.lists(_PART, min_size=1, max_size=4).map("/".join)
_MODE = st.integers(0, 0o7777)
_NUMBER = st.integers(0, 2**32 - 1)
_ENTRY = st.one_of(
    st.builds(cpio.file, _NAME, st.binary(max_size=70), _MODE),
    st.builds(cpio.directory, _NAME, _MODE),
    st.builds(
        cpio.symlink,
        _NAME,
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    ),
    st.builds(cpio.character_device, _NAME, _NUMBER, _NUMBER, _MODE),
)

_TREE = [
    cpio.directory("flashboot", 0o700),
    cpio.file("flashboot/handoff.json", b"{}\n", 0o600),
    cpio.symlink("bin", "usr/bin"),
    cpio.character_device("console", 5, 1),
]


@given(st.lists(_ENTRY, max_size=8))
def test_what_is_written_is_read_back(entries: list[cpio.Entry]) -> None:
    archive = cpio.pack(entries)
    assert list(cpio.read(archive)) == entries
    assert len(archive) % 4 == 0
    assert cpio.pack(iter(entries)) == archive


@given(st.lists(_ENTRY, max_size=4), st.data())
def test_a_cut_archive_is_refused(entries: list[cpio.Entry], data: st.DataObject) -> None:
    archive = cpio.pack(entries)
    # The last bytes are the trailer's padding, which nobody would miss.
    end = data.draw(st.integers(0, len(archive) - 4))
    with pytest.raises(ValueError, match="cpio"):
        list(cpio.read(archive[:end]))


@given(st.binary(max_size=300))
def test_noise_is_refused_with_a_sentence(noise: bytes) -> None:
    with pytest.raises(ValueError, match="cpio"):
        list(cpio.read(noise))


@given(st.binary(min_size=1, max_size=8), st.integers(0, 400))
def test_a_damaged_archive_never_ends_in_another_error(patch: bytes, at: int) -> None:
    archive = bytearray(cpio.pack(_TREE))
    archive[at : at + len(patch)] = patch
    with contextlib.suppress(ValueError):
        list(cpio.read(bytes(archive)))


def test_the_first_header_is_byte_for_byte_as_documented() -> None:
    archive = cpio.pack([cpio.file("a", b"xyz")])
    assert archive[:110] == (
        b"070701"
        b"00000001"
        b"000081A4"
        b"00000000"
        b"00000000"
        b"00000001"
        b"00000000"
        b"00000003"
        b"00000000"
        b"00000000"
        b"00000000"
        b"00000000"
        b"00000002"
        b"00000000"
    )
    assert archive[110:116] == b"a\0xyz\0"


@pytest.mark.parametrize("name", ["", "/etc", "a//b", "a/", ".", "a/../b", "a\0b", "TRAILER!!!"])
def test_names_that_climb_or_confuse_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="path"):
        cpio.file(name, b"")


@pytest.mark.parametrize(
    ("name", "mode", "data", "device"),
    [
        ("a", 0o40755, b"content of a directory", (0, 0)),
        ("a", 0o100644, b"", (1, 3)),
        ("a", 0o644, b"", (0, 0)),
        ("a" * 4096, 0o100644, b"", (0, 0)),
        ("a", 0o20600, b"", (-1, 0)),
    ],
)
def test_entries_that_mean_nothing_are_refused(
    name: str, mode: int, data: bytes, device: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="a"):
        cpio.Entry(name, mode, data, device)


def test_hard_links_and_what_follows_the_end_are_refused() -> None:
    archive = cpio.pack([cpio.file("a", b"")])
    linked = archive[:38] + b"00000002" + archive[46:]
    with pytest.raises(ValueError, match="hard link"):
        list(cpio.read(linked))
    with pytest.raises(ValueError, match="follows"):
        list(cpio.read(archive + archive))
    assert list(cpio.read(archive + bytes(512))) == [cpio.file("a", b"")]


def test_missing_parents_are_added_before_what_lies_in_them() -> None:
    entries = [cpio.file("a/b/c", b""), cpio.file("a-b", b""), cpio.directory("a", 0o700)]
    assert cpio.with_parents(entries) == [
        cpio.directory("a", 0o700),
        cpio.directory("a/b"),
        cpio.file("a/b/c", b""),
        cpio.file("a-b", b""),
    ]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio(1) here")
def test_cpio_reads_it_too() -> None:
    listing = subprocess.run(
        ["cpio", "-t", "--quiet"], input=cpio.pack(_TREE), capture_output=True, check=True
    )
    assert listing.stdout.decode().split() == [entry.name for entry in _TREE]
    assert listing.stderr == b""
