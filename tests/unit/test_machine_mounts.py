"""mountinfo and swaps: every name the kernel may write comes back as it was."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import MachineError, MalformedDocument
from flashboot.machine.kernelfs import DeviceNumber, Tree
from flashboot.machine.mounts import (
    Mount,
    mount_at,
    mounts_of,
    parse_mountinfo,
    parse_swaps,
    root_mount,
    swaps,
    swaps_of,
)

MOUNTINFO = b"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw,discard
40 27 9:0 / /var/lib/my\\040data rw,noatime shared:7 master:1 - xfs /dev/md0 rw
41 40 9:0 /inner /var/lib/my\\040data/inner ro - xfs /dev/md0 rw
42 27 0:40 / /tmp rw - tmpfs  rw
43 27 0:41 / /tmp rw - tmpfs tmp#fs\\134 rw
"""


def escape(path: bytes, extra: bytes = b"") -> bytes:
    """As seq_escape of fs/seq_file.c does."""
    return b"".join(
        b"\\%03o" % byte if bytes([byte]) in b" \t\n\\" + extra else bytes([byte]) for byte in path
    )


@given(
    target=st.binary(min_size=1).filter(lambda path: b"\0" not in path),
    optional=st.lists(st.sampled_from([b"shared:1", b"master:22", b"unbindable", b"new:3"])),
    source=st.binary().filter(lambda path: b"\0" not in path),
)
def test_every_mount_point_comes_back(target: bytes, optional: list[bytes], source: bytes) -> None:
    fields = [b"36", b"35", b"98:0", b"/", escape(target), b"rw,nodev", *optional, b"-", b"ext4"]
    line = b" ".join([*fields, escape(source, b"#"), b"rw"]) + b"\n"
    (mount,) = parse_mountinfo(line)
    assert os.fsencode(mount.target) == target
    assert os.fsencode(mount.source) == source
    assert [os.fsencode(field) for field in mount.propagation] == optional
    assert mount.device == DeviceNumber(98, 0)


@given(st.binary())
def test_any_bytes_are_mounts_or_malformed(text: bytes) -> None:
    for parse in (parse_mountinfo, parse_swaps):
        try:
            parse(text)
        except MalformedDocument:
            continue


@given(st.lists(st.sampled_from([b"1", b"-", b"8:1", b"8", b"/", b"a,b", b" ", b"\n", b"x"])))
def test_nearly_right_lines_are_mounts_or_malformed(fields: list[bytes]) -> None:
    try:
        parse_mountinfo(b" ".join(fields))
    except MalformedDocument:
        return


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_bytes(MOUNTINFO)
    return Tree(proc=str(tmp_path))


def test_finds_root_and_what_lies_on_a_device(tree: Tree) -> None:
    root = root_mount(tree=tree)
    assert (root.device, root.source, root.read_only) == (DeviceNumber(259, 1), "/dev/root", False)
    found = mounts_of([DeviceNumber(9, 0)], tree=tree)
    assert [mount.target for mount in found] == ["/var/lib/my data", "/var/lib/my data/inner"]
    assert [mount.read_only for mount in found] == [False, True]


def test_the_last_of_stacked_mounts_is_seen(tree: Tree) -> None:
    found = mount_at("/tmp", tree=tree)
    assert isinstance(found, Mount)
    assert found.source == "tmp#fs\\"
    assert mount_at("/nowhere", tree=tree) is None


def test_a_missing_mountinfo_is_said(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="mountinfo"):
        root_mount(tree=Tree(proc=str(tmp_path)))


def test_reads_swaps(tree: Tree, tmp_path: Path) -> None:
    assert swaps(tree=tree) == ()
    device = tmp_path / "nvme1n1p2"
    device.touch()
    (tmp_path / "alias").symlink_to(device)
    (tmp_path / "swaps").write_text(
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        f"{tmp_path}/alias                 partition\t1048572\t\t0\t\t-2\n"
        "/swap\\040file                          file\t\t524284\t\t0\t\t-3\n"
    )
    assert [swap.path for swap in swaps(tree=tree)] == [f"{tmp_path}/alias", "/swap file"]
    assert [swap.kind for swap in swaps_of([str(device)], tree=tree)] == ["partition"]
