"""Whole flashes of a real instance."""

from pathlib import Path

from flashboot.image.protocol import SIGNATURE_SPAN
from flashboot.units import MIB
from tests.rig.cloud import Cloud
from tests.rig.demo import demo
from tests.rig.node import Node, file_digest
from tests.rig.prepare import Parts
from tests.rig.story import Story
from tests.vm.conftest import IMAGE


def test_the_main_job_as_make_demo_plays_it() -> None:
    """Every promise in the summary is checked by the demo itself, which fails otherwise."""
    story = Story()
    demo(story)
    print(story.summary())
    print(story.picture())
    assert story.facts["root device"] == "equals the published image, byte for byte"
    assert story.facts["data disk"].startswith("0 writes, 0 trims")
    assert story.facts["data disk"].endswith("no byte changed")
    assert story.facts["now running"] == "NAME=NEW"
    assert "flashboot:state=ready" in story.facts["instance tags"]


MAKE_ARRAYS = """
set -e
a=/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_AWS00000000000000E
mdadm --quiet --create /dev/md0 --metadata=1.2 --level=0 --raid-devices=2 ${a}0 ${a}1 </dev/null
mke2fs -q -t ext4 -L array /dev/md0
{ vgcreate store ${a}2 && lvcreate -y -n volume -l 100%FREE store; } >/dev/null
mke2fs -q -t ext4 -L volume /dev/store/volume
mkdir /array /volume && mount /dev/md0 /array && mount /dev/store/volume /volume
for place in /array /volume; do
  cp -r /usr/lib/flashboot/flashboot $place/
  (cd $place && find flashboot -type f -exec sha256sum {} +) > $place/SUMS
done
sync
"""

CHECK_ARRAYS = """
set -e
mkdir /array /volume
udevadm settle
mount LABEL=array /array && mount LABEL=volume /volume
for place in /array /volume; do (cd $place && sha256sum --check --quiet SUMS); done
"""


def test_a_flash_beside_arrays_on_a_larger_disk_with_uefi(
    cloud: Cloud, parts: Parts, tmp_path: Path
) -> None:
    size = 640 * MIB
    with Node(
        cloud,
        parts.images.old,
        parts.images.key,
        tmp_path,
        firmware="uefi",
        root_size=size + 96 * MIB,
        extra_disks=3,
    ) as node:
        node.boot()
        node.configure()
        node.run(MAKE_ARRAYS)
        checked = node.run(f"flashboot check --image {IMAGE}").stdout
        assert "/array (ext4)" in checked
        assert "/volume (ext4)" in checked
        node.run(f"flashboot stage --image {IMAGE}")
        mark = node.qemu.mark()
        node.flash()
        quiet = node.wait_quiet(after=mark)
        before = {serial: file_digest(path) for serial, path in node.extras.items()}
        reason, end = node.wait_restart()
        assert reason == "guest-reset"
        for serial, path in node.extras.items():
            assert end.counters[serial].writes == quiet.counters[serial].writes
            assert end.counters[serial].discards == quiet.counters[serial].discards
            assert file_digest(path) == before[serial]
        assert quiet.data_digest == end.data_digest
        disk, image = node.root.read_bytes(), parts.images.new.read_bytes()
        assert disk[:size] == image
        assert disk[size : size + SIGNATURE_SPAN] == bytes(SIGNATURE_SPAN)
        assert disk[-SIGNATURE_SPAN:] == bytes(SIGNATURE_SPAN)
        assert "NEW serves" in node.boot().text
        assert node.wait_arrived() == "active"
        node.run(CHECK_ARRAYS)
        assert cloud.tags()["flashboot:state"] == "ready"
