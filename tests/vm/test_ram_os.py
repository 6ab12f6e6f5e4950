"""The RAM OS, entered by QEMU's own loader: what no serving node would let happen."""

import hashlib
from pathlib import Path

from flashboot.handoff import Bundle, Handoff, Network, RootDevice, arming, files
from flashboot.machine import heads
from flashboot.machine.qemu import Disk, Qemu, VirtualMachine
from flashboot.node import loading
from flashboot.store import catalog
from flashboot.units import MIB
from tests.rig.cloud import MAC, STORE, Cloud
from tests.rig.images import make_data_disk, make_root_disk
from tests.rig.node import DATA_SERIAL, file_digest
from tests.rig.prepare import Parts
from tests.vm.conftest import IMAGE

RUN = "20260101T000000Z-00000000"
SIZE = 640 * MIB
CONTROLLER = "0000:00:01.0"  # of the first NVMe disk of machine/qemu.py's machine


def enter(
    cloud: Cloud, parts: Parts, home: Path, *, image: str, size: int = SIZE, armed: bool = True
) -> str:
    """Let the flasher have a root disk of `size` bytes; what it says last.

    The disks and the machine's counters must be as they were when it restarts.
    """
    root, data = home / "root.raw", home / "data.raw"
    make_root_disk(parts.images.old, root, size=SIZE)
    make_data_disk(data)
    with root.open("rb") as file:
        identity = heads.disk_identity(file.read(heads.IDENTITY_BYTES), sector_size=512)
    envelope = cloud.object(f"images/{image}")
    statement = catalog.open_statement(envelope, image)
    table = cloud.object(statement.table_key)
    plan = Handoff(
        run=RUN,
        instance=cloud.instance_id,
        image=image,
        store=STORE,
        statement_digest=hashlib.sha256(envelope).digest(),
        table_digest=hashlib.sha256(table).digest(),
        root=RootDevice(
            serial=cloud.volume_id.replace("-", ""),
            model="QEMU NVMe Ctrl",
            size=size,
            sector_size=512,
            controller=CONTROLLER,
            disk_guid=identity,
        ),
        network=Network(MAC),
        staged_at=1_700_000_000,
        cloud=cloud.guest_settings(),
        patience=20,
    )
    stored = (parts.ramos / "initramfs").read_bytes()
    members = files(Bundle(plan, envelope, table)) | (arming(RUN) if armed else {})
    initrd = home / "initrd"
    initrd.write_bytes(stored + bytes(-len(stored) % 4) + loading.archive(members))
    machine = VirtualMachine(
        name="ram-os",
        disks=(Disk(root, plan.root.serial), Disk(data, DATA_SERIAL)),
        memory_mib=768,
        kernel=parts.ramos / "vmlinuz",
        initrd=initrd,
        append=str(parts.ramos_facts["command_line"]),
        mac=MAC,
        metadata_port=cloud.imds.port,
    )
    before = file_digest(root), file_digest(data)
    with Qemu(machine, home / "qemu") as qemu:
        qemu.pause_at_reset()
        event = qemu.wait_reset(timeout_seconds=180)
        assert event.data["reason"] == "guest-reset"
        assert all(disk.writes == disk.discards == 0 for disk in qemu.counters().values())
        assert (file_digest(root), file_digest(data)) == before
        return qemu.wait_for("outcome: ", timeout_seconds=1).text


def test_a_device_too_small_for_the_image(cloud: Cloud, parts: Parts, tmp_path: Path) -> None:
    big = tmp_path / "big.raw"
    make_root_disk(parts.images.new, big, size=SIZE + 64 * MIB)
    cloud.flashboot("image", "publish", big, "--name", "app-big", "--ramos", parts.ramos)
    said = enter(cloud, parts, tmp_path, image="app-big")
    assert "returned to the old system" in said
    assert "the device only" in said
    assert cloud.tags()["flashboot:state"] == "returned"
    assert "the device only" in cloud.tags()["flashboot:record"]


def test_another_disk_than_was_staged(cloud: Cloud, parts: Parts, tmp_path: Path) -> None:
    said = enter(cloud, parts, tmp_path, image=IMAGE, size=SIZE + 64 * MIB)
    assert "returned to the old system" in said
    assert "its size is" in said


def test_a_start_that_flash_has_not_left_for(cloud: Cloud, parts: Parts, tmp_path: Path) -> None:
    said = enter(cloud, parts, tmp_path, image=IMAGE, armed=False)
    assert "nobody said `flashboot flash`" in said
