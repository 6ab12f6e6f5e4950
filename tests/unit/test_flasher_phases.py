"""The phases: before the first write every failure ends in OLD, after it in NEW or another try."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from flashboot import record
from flashboot.errors import AccessDenied, CloudError, StoreUnavailable
from flashboot.flasher import phases
from flashboot.flasher.identity import find_root
from flashboot.flasher.phases import PHASES, Flash
from flashboot.flasher.report import Report
from flashboot.handoff import Bundle, Handoff, Network, RootDevice
from flashboot.image.table import CHUNK_SIZE
from flashboot.machine import heads
from flashboot.machine.blockdevices import Disk
from flashboot.machine.kernelfs import DeviceNumber
from flashboot.record import Kind, Record
from flashboot.store.base import Store
from flashboot.store.catalog import Published
from tests.fakes.images import random_image, store_image
from tests.fakes.memory_device import Fault, MemoryDevice
from tests.fakes.memory_store import MemoryStore

RUN, INSTANCE = "20261122-abc", "i-0123456789abcdef0"
DATA = random_image(20, seed=21, zero_share=0.3)
OLD_DISK = random_image(20, seed=22, zero_share=0.3)


@dataclass(slots=True)
class FakeMachine:
    device: MemoryDevice
    architecture: str = "x86_64"
    boot_mode: str = "bios"
    memory: int = 1 << 30
    marked: bool = False
    restarts: int = 0
    opened: int = 0

    def open_root(self, wanted: RootDevice) -> MemoryDevice:
        self.opened += 1
        return self.device

    def available_memory(self) -> int:
        return self.memory

    def pass_no_return(self) -> None:
        self.marked = True

    def past_no_return(self) -> bool:
        return self.marked

    def at_least(self, seconds: int) -> None:
        assert seconds == 1_700_000_000

    def restart(self) -> None:
        self.restarts += 1


@dataclass(slots=True)
class FakeCloud:
    store: MemoryStore
    tags: dict[str, str] = field(default_factory=dict)
    patience: list[float | None] = field(default_factory=list)
    deaf: bool = False

    def open_store(self, *, patience: float | None) -> Store:
        self.patience.append(patience)
        return self.store

    def tag(self, tags: dict[str, str]) -> None:
        if self.deaf:
            raise CloudError("CreateTags", "no route")
        self.tags.update(tags)


class Scene:
    """One flash with fakes for doors; `run` plays it."""

    def __init__(self, *, faults: tuple[Fault, ...] = ()) -> None:
        self.store = MemoryStore()
        self.faults = faults
        self.lines: list[str] = []
        self.waits: list[float] = []
        self.on_wait: Callable[[], None] = lambda: None
        self.published: Published = store_image(self.store, DATA, "app-42")
        self.machine = FakeMachine(MemoryDevice(len(DATA), content=OLD_DISK, faults=self.faults))
        self.cloud = FakeCloud(self.store)
        self.bundle = Bundle(
            _handoff(self.published),
            self.published.envelope,
            self.published.stored_table,
            armed=RUN,
        )

    def job(self) -> Flash:
        report = Report(RUN, INSTANCE, PHASES, self.lines.append)
        return Flash(self.bundle, self.machine, self.cloud, report, self._wait)

    def run(self) -> None:
        phases.run(self.job())

    def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.on_wait()

    @property
    def record(self) -> Record:
        return record.load(self.store.objects[f"records/{INSTANCE}/{RUN}.flasher"])

    @property
    def untouched(self) -> bool:
        return self.machine.device.writes == [] and bytes(self.machine.device.content) == OLD_DISK


def _handoff(published: Published) -> Handoff:
    return Handoff(
        run=RUN,
        instance=INSTANCE,
        image="app-42",
        store="s3://memory/store",
        statement_digest=hashlib.sha256(published.envelope).digest(),
        table_digest=hashlib.sha256(published.stored_table).digest(),
        root=RootDevice(
            serial="vol0123456789abcdef0",
            model="Amazon Elastic Block Store",
            size=len(DATA),
            sector_size=512,
            controller="0000:00:04.0",
            disk_guid=heads.disk_identity(OLD_DISK, sector_size=512),
        ),
        network=Network("02:00:00:00:00:01"),
        staged_at=1_700_000_000,
    )


def test_a_flash_ends_in_new_and_tells() -> None:
    scene = Scene()
    scene.run()
    assert bytes(scene.machine.device.durable) == DATA
    assert scene.machine.restarts == 1
    outcome = scene.record.outcome
    assert outcome is not None
    assert outcome.facts["state"] == "flashed"
    assert outcome.facts["digest"] == scene.published.statement.digest.hex()
    assert outcome.facts["disk_guid"] == heads.disk_identity(DATA, sector_size=512)
    assert scene.cloud.tags["state"] == "flashed"
    begun = [event.phase for event in scene.record.events if event.kind is Kind.BEGAN]
    assert begun == list(PHASES[:-1])
    assert any("phase 8/11 verify: done in" in line for line in scene.lines)


def refuse_packs(scene: Scene) -> None:
    def fault(operation: str, key: str) -> None:
        if operation == "get" and key.startswith("packs/"):
            raise AccessDenied(scene.store.url, key, "403")

    scene.store.fault = fault


def silent_store(scene: Scene) -> None:
    def fault(operation: str, key: str) -> None:
        raise StoreUnavailable(scene.store.url, key, "no route")

    scene.store.fault = fault


def wrong_chunk(scene: Scene) -> None:
    key = scene.published.table.packs[0].key
    pack = bytearray(scene.store.objects[key])
    pack[100] ^= 1
    scene.store.objects[key] = bytes(pack)


def small_device(scene: Scene) -> None:
    device = MemoryDevice(len(DATA) - CHUNK_SIZE, content=OLD_DISK[: len(DATA) - CHUNK_SIZE])
    scene.machine.device = device


def other_firmware(scene: Scene) -> None:
    scene.machine.boot_mode = "uefi"


def little_memory(scene: Scene) -> None:
    scene.machine.memory = 100 << 20


def other_disk(scene: Scene) -> None:
    root = replace(scene.bundle.handoff.root, disk_guid="00000000-0000")
    scene.bundle = replace(scene.bundle, handoff=replace(scene.bundle.handoff, root=root))


def other_statement(scene: Scene) -> None:
    scene.store.objects["images/app-42"] = b"{}"


def tampered_table(scene: Scene) -> None:
    scene.bundle = replace(scene.bundle, table=scene.bundle.table[:-1] + b"x")


def failing_read(scene: Scene) -> None:
    fault = Fault("read", "eio", touching=4 * CHUNK_SIZE, times=None)
    scene.machine.device.faults.append(fault)


def not_armed(scene: Scene) -> None:
    scene.bundle = replace(scene.bundle, armed="")


def armed_for_another_run(scene: Scene) -> None:
    scene.bundle = replace(scene.bundle, armed="20251122-abc")


def a_bug(scene: Scene) -> None:
    def fault(operation: str, key: str) -> None:
        if key.startswith("packs/"):
            raise RuntimeError("never thought of")

    scene.store.fault = fault


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (refuse_packs, "refuses access"),
        (silent_store, "did not answer"),
        (wrong_chunk, "is wrong in the store"),
        (small_device, "the device only"),
        (other_firmware, "starts with uefi"),
        (little_memory, "Not enough memory"),
        (other_disk, "disk identity"),
        (other_statement, "is malformed"),
        (tampered_table, "has digest"),
        (failing_read, "failed to read"),
        (a_bug, "never thought of"),
        (not_armed, "nobody said"),
        (armed_for_another_run, "nobody said"),
    ],
)
def test_every_failure_before_the_first_write_ends_in_old(
    spoil: Callable[[Scene], None], said: str
) -> None:
    scene = Scene()
    before = bytes(scene.machine.device.content)
    spoil(scene)
    if spoil is small_device:
        before = bytes(scene.machine.device.content)
    scene.run()
    device = scene.machine.device
    assert device.writes == []
    assert bytes(device.content) == before
    assert scene.machine.restarts == 1
    assert not scene.machine.marked
    assert any("returned to the old system" in line and said in line for line in scene.lines)
    assert scene.cloud.tags["state"] == "returned"
    if spoil is not silent_store:
        outcome = scene.record.outcome
        assert outcome is not None
        assert outcome.facts["state"] == "returned"
        assert said in outcome.text


def test_after_the_first_write_the_flasher_insists() -> None:
    scene = Scene(faults=(Fault("write", "eio", nth=3), Fault("flush", "eio", nth=4)))
    states: list[str] = []
    scene.on_wait = lambda: states.append(scene.cloud.tags["state"])
    scene.run()
    assert states == ["stuck", "stuck"], "who sees the tags only knows that it does not go on"
    assert bytes(scene.machine.device.durable) == DATA
    assert scene.waits == [1, 2]
    assert scene.machine.restarts == 1
    notes = [event.text for event in scene.record.events if event.kind is Kind.NOTE]
    assert len(notes) == 2
    assert "does not boot yet" in notes[0]


def test_a_flasher_started_again_after_the_first_write_completes_the_image() -> None:
    scene = Scene()
    heads.clear_boot_sector(scene.machine.device)
    scene.machine.marked = True
    scene.run()
    assert bytes(scene.machine.device.durable) == DATA
    assert scene.cloud.patience[0] is None


def test_a_flasher_started_again_never_restarts_into_nothing() -> None:
    scene = Scene()
    scene.machine.marked = True
    wrong_chunk(scene)
    with pytest.raises(Exception, match="wrong in the store"):
        scene.run()
    assert scene.machine.restarts == 0


def test_that_nobody_listens_is_no_reason_to_stay() -> None:
    scene = Scene()
    scene.cloud.deaf = True

    def fault(operation: str, key: str) -> None:
        if operation == "put":
            raise AccessDenied(scene.store.url, key, "403")

    scene.store.fault = fault
    scene.run()
    assert bytes(scene.machine.device.durable) == DATA
    assert scene.machine.restarts == 1


def test_a_store_that_goes_away_after_the_rehearsal_is_not_missed() -> None:
    scene = Scene()

    def gone(verb: str, offset: int, length: int) -> None:
        if verb == "write":
            silent_store(scene)

    scene.machine.device.on_call = gone
    scene.run()
    assert bytes(scene.machine.device.durable) == DATA
    assert scene.waits == []


def disk(**changes: object) -> Disk:
    facts: dict[str, object] = {
        "name": "nvme0n1",
        "path": "/dev/nvme0n1",
        "number": DeviceNumber(259, 0),
        "size": 8 << 30,
        "sector_size": 512,
        "serial": "vol0123456789abcdef0",
        "model": "Amazon Elastic Block Store",
        "transport": "nvme",
        "pci_address": "0000:00:04.0",
        "removable": False,
        "read_only": True,
        "partitions": (),
        "holders": (),
        "slaves": (),
    }
    return Disk(**{**facts, **changes})  # type: ignore[arg-type]


WANTED = RootDevice(
    "vol0123456789abcdef0", "Amazon Elastic Block Store", 8 << 30, 512, "0000:00:04.0", ""
)
DATA_DISK = disk(name="nvme1n1", serial="AWS123", model="Amazon EC2 NVMe Instance Storage")


def test_the_root_is_the_disk_that_agrees_in_everything() -> None:
    assert find_root((DATA_DISK, disk(name="nvme2n1")), WANTED).name == "nvme2n1"


@pytest.mark.parametrize(
    ("disks", "said"),
    [
        ((DATA_DISK,), "0 have the serial"),
        ((), "there are: none"),
        ((disk(), disk(name="nvme1n1")), "2 have the serial"),
        ((disk(size=9 << 30),), "its size is"),
        ((disk(sector_size=4096),), "its sector size is 4096"),
        ((disk(pci_address="0000:00:05.0"),), "its controller is"),
        ((disk(model="Amazon EC2 NVMe Instance Storage"),), "it is instance store"),
        ((disk(serial=None),), "no serial"),
    ],
)
def test_a_doubtful_root_is_refused(disks: tuple[Disk, ...], said: str) -> None:
    with pytest.raises(Exception, match=said):
        find_root(disks, WANTED)


def test_the_plan_is_printed_from_the_documents_alone() -> None:
    lines = phases.dry_run(Scene().bundle)
    assert "20 chunks" in lines[0]
    assert lines[-1].startswith(f"step {len(lines) - 2}: write sector 0")
