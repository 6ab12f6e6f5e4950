"""`check`: find out everything about the node and the image, and judge it. Nothing changes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flashboot import handoff
from flashboot.errors import FlashbootError, MachineError, Refused, UsageError, explain
from flashboot.machine.kernelfs import DeviceNumber
from flashboot.machine.process import Holder
from flashboot.node import door, findings, layout, runs
from flashboot.node.findings import Facts, Finding
from flashboot.node.layout import Layout
from flashboot.node.system import Node, System
from flashboot.store import catalog

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator asks for. No `image` means that only the machine is judged.

    `keys` are further files of authorized keys for the rescue door.
    """

    image: str = ""
    store: str = ""
    # '' asks the metadata service.
    instance: str = ""
    budget: int = handoff.DEFAULT_BUDGET
    keys: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """The facts, what follows from them, and the error behind the first problem of a store."""

    facts: Facts
    findings: tuple[Finding, ...]
    cause: FlashbootError | None = None

    def require(self) -> None:
        """Raises Refused with all reasons in one sentence, if there are any."""
        against = findings.refusals(self.findings)
        if against:
            raise Refused(findings.sentence(against)) from self.cause


def check(node: Node, wish: Wish) -> Checked:
    """Everything that speaks for or against a flash. Raises MachineError where /proc is mute."""
    system = node.system
    host = system.host()
    found = layout.survey(system)
    published, image_error = None, None
    if wish.image:
        published, image_error = _try(lambda: _fetch(node, wish))
    staged, staged_error = _try(lambda: runs.read_state(node.places.state))
    instance, instance_error = _try(lambda: wish.instance or node.instance())
    mac, mac_error = _try(system.mac_address)
    guid, guid_error = _try(lambda: system.disk_guid(found.root) if found.root else "")
    users, users_error = _try(lambda: users_of(system, found))
    places = node.places
    guests, guests_error = _try(
        lambda: door.guests(places.etc, people=places.people, further=wish.keys)
    )
    facts = Facts(
        layout=found,
        disk_guid=guid or "",
        disk_guid_problem=_words(guid_error),
        memory=system.memory(),
        architecture=host.architecture,
        boot_mode=host.boot_mode,
        boot_id=host.boot_id,
        kexec_refusals=system.kexec_refusals(),
        kexec_loaded=system.kexec_loaded(),
        instance=instance or "",
        instance_problem=_words(instance_error),
        mac=mac or "",
        mac_problem=_words(mac_error),
        users=users or (),
        users_problem=_words(users_error),
        guests=guests or door.Guests(),
        guests_problem=_words(guests_error),
        staged=staged,
        staged_problem=_words(staged_error),
        published=published,
        image_problem=_words(image_error),
        budget=wish.budget,
        now=system.now() // 1000,
    )
    return Checked(facts, findings.judge(facts), image_error)


def users_of(system: System, found: Layout) -> tuple[Holder, ...]:
    """The other processes that hold data: filesystems, or the disks and layers themselves."""
    devices: list[DeviceNumber] = [layer.number for layer in found.layers]
    for disk in found.disks:
        devices += sorted(disk.numbers)
    targets = [place.target for place in found.data_filesystems]
    own = system.pid()
    return tuple(holder for holder in system.users(targets, devices) if holder.pid != own)


def _fetch(node: Node, wish: Wish) -> catalog.Published:
    if not wish.store:
        raise UsageError("no store is named", hint="say --store URL, or set FLASHBOOT_STORE")
    return catalog.fetch_image(node.open_store(wish.store, node.cloud), wish.image)


def _try(work: Callable[[], _T]) -> tuple[_T | None, FlashbootError | None]:
    try:
        return work(), None
    except FlashbootError as error:
        return None, error
    except OSError as error:
        return None, MachineError("this machine", str(error))


def _words(error: FlashbootError | None) -> str:
    return explain(error) if error else ""
