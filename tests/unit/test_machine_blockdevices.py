"""Disks as sysfs shows them on EC2, in QEMU, and under md and LVM; from fake trees."""

import os
from pathlib import Path

import pytest

from flashboot.errors import CommandFailed, MachineError
from flashboot.machine.blockdevices import (
    EBS_MODEL,
    INSTANCE_STORE_MODEL,
    deactivate_lvm,
    disk_named,
    disk_of,
    disks,
    layers_above,
    root_disk,
    root_stack,
    stack_of,
    stop_md,
    users_of,
)
from flashboot.machine.kernelfs import DeviceNumber, Tree

GIB = 1024**3


class FakeMachine:
    """Builds /sys/block, /sys/dev/block and /proc/self/mountinfo as Linux 6.1 lays them out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = Tree(
            proc=f"{root}/proc", sys=f"{root}/sys", dev=f"{root}/dev", run=f"{root}/run"
        )
        for folder in ("sys/block", "sys/dev/block", "proc/self", "dev"):
            (root / folder).mkdir(parents=True)
        self.mounted("27 1 0:5 / / rw - rootfs rootfs rw")

    def mounted(self, *lines: str) -> None:
        (self.root / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in lines))

    def write(self, path: Path, **values: object) -> None:
        path.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            file = path / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")

    def disk(self, parent: str, name: str, number: str, size: int, **values: object) -> Path:
        home = self.root / "sys/devices" / parent / name
        (home / "holders").mkdir(parents=True)
        (home / "slaves").mkdir()
        self.write(
            home,
            dev=number,
            size=size // 512,
            ro=0,
            removable=0,
            queue__logical_block_size=512,
            **values,
        )
        (self.root / "sys/block" / name).symlink_to(home)
        (self.root / "sys/dev/block" / number).symlink_to(home)
        return home

    def partition(self, disk: Path, name: str, number: str, *, start: int, size: int) -> Path:
        home = disk / name
        (home / "holders").mkdir(parents=True)
        index = int(name.rsplit("p", 1)[-1][-2:].lstrip("xvda"))
        self.write(home, dev=number, size=size // 512, start=start // 512, ro=0, partition=index)
        (self.root / "sys/dev/block" / number).symlink_to(home)
        return home

    def nvme(self, index: int, model: str, serial: str, *, size: int) -> Path:
        controller = f"pci0000:00/0000:00:{4 + index:02x}.0/nvme/nvme{index}"
        home = self.disk(controller, f"nvme{index}n1", f"259:{index * 16}", size)
        self.write(
            home.parent,
            model=model.ljust(40),
            serial=serial.ljust(20),
            transport="pcie",
            address=f"0000:00:{4 + index:02x}.0",
        )
        (home / "device").symlink_to("..")
        return home

    def layer(self, name: str, number: str, *below: Path, **values: object) -> Path:
        home = self.disk("virtual/block", name, number, 2 * GIB, **values)
        for slave in below:
            (home / "slaves" / slave.name).symlink_to(slave)
            (slave / "holders" / name).symlink_to(home)
        return home


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


@pytest.fixture
def nitro(machine: FakeMachine) -> FakeMachine:
    """An instance with an EBS root (names out of order) and two instance-store disks."""
    machine.nvme(0, INSTANCE_STORE_MODEL, "AWS10C5E2B5A2E8F5B60", size=900 * GIB)
    root = machine.nvme(1, EBS_MODEL, "vol0123456789abcdef0", size=8 * GIB)
    machine.partition(root, "nvme1n1p1", "259:17", start=1048576, size=7 * GIB)
    machine.partition(root, "nvme1n1p15", "259:18", start=524288, size=524288)
    machine.nvme(2, INSTANCE_STORE_MODEL, "AWS20C5E2B5A2E8F5B60", size=900 * GIB)
    machine.mounted("27 1 259:17 / / rw,relatime - ext4 /dev/root rw")
    return machine


def test_an_instance_on_nitro(nitro: FakeMachine) -> None:
    found = disks(tree=nitro.tree)
    assert [disk.name for disk in found] == ["nvme0n1", "nvme1n1", "nvme2n1"]
    assert [disk.is_instance_store for disk in found] == [True, False, True]
    assert [disk.volume_id for disk in found] == [None, "vol-0123456789abcdef0", None]
    root = root_disk(tree=nitro.tree)
    assert root == found[1]
    assert root.path == f"{nitro.tree.dev}/nvme1n1"
    assert (root.transport, root.pci_address) == ("nvme", "0000:00:05.0")
    assert (root.size, root.sector_size, root.model) == (8 * GIB, 512, EBS_MODEL)
    # In the order in which they lie on the disk.
    assert [partition.index for partition in root.partitions] == [15, 1]
    assert (root.partitions[0].start, root.partitions[0].size) == (524288, 524288)
    stack = root_stack(tree=nitro.tree)
    assert stack.partition == root.partitions[1]
    assert stack.layers == ()
    assert disk_of(DeviceNumber(259, 18), tree=nitro.tree) == root


def test_qemu_and_its_multipath_names(machine: FakeMachine) -> None:
    # With nvme_core.multipath the namespace hangs below virtual, its controllers are links.
    controller = machine.root / "sys/devices/pci0000:00/0000:00:06.0/nvme/nvme3"
    machine.write(controller, address="0000:00:06.0")
    home = machine.disk("virtual/nvme-subsystem/nvme-subsys3", "nvme3n1", "259:3", GIB)
    machine.write(home.parent, model="QEMU NVMe Ctrl", serial="vol0aaaaaaaaaaaaaaa1")
    (home.parent / "nvme3").symlink_to(controller)
    (home / "device").symlink_to("..")
    disk = disk_named("nvme3n1", tree=machine.tree)
    assert disk.model == "QEMU NVMe Ctrl"
    assert disk.volume_id == "vol-0aaaaaaaaaaaaaaa1"
    assert disk.pci_address == "0000:00:06.0"
    assert not disk.is_instance_store


def test_xen_and_virtio(machine: FakeMachine) -> None:
    xvda = machine.disk("vbd-768", "xvda", "202:0", 8 * GIB)
    (machine.root / "sys/bus/xen").mkdir(parents=True)
    (xvda.parent / "subsystem").symlink_to(machine.root / "sys/bus/xen")
    (xvda / "device").symlink_to("..")
    machine.partition(xvda, "xvda1", "202:1", start=1048576, size=GIB)
    vda = machine.disk("pci0000:00/0000:00:02.0/virtio1/block", "vda", "254:0", GIB, serial="s1")
    (machine.root / "sys/bus/virtio").mkdir()
    (vda.parent.parent / "subsystem").symlink_to(machine.root / "sys/bus/virtio")
    (vda / "device").symlink_to("../..")
    virtio, xen = disks(tree=machine.tree)
    assert (xen.transport, xen.serial, xen.model, xen.pci_address) == ("xen", None, None, None)
    assert (virtio.transport, virtio.serial) == ("virtio", "s1")
    assert virtio.pci_address == "0000:00:02.0"
    machine.mounted("27 1 202:1 / / rw - ext4 /dev/root rw")
    assert root_disk(tree=machine.tree).name == "xvda"


def test_root_on_md_over_two_disks_is_refused_with_the_stack(machine: FakeMachine) -> None:
    members = [machine.nvme(index, EBS_MODEL, f"vol0000000{index}", size=GIB) for index in (0, 1)]
    part = machine.partition(members[1], "nvme1n1p1", "259:17", start=1048576, size=GIB // 2)
    machine.layer("md0", "9:0", members[0], part, md__level="raid0", md__array_state="clean")
    machine.mounted("27 1 9:0 / / rw - xfs /dev/md0 rw")
    stack = root_stack(tree=machine.tree)
    assert [disk.name for disk in stack.disks] == ["nvme0n1", "nvme1n1"]
    assert [layer.kind for layer in stack.layers] == ["md"]
    with pytest.raises(MachineError, match=r"md0 \(md raid0\) on .*nvme0n1, .*nvme1n1"):
        root_disk(tree=machine.tree)
    assert [layer.name for layer in layers_above(stack.disks[1], tree=machine.tree)] == ["md0"]


def test_lvm_over_crypt_over_a_partition(machine: FakeMachine) -> None:
    disk = machine.nvme(0, EBS_MODEL, "vol01234567", size=4 * GIB)
    part = machine.partition(disk, "nvme0n1p2", "259:2", start=1048576, size=GIB)
    crypt = machine.layer("dm-0", "253:0", part, dm__name="secret", dm__uuid="CRYPT-LUKS2-1")
    machine.layer("dm-1", "253:1", crypt, dm__name="my--vg-data--lv", dm__uuid="LVM-abc")
    stack = stack_of(DeviceNumber(253, 1), tree=machine.tree)
    assert [(layer.name, layer.kind) for layer in stack.layers] == [
        ("dm-1", "lvm"),
        ("dm-0", "crypt"),
    ]
    assert stack.layers[0].group == "my-vg"
    assert [disk.name for disk in stack.disks] == ["nvme0n1"]
    with pytest.raises(MachineError, match="no plain disk"):
        _ = stack.disk
    above = layers_above(stack.disks[0], tree=machine.tree)
    assert [layer.name for layer in above] == ["dm-1", "dm-0"]
    assert disk_named("dm-1", tree=machine.tree).transport == "dm"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("27 1 0:30 /@ / rw - btrfs /dev/nvme1n1p1 rw", "btrfs from /dev/nvme1n1p1, which may"),
        ("27 1 0:31 / / rw - overlay overlay rw", "overlay from overlay, not a disk"),
        ("27 1 7:99 / / rw - ext4 /dev/loop99 rw", "7:99: is not known"),
        ("27 1 259:17 / /boot rw - ext4 /dev/x rw", "not in mountinfo"),
    ],
)
def test_says_why_root_is_on_no_disk(nitro: FakeMachine, line: str, words: str) -> None:
    nitro.mounted(line)
    with pytest.raises(MachineError, match=words):
        root_disk(tree=nitro.tree)


def test_says_who_uses_a_disk(nitro: FakeMachine) -> None:
    data = nitro.root / "sys/block/nvme2n1"
    nitro.layer("md127", "9:127", data.resolve(), md__level="raid0")
    nitro.mounted(
        "27 1 259:17 / / rw - ext4 /dev/root rw",
        "30 27 9:127 / /var/lib/cassandra rw - xfs /dev/md127 rw",
    )
    (nitro.root / "dev/nvme1n1p15").touch()
    (nitro.root / "proc/swaps").write_text(
        f"Filename Type Size Used Priority\n{nitro.tree.dev}/nvme1n1p15 partition 1 0 -2\n"
    )
    assert users_of(os.makedev(259, 17), tree=nitro.tree) == (
        f"{nitro.tree.dev}/nvme1n1p1 is mounted at /",
        f"{nitro.tree.dev}/nvme1n1p15 is swapped on",
    )
    assert users_of(os.makedev(259, 32), tree=nitro.tree) == (
        "md127 (md raid0) is built on it",
        "/dev/md127 is mounted at /var/lib/cassandra",
    )
    assert users_of(os.makedev(259, 0), tree=nitro.tree) == ()


def test_disks_without_bytes_and_unknown_ones(nitro: FakeMachine) -> None:
    nitro.disk("virtual/block", "loop0", "7:0", 0)
    assert "loop0" not in [disk.name for disk in disks(tree=nitro.tree)]
    with pytest.raises(MachineError, match="no such disk"):
        disk_named("sdx", tree=nitro.tree)
    with pytest.raises(MachineError, match="not known"):
        disk_of(DeviceNumber(1, 2), tree=nitro.tree)
    with pytest.raises(MachineError, match="no md array"):
        stop_md("nvme0n1", tree=nitro.tree)


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("with_mdadm", [True, False])
def test_stops_an_array(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, with_mdadm: bool
) -> None:
    home = machine.layer("md0", "9:0", md__level="raid0", md__array_state="clean")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    if with_mdadm:
        tool(
            tmp_path / "bin",
            "mdadm",
            f'echo "$@" > {tmp_path}/call; echo clear > {home}/md/array_state',
        )
    stop_md("md0", tree=machine.tree)
    assert (home / "md/array_state").read_text() == "clear\n"
    if with_mdadm:
        assert (tmp_path / "call").read_text() == "--stop /dev/md0\n"


def test_an_array_in_use_does_not_stop(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.layer("md0", "9:0", md__level="raid0", md__array_state="clean")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    tool(tmp_path / "bin", "mdadm", "echo 'mdadm: Cannot get exclusive access' >&2; exit 1")
    with pytest.raises(CommandFailed, match="Cannot get exclusive access"):
        stop_md("md0", tree=machine.tree)
    tool(tmp_path / "bin", "mdadm", "exit 0")
    with pytest.raises(MachineError, match="still clean"):
        stop_md("md0", tree=machine.tree)


def test_deactivates_a_volume_group_and_looks_again(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.layer("dm-1", "253:1", dm__name="data-lv", dm__uuid="LVM-abc")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    tool(tmp_path / "bin", "vgchange", f'echo "$@" > {tmp_path}/call')
    deactivate_lvm("other", tree=machine.tree)
    assert (tmp_path / "call").read_text() == "--activate n -- other\n"
    with pytest.raises(MachineError, match=r"\(data-lv\) is still active"):
        deactivate_lvm("data", tree=machine.tree)
