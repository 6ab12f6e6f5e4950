"""A machine in memory for the node's tests, and the test that it is one.

It keeps the rules of a real one: what is mounted is busy, a layer needs its disks, a unit that
uses data holds it; and it breaks at any deed that a test names.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from flashboot import record
from flashboot.errors import CommandFailed, DeviceBusy, MachineError, NoMetadata
from flashboot.image import envelope, statement
from flashboot.image.statement import Blob, RamOs
from flashboot.machine.blockdevices import Disk, Layer, Partition, Stack
from flashboot.machine.host import Host
from flashboot.machine.kernelfs import DeviceNumber
from flashboot.machine.memory import Memory
from flashboot.machine.mounts import Mount, Swap
from flashboot.machine.process import Completed, Holder, failure
from flashboot.node import layout
from flashboot.node.system import Cloud, Node, Places, System, Tags
from flashboot.record import Program, Record
from flashboot.store import catalog
from flashboot.store.base import Store
from flashboot.units import GIB, MIB
from tests.fakes.images import random_image, store_image
from tests.fakes.memory_store import MemoryStore

INSTANCE = "i-0123456789abcdef0"
OLD_GUID = "11111111-2222-3333-4444-555555555555"
NEW_GUID = "99999999-2222-3333-4444-555555555555"
OLD_BOOT, NEW_BOOT = "boot-of-old", "boot-of-new"
URL = "s3://memory/store"
SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----\nwhat nobody may see\n"
KERNEL, INITRAMFS = b"kernel " * 100, b"initramfs" * 101

ROOT = DeviceNumber(259, 0)


class Gone(BaseException):
    """The machine went into the RAM OS."""


def disk(name: str, minor: int, *, partitions: int = 0, serial: str | None = None) -> Disk:
    """An NVMe disk of 8 GiB."""
    parts = tuple(
        Partition(
            f"{name}p{index}",
            f"/dev/{name}p{index}",
            DeviceNumber(259, minor + index),
            index,
            index * MIB,
            4 * MIB,
            read_only=False,
            holders=(),
        )
        for index in range(1, partitions + 1)
    )
    return Disk(
        name, f"/dev/{name}", DeviceNumber(259, minor), 8 * GIB, 512, serial or f"AWS{minor}",
        "Amazon EC2 NVMe Instance Storage", "nvme", f"0000:00:{minor:02x}.0", removable=False,
        read_only=False, partitions=parts, holders=(), slaves=(),
    )  # fmt: skip


ROOT_DISK = replace(
    disk("nvme0n1", 0, partitions=2, serial="vol0123456789abcdef0"),
    model="Amazon Elastic Block Store",
)
MD = Layer("md0", "md", "raid0", None, DeviceNumber(9, 0))
LVM = Layer("dm-0", "lvm", "vg-logs", "vg", DeviceNumber(253, 0))


def mount(number: int, device: DeviceNumber, target: str, source: str, **changes: object) -> Mount:
    """An ext4 mount."""
    plain = Mount(
        number, 1, device, "/", target, ("rw", "relatime"), (), "ext4", source, ("rw", "stripe=8")
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # fields of Mount by name


@dataclass
class FakeSystem:
    """Two disks under md0 with /data, one under LVM with /data/logs in it, one with swap."""

    home: Path
    boot: str = OLD_BOOT
    guid: str = OLD_GUID
    architecture: str = "x86_64"
    mode: str = "bios"
    mem: Memory = field(default_factory=lambda: Memory(4 * GIB, 3 * GIB, None))
    loaded: bool = False
    kexec: tuple[bytes, bytes, str] | None = None
    refusals: tuple[str, ...] = ()
    root: Disk = ROOT_DISK
    root_problem: str = ""
    data: list[Disk] = field(
        default_factory=lambda: [disk(f"nvme{n}n1", 10 * n) for n in range(1, 5)]
    )
    extra_mounts: list[Mount] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=lambda: {"dm-0": LVM, "md0": MD})
    swap: list[str] = field(default_factory=lambda: ["/dev/nvme4n1"])
    mounted: list[Mount] = field(default_factory=list)
    active: set[str] = field(default_factory=lambda: {"db.service", "ssh.service", "db.timer"})
    people: list[Holder] = field(default_factory=list)
    own_unit: str = "session-1.scope"
    stubborn: set[str] = field(default_factory=set)  # units that hold on after a stop
    deeds: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    # What systemctl list-jobs answers, one after the other; then nothing.
    pending: list[str] = field(default_factory=list)
    argvs: list[Sequence[str]] = field(default_factory=list)
    # Called with each deed before ('before') and after ('after') it happens; may raise.
    fault: Callable[[str, str], None] = lambda _when, _deed: None
    goes: bool = True
    time: int = 1_700_000_000_000
    looks: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "logs"):
            (self.home / f"fs-{name}").mkdir()
        (self.home / "fs-data/logs").mkdir()
        (self.home / "data").mkdir()
        (self.home / "fs-data/table").write_text("rows")
        for place in self.filesystems:
            self.attach(place)

    @property
    def layers_all(self) -> dict[str, Layer]:
        return {"dm-0": LVM, "md0": MD}

    @property
    def filesystems(self) -> list[Mount]:
        return [
            mount(40, MD.number, f"{self.home}/data", "/dev/md0"),
            mount(41, LVM.number, f"{self.home}/data/logs", "/dev/mapper/vg-logs"),
        ]

    def snapshot(self) -> dict[str, object]:
        """Everything that undoing must bring back."""
        return {
            "mounted": [(place.target, place.source) for place in self.mounted],
            "layers": sorted(self.layers),
            "swap": sorted(self.swap),
            "read only": [one.name for one in self.data if one.read_only],
            "active": sorted(self.active),
            "loaded": self.loaded,
            "files": sorted(str(path) for path in self.home.glob("fs-*/**/*")),
        }

    def deed(self, text: str, act: Callable[[], None]) -> None:
        self.fault("before", text)
        self.deeds.append(text)
        act()
        self.fault("after", text)

    # What it is

    def now(self) -> int:
        self.time += 1
        return self.time

    def pause(self, seconds: float) -> None:
        self.time += int(seconds * 1000)

    def host(self) -> Host:
        return Host(self.architecture, self.mode, "6.1.0", self.boot, 100.0, None, None)

    def memory(self) -> Memory:
        return self.mem

    def command_line(self) -> str:
        return "root=/dev/nvme0n1p1 password=hunter2 console=ttyS0,115200n8 quiet\n"

    def mac_address(self) -> str:
        return "02:00:00:00:00:01"

    # Its disks

    def mounts(self) -> tuple[Mount, ...]:
        slash = mount(20, DeviceNumber(259, 1), "/", "/dev/root")
        proc = mount(21, DeviceNumber(0, 5), "/proc", "proc", filesystem="proc")
        return (slash, proc, *self.extra_mounts, *self.mounted)

    def swaps(self) -> tuple[Swap, ...]:
        return tuple(Swap(path, "partition") for path in self.swap)

    def disks(self) -> tuple[Disk, ...]:
        members = ("nvme1n1", "nvme2n1")
        loop = replace(disk("loop0", 90), transport="loop", pci_address=None, serial=None)
        md = (
            [replace(disk("md0", 80), transport="md", slaves=members)]
            if "md0" in self.layers
            else []
        )
        return (self.root, *self.data, loop, *md)

    def root_disk(self) -> Disk:
        if self.root_problem:
            raise MachineError("/", self.root_problem)
        return self.root

    def device_number(self, path: str) -> DeviceNumber | None:
        return next((one.number for one in self.disks() if one.path == path), None)

    def stack_of(self, device: DeviceNumber) -> Stack:
        if device == MD.number and "md0" in self.layers:
            return Stack("md0", None, (MD,), tuple(self.data[:2]))
        if device == LVM.number and "dm-0" in self.layers:
            return Stack("dm-0", None, (LVM,), (self.data[2],))
        for one in self.disks():
            if device in one.numbers:
                return Stack(one.name, None, (), (one,))
        raise MachineError(f"block device {device}", "is not known to the kernel")

    def layers_above(self, disk: Disk) -> tuple[Layer, ...]:
        over = {"nvme1n1": "md0", "nvme2n1": "md0", "nvme3n1": "dm-0"}.get(disk.name)
        return (self.layers[over],) if over in self.layers else ()

    def disk_guid(self, disk: Disk) -> str:
        assert disk.name == self.root.name
        return self.guid

    def users(self, targets: Sequence[str], devices: Sequence[DeviceNumber]) -> tuple[Holder, ...]:
        database = Holder(100, "db", "db.service", (f"{self.home}/data/table",))
        ours = Holder(self.pid(), "flashboot", self.own_unit, (f"{self.home}/data",))
        udev = Holder(300, "udevd", "systemd-udevd.service", ("/dev/nvme1n1",))
        held = f"{self.home}/data" in targets
        found = [database] if held and self.active & {"db.service"} | self.stubborn else []
        self.looks += 1
        passing = [udev] if self.looks % 3 == 1 else []
        return (*found, *(self.people if held else ()), *passing, ours)

    def claimed(self, disk: Disk) -> str | None:
        return "a layer" if self.layers_above(disk) else None

    # kexec

    def kexec_refusals(self) -> tuple[str, ...]:
        return self.refusals

    def kexec_loaded(self) -> bool:
        return self.loaded

    def load_kexec(self, kernel: bytes, initramfs: Sequence[bytes], *, command_line: str) -> None:
        def act() -> None:
            self.loaded, self.kexec = True, (kernel, b"".join(initramfs), command_line)

        self.deed("load kexec", act)

    def unload_kexec(self) -> None:
        self.deed("unload kexec", lambda: setattr(self, "loaded", False))

    def leave(self) -> None:
        def act() -> None:
            if self.goes:
                raise Gone

        self.deed("leave", act)

    # What can be done to it

    def say(self, text: str) -> None:
        self.said.append(text)

    def unit(self) -> str | None:
        return self.own_unit

    def pid(self) -> int:
        return 4242

    def end_process(self, pid: int, *, force: bool) -> None:
        def act() -> None:
            if force or pid != 666:
                self.people = [one for one in self.people if one.pid != pid]

        self.deed(f"end {pid}" + (" by force" if force else ""), act)

    def unmount(self, target: str, *, timeout_seconds: float) -> None:
        place = next(one for one in self.mounted if one.target == target)
        inside = [one for one in self.mounted if one.target.startswith(f"{target}/")]
        if inside or "db.service" in self.active:
            raise DeviceBusy(target, "somebody")
        self.deed(f"unmount {Path(target).name}", lambda: self._detach(place))

    def stop_md(self, name: str, *, timeout_seconds: float) -> None:
        self._stop_layer(name, "/dev/md0")

    def deactivate_lvm(self, group: str, *, timeout_seconds: float) -> None:
        self._stop_layer("dm-0", "/dev/mapper/vg-logs")

    def _stop_layer(self, name: str, source: str) -> None:
        if any(one.source == source for one in self.mounted):
            raise DeviceBusy(name, "it is mounted")

        def act() -> None:
            del self.layers[name]

        self.deed(f"stop {name}", act)

    def flush(self, disks: Sequence[Disk], *, timeout_seconds: float) -> None:
        self.deed("flush " + " ".join(one.name for one in disks), lambda: None)

    def set_read_only(self, disk: Disk, *, flag: bool) -> None:
        def act() -> None:
            self.data = [
                replace(one, read_only=flag) if one.name == disk.name else one for one in self.data
            ]

        assert disk.name != self.root.name
        self.deed(f"{disk.name} read-only: {flag}", act)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_seconds: float,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Completed:
        self.argvs.append(argv)
        words = list(argv)
        output: list[str] = []
        if words[:2] == ["systemctl", "list-units"]:
            return Completed(
                tuple(argv), 0, "".join(f"{u} loaded active\n" for u in self.active), ""
            )
        if words[:2] == ["systemctl", "list-jobs"]:
            jobs = self.pending.pop(0) if self.pending else ""
            return Completed(tuple(argv), 0, jobs, "")
        if words[:2] == ["systemctl", "is-system-running"]:
            return Completed(tuple(argv), 0, "running\n", "")
        name = " ".join(Path(word).name for word in words if word not in ("--", "-P", "-m"))
        self.deed(name, lambda: output.append(self._run(words)))
        done = Completed(tuple(argv), 1 if output[0].startswith("!") else 0, output[0], "")
        if check and done.code:
            raise failure(done)
        return done

    def _run(self, words: list[str]) -> str:
        match words:
            case ["systemctl", "stop", "--", *units]:
                self.active -= {*units, *(["db.timer"] if "db.service" in units else [])}
            case ["systemctl", "start", "--", *units]:
                self.active |= set(units)
            case ["swapoff", path]:
                self.swap.remove(path)
            case ["swapon", path]:
                if path not in self.swap:
                    self.swap.append(path)
            case ["vgchange", "--activate", "y", "--", "vg"]:
                self.layers["dm-0"] = LVM
            case ["mdadm", "--assemble", "/dev/md0", "/dev/nvme1n1", "/dev/nvme2n1"]:
                self.layers["md0"] = MD
            case ["mount", *_, target]:
                place = next(one for one in self.filesystems if one.target == target)
                if place.device in {layer.number for layer in self.layers.values()}:
                    if words[1] != "-t":
                        return "! not in fstab"
                    self.attach(place)
                else:
                    return "! no such device"
            case [_, "-P", "-m", "happycache", "dump", *_, "-o", path, _]:
                Path(path).write_bytes(b"a map")
                return json.dumps({"pages": 7})
            case [_, "-P", "-m", "happycache", "load", *_]:
                return json.dumps({"asked_pages": 9, "resident_pages": 8, "loaded_pages": 5})
            case [path] if "hooks.d" in path:
                return "! no" if "bad" in path else ""
            case _:
                raise CommandFailed(" ".join(words), "no start", "no such program")
        return ""

    def attach(self, place: Mount) -> None:
        """Mount it."""
        target = Path(place.target)
        target.rmdir()
        target.symlink_to(self.home / f"fs-{target.name}")
        self.mounted.append(place)

    def _detach(self, place: Mount) -> None:
        Path(place.target).unlink()
        Path(place.target).mkdir()
        self.mounted.remove(place)


@dataclass
class FakeTags:
    """Tags in a dictionary."""

    values: dict[str, str] = field(default_factory=dict)
    problem: Exception | None = None

    def read(self) -> Mapping[str, str]:
        if self.problem:
            raise self.problem
        return self.values

    def write(self, values: Mapping[str, str]) -> None:
        if self.problem:
            raise self.problem
        self.values.update(values)


class World:
    """A node with its store and its tags, all in memory and below one directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.system = FakeSystem(home)
        self.store = MemoryStore()
        self.tags = FakeTags()
        self.metadata = True
        self.asked: list[tuple[str, Cloud]] = []
        (home / "ssh").mkdir()
        (home / "ssh/ssh_host_ed25519_key").write_bytes(SECRET)
        (home / "ssh/ssh_host_ed25519_key.pub").write_bytes(b"ssh-ed25519 public\n")
        (home / "etc").mkdir()
        # Whoever runs the tests: keys must be their owner's.
        (home / "etc/passwd").write_text(f"me:x:{os.geteuid()}:27::{home}/me:/bin/bash\n")
        (home / "etc/group").write_text("sudo:x:27:\n")
        self.keys = home / "me/.ssh/authorized_keys"
        self.keys.parent.mkdir(parents=True)
        self.keys.write_bytes(
            b'# comment\nssh-ed25519 AAAA me\ncommand="echo no" ssh-rsa BBBB root\n'
        )
        self.keys.chmod(0o600)
        self.node = Node(
            system=self.system,
            places=Places(
                state=home / "var/state.json",
                staged=home / "run/staged",
                hooks=home / "hooks.d",
                host_keys=home / "ssh",
                etc=home / "etc",
            ),
            cloud={"region": "eu-west-1", "endpoints": {"s3": "http://localhost:1"}},
            open_store=self._open_store,
            open_tags=self._open_tags,
            instance=self._instance,
        )

    def publish(self, name: str = "app-42", **changes: object) -> catalog.Published:
        """An image of one MiB with a RAM OS."""
        self.store.objects |= _image(name)
        ramos = RamOs(_blob(KERNEL), _blob(INITRAMFS))
        self.store.put(f"{ramos.prefix}/kernel", KERNEL)
        self.store.put(f"{ramos.prefix}/initramfs", INITRAMFS)
        found = catalog.fetch_image(self.store, name).statement
        found = replace(found, **{"ramos": ramos, **changes})  # type: ignore[arg-type]
        self.store.put(found.key, envelope.seal(statement.dump(found)), replace=True)
        return catalog.fetch_image(self.store, name)

    def record(self, run: str, program: Program) -> Record:
        """What `program` wrote of `run`."""
        return record.load(self.store.objects[record.key(INSTANCE, run, program=program)])

    def hook(self, kind: str, name: str) -> None:
        path = self.home / "hooks.d" / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)

    def _open_store(self, url: str, cloud: Cloud) -> Store:
        self.asked.append((url, cloud))
        return self.store

    def _open_tags(self, instance: str, cloud: Cloud) -> Tags:
        assert instance == INSTANCE
        return self.tags

    def _instance(self) -> str:
        if not self.metadata:
            raise NoMetadata("a token", "it was silent")
        return INSTANCE


@cache
def _image(name: str) -> Mapping[str, bytes]:
    store = MemoryStore()
    store_image(store, random_image(2, seed=7), name=name)
    return store.objects


def _blob(data: bytes) -> Blob:
    return Blob(hashlib.sha256(data).digest(), len(data))


def test_the_fake_is_a_system_and_its_layout_is_found(tmp_path: Path) -> None:
    system: System = FakeSystem(tmp_path)
    found = layout.survey(system)
    assert found.root == ROOT_DISK
    assert [one.name for one in found.disks] == ["nvme1n1", "nvme2n1", "nvme3n1", "nvme4n1"]
    assert [place.target for place in found.data_mounts] == [
        f"{tmp_path}/data",
        f"{tmp_path}/data/logs",
    ]
    assert found.data_filesystems == found.data_mounts
    assert [swap.path for swap in found.data_swaps] == ["/dev/nvme4n1"]
    assert [layer.name for layer in found.layers] == ["md0", "dm-0"]
    assert (found.shared, found.root_extras, found.foreign) == ((), (), ())


def test_a_bind_mount_is_data_but_no_filesystem_of_its_own(tmp_path: Path) -> None:
    system = FakeSystem(tmp_path)
    system.mounted.insert(0, mount(39, MD.number, "/srv", "/dev/md0", root="/srv"))
    found = layout.survey(system)
    assert next(place.target for place in found.data_mounts) == "/srv"
    assert "/srv" not in [place.target for place in found.data_filesystems]
