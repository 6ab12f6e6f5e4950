"""The RAM OS that the tests in machines use, looked into."""

import sys

import zstandard

from flashboot import cpio
from tests.rig.cloud import REPOSITORY
from tests.rig.prepare import Parts

sys.path.insert(0, str(REPOSITORY / "live-initramfs"))

import elf


def test_it_lacks_no_library(parts: Parts) -> None:
    stored = (parts.ramos / "initramfs").read_bytes()
    archive = zstandard.ZstdDecompressor().decompressobj().decompress(stored)  # its first frame
    tree = {entry.name: entry for entry in cpio.read(archive)}
    needs = {name for e in tree.values() if elf.is_elf(e.data) for name in elf.needed(e.data)}
    assert {n for n in needs if f"usr/lib/x86_64-linux-gnu/{n}" not in tree} == set()
    assert "libssl.so.3" in needs
    assert tree["usr/lib/modules"].mode == 0o40755
    assert not [name for name in tree if name.endswith((".ko.xz", "/mdadm", "/lvm", "/e2fsck"))]
