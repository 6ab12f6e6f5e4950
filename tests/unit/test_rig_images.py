"""The rig images' arithmetic: nothing overlaps, GRUB's sectors point where they should."""

import itertools
import struct

import pytest

from tests.rig.layout import (
    MIB,
    SECTOR,
    boot_sector,
    core_config,
    core_image,
    fstab,
    grub_config,
    layout,
    sgdisk_arguments,
)


@pytest.mark.parametrize("size_mib", [64, 640, 1024])
def test_partitions_tile_the_disk_and_leave_room_for_both_tables(size_mib: int) -> None:
    plan = layout("OLD", size=size_mib * MIB)
    parts = (plan.bios, plan.esp, plan.root)
    assert plan.bios.start >= 34
    for one, next_one in itertools.pairwise(parts):
        assert one.start + one.sectors == next_one.start
    assert (plan.root.start + plan.root.sectors) * SECTOR <= plan.size - 33 * SECTOR
    assert all(part.offset % MIB == 0 and part.size % MIB == 0 for part in parts)


@pytest.mark.parametrize("size", [63 * MIB, 640 * MIB + 1])
def test_odd_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="whole MiB"):
        layout("OLD", size=size)


def test_identities_are_fixed_and_differ_between_images() -> None:
    def of(name: str) -> list[object]:
        plan = layout(name, size=640 * MIB)
        guids = [part.guid for part in (plan.bios, plan.esp, plan.root)]
        return [plan.disk_guid, plan.filesystem, *guids]

    assert of("OLD") == of("OLD")
    assert len({*of("OLD"), *of("NEW")}) == 10


def test_sgdisk_is_told_everything() -> None:
    plan = layout("OLD", size=640 * MIB)
    argv = sgdisk_arguments(plan)
    assert "--new=1:36864:1308671" in argv
    assert f"--partition-guid=1:{plan.root.guid}" in argv
    assert "--typecode=14:ef02" in argv


def test_boot_sector_keeps_the_table_and_points_at_the_core() -> None:
    table = bytes(range(72))
    made = boot_sector(bytes(440) + table, b"\xeb" * 512, core_start=2048)
    assert len(made) == SECTOR
    assert made[440:] == table
    assert struct.unpack_from("<Q", made, 0x5C) == (2048,)
    assert made[0x64] == 0xFF
    assert made[0x66:0x68] == b"\x90\x90"
    assert made[:0x5C] == b"\xeb" * 0x5C


def test_boot_sector_wants_whole_sectors() -> None:
    with pytest.raises(ValueError, match="512"):
        boot_sector(bytes(511), bytes(512), core_start=2048)


def test_core_image_loads_its_rest_from_where_it_lies() -> None:
    core = core_image(b"\x01" * 1300, core_start=2048)
    assert len(core) == 3 * SECTOR
    assert struct.unpack_from("<QHH", core, 0x1F4) == (2049, 2, 0x0820)
    assert core[512:1300] == b"\x01" * 788


def test_configurations_name_this_image_only() -> None:
    old, new = (layout(name, size=640 * MIB) for name in ("OLD", "NEW"))
    for text in (core_config(old), fstab(old)):
        assert str(old.filesystem) in text
        assert str(new.filesystem) not in text
    config = grub_config(old, kernel="/boot/vmlinuz")
    assert f"linux /boot/vmlinuz root=PARTUUID={old.root.guid} rw" in config
    assert config.index("console=tty0") < config.index("console=ttyS0,115200")
