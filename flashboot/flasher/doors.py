"""The real doors of a flash in the RAM OS: this machine, and AWS as the handoff describes it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flashboot import handoff
from flashboot.errors import FlashbootError, MachineError, WrongDevice
from flashboot.flasher.identity import find_root
from flashboot.handoff import Bundle, Handoff, RootDevice
from flashboot.machine import blockdevices, clock, power
from flashboot.machine.device import BlockDevice, open_device
from flashboot.machine.host import host
from flashboot.machine.memory import memory
from flashboot.store.base import Store

if TYPE_CHECKING:
    from flashboot.cloud.settings import CloudSettings

T = TypeVar("T")

HANDOFF = "/flashboot"  # where the archive's files lie in the RAM OS
MARK = "/run/flashboot/point-of-no-return"  # live-initramfs/init looks for it
_KERNEL_MEMORY = ("ram", "loop", "zram")  # disks of these kinds hold nothing of the node's


def read_bundle(directory: str = HANDOFF) -> Bundle:
    """The handoff and its documents. Raises MalformedDocument and MachineError.

    The keys of the rescue door are PID 1's business and are not read.
    """
    armed = Path(directory) / handoff.ARMED
    return Bundle(
        handoff=handoff.load(_read(f"{directory}/handoff.json")),
        statement=_read(f"{directory}/statement"),
        table=_read(f"{directory}/table"),
        armed=armed.read_text(encoding="ascii") if armed.exists() else "",
    )


class RealMachine:
    """phases.Machine on the computer that this runs on."""

    def __init__(self, mark: str = MARK) -> None:
        facts = host()
        self.architecture = facts.architecture
        self.boot_mode = facts.boot_mode
        self._mark = Path(mark)
        self._device: BlockDevice | None = None

    def open_root(self, wanted: RootDevice) -> BlockDevice:
        """The root device, writable, once every other disk was seen to be read-only."""
        if self._device is not None:
            return self._device
        disks = [disk for disk in blockdevices.disks() if not disk.name.startswith(_KERNEL_MEMORY)]
        root = find_root(disks, wanted)
        for disk in disks:
            if disk.name == root.name:
                continue
            if not disk.read_only:
                blockdevices.set_read_only(disk, flag=True)
            if not blockdevices.disk_named(disk.name).read_only:
                raise WrongDevice(f"{disk.path} holds data and cannot be made read-only")
        blockdevices.set_read_only(root, flag=False)
        self._device = open_device(root.path, writable=True)
        return self._device

    def available_memory(self) -> int:
        return memory().usable

    def pass_no_return(self) -> None:
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        self._mark.write_text("the root device is being written\n", encoding="ascii")

    def past_no_return(self) -> bool:
        return self._mark.exists()

    def at_least(self, seconds: int) -> None:
        if time.time() < seconds:
            clock.set_wall_clock(seconds)

    def restart(self) -> None:
        power.restart()


@dataclass(frozen=True, slots=True)
class RealCloud:
    """phases.Cloud with the role's credentials, which come from the metadata service.

    `say` gets a sentence for every retry. Clients are made at the first use, since botocore's
    import is the dearest part of the flasher's start.
    """

    plan: Handoff
    say: Callable[[str], None]
    ca_file: str = f"{HANDOFF}/ca.pem"

    def open_store(self, *, patience: float | None) -> Store:
        from flashboot.cloud import clients
        from flashboot.store.open import open_store
        from flashboot.store.retry import RetryingStore, RetryPolicy

        policy = RetryPolicy(attempts=None, deadline_seconds=patience)
        settings = self._settings()
        client = _patient(lambda: clients.s3_client(settings), patience, self.say)
        store = open_store(self.plan.store, s3_client=lambda: client)
        return RetryingStore(store, policy, notify=self.say)

    def tag(self, tags: dict[str, str]) -> None:
        from flashboot.cloud import clients
        from flashboot.cloud.tags import write_tags

        write_tags(clients.ec2_client(self._settings()), self.plan.instance, tags)

    def _settings(self) -> "CloudSettings":
        from flashboot.cloud.settings import CloudSettings

        settings = CloudSettings.from_dict(self.plan.cloud)
        bundle = self.ca_file if Path(self.ca_file).exists() else None
        return replace(settings, ca_bundle=bundle)


def _patient(make: Callable[[], T], patience: float | None, say: Callable[[str], None]) -> T:
    """`make()`, again until it succeeds or `patience` seconds are over."""
    pause, start = 1.0, time.monotonic()
    while True:
        try:
            return make()
        except FlashbootError as error:
            if patience is not None and time.monotonic() - start + pause > patience:
                raise
            say(f"{error} Trying again in {pause:.0f} s.")
            threading.Event().wait(pause)
            pause = min(pause * 2, 30.0)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MachineError(path, f"the handoff is incomplete: {error.strerror}") from error
