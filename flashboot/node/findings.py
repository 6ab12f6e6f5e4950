"""May this node be flashed? Every reason at once, as a pure function of what was found.

Nothing here asks the machine: facts.py gathers, this judges.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flashboot import handoff
from flashboot.image import statement
from flashboot.machine.memory import Memory
from flashboot.machine.process import Holder
from flashboot.node.door import Guests
from flashboot.node.layout import Layout, Placed
from flashboot.node.runs import Staged
from flashboot.store.catalog import Published
from flashboot.units import MIB, format_size

# Kernel, initramfs and Python do not fit below this, whatever the image (live-initramfs).
MIN_MEMORY = 512 * MIB
# A kernel keeps a part of this for itself and does not count it (its own text, struct page).
_UNCOUNTED = 64 * MIB
# An initramfs of 13.3 MiB has 36.3 MiB unpacked (live-initramfs/README.md); some room above that.
UNPACKED_RATIO = 4
# PID 1, the rescue door and the flasher's Python, without what they hold of the image.
RUNTIME_BYTES = 96 * MIB
# A chunk of the table as a Python value with its digest, measured with tracemalloc.
_CHUNK_BYTES = 400
# Loading holds each byte in this process, in a memfd and in the kernel's copy.
_LOADING_COPIES = 3


class Severity(StrEnum):
    """How much a finding matters."""

    REFUSAL = "refusal"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found. `id` is stable; `remedy` says what to do, '' where nothing."""

    severity: Severity
    id: str
    cause: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found out about a node and the image that it shall get.

    A `..._problem` says why something could not be found out; it is '' where it could. `published`
    is None, without a problem, where no image was asked for. `budget` is bytes.
    """

    layout: Layout
    disk_guid: str
    disk_guid_problem: str
    memory: Memory
    architecture: str
    boot_mode: str
    boot_id: str
    kexec_refusals: tuple[str, ...]
    kexec_loaded: bool
    instance: str
    instance_problem: str
    mac: str
    mac_problem: str
    users: tuple[Holder, ...]
    users_problem: str
    guests: Guests
    guests_problem: str
    staged: Staged | None
    staged_problem: str
    published: Published | None
    image_problem: str
    budget: int
    now: int  # seconds since 1970


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Every finding, refusals first."""
    found = [
        *_root(facts),
        *_machine(facts),
        *_identity(facts),
        *_image(facts),
        *_data(facts),
        *_door(facts),
        *_staged(facts),
    ]
    return tuple(sorted(found, key=lambda finding: list(Severity).index(finding.severity)))


def refusals(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Those that forbid a flash."""
    return tuple(finding for finding in findings if finding.severity is Severity.REFUSAL)


def sentence(findings: tuple[Finding, ...]) -> str:
    """All causes and remedies in one line."""
    return "; ".join(
        finding.cause + (f" ({finding.remedy})" if finding.remedy else "") for finding in findings
    )


def _refuse(name: str, cause: str, remedy: str = "") -> Finding:
    return Finding(Severity.REFUSAL, name, cause, remedy)


def _warn(name: str, cause: str, remedy: str = "") -> Finding:
    return Finding(Severity.WARNING, name, cause, remedy)


def _note(name: str, cause: str) -> Finding:
    return Finding(Severity.NOTE, name, cause)


def _root(facts: Facts) -> Iterator[Finding]:
    root = facts.layout.root
    if root is None:
        yield _refuse(
            "root-not-plain",
            f"the root device is not one plain disk: {facts.layout.root_problem}",
            "only a filesystem on a partition of one disk can be replaced as a whole",
        )
        return
    yield _note("root", f"/ is on {describe(root.path, root.serial, root.model)}")
    if root.is_instance_store:
        yield _refuse(
            "root-instance-store",
            f"the root device {root.path} is instance store",
            "only instances with an EBS root volume can be flashed",
        )
    for layer in facts.layout.root_layers:
        yield _refuse("root-layered", f"{layer} lies on the root disk {root.path}", "remove it")
    if root.read_only:
        yield _refuse("root-read-only", f"the root device {root.path} is read-only")
    if facts.disk_guid_problem:
        yield _refuse(
            "root-unreadable", f"the head of {root.path} is unread: {facts.disk_guid_problem}"
        )
    if not root.serial:
        yield _refuse(
            "root-unidentified",
            f"the root device {root.path} has no serial number",
            "without one the RAM OS could take another disk for it",
        )


def _machine(facts: Facts) -> Iterator[Finding]:
    for reason in facts.kexec_refusals:
        yield _refuse("kexec", f"kexec is not permitted: {reason}")
    yield from _memory(facts)
    if facts.mac_problem:
        yield _refuse(
            "network",
            f"no network interface leads to the world: {facts.mac_problem}",
            "the RAM OS fetches the image over the interface with the default route",
        )


def _memory(facts: Facts) -> Iterator[Finding]:
    total = facts.memory.total + _UNCOUNTED
    least, wanted, loading = memory_needs(facts)
    if total < least:
        yield _refuse(
            "memory",
            f"the machine has {format_size(facts.memory.total)} of memory, the RAM OS and the "
            f"flash need {format_size(least)}",
            "use a larger instance",
        )
    elif total < wanted:
        yield _warn(
            "memory-budget",
            f"{format_size(facts.memory.total)} of memory are less than the {format_size(wanted)} "
            "that the budget asks for; the flash takes what is there",
        )
    if facts.memory.usable < loading:
        yield _refuse(
            "memory-available",
            f"{format_size(facts.memory.usable)} of memory are free, loading the RAM OS needs "
            f"{format_size(loading)}",
            "stop something for a moment",
        )


def memory_needs(facts: Facts) -> tuple[int, int, int]:
    """Bytes that the RAM OS needs at least, with the whole budget, and to be loaded now."""
    if facts.published is None or facts.published.statement.ramos is None:
        return MIN_MEMORY, MIN_MEMORY, 0
    ramos = facts.published.statement.ramos
    kernel, initramfs = ramos.kernel.length, ramos.initramfs.length
    table = len(facts.published.table.chunks) * _CHUNK_BYTES

    def need(budget: int) -> int:
        # The packed initramfs is freed before the flasher takes its budget.
        working = max(initramfs, budget + RUNTIME_BYTES + table)
        return max(MIN_MEMORY, kernel + UNPACKED_RATIO * initramfs + working)

    least = need(min(facts.budget, handoff.MIN_BUDGET))
    return least, need(facts.budget), _LOADING_COPIES * (kernel + initramfs)


def _identity(facts: Facts) -> Iterator[Finding]:
    if facts.instance_problem:
        yield _refuse(
            "instance",
            f"the instance is unknown: {facts.instance_problem}",
            "let the metadata service answer (IMDSv2), or say --instance-id",
        )


def _image(facts: Facts) -> Iterator[Finding]:
    if facts.image_problem:
        yield _refuse("image", f"the image cannot be used: {facts.image_problem}")
    if facts.published is None:
        return
    wanted = facts.published.statement
    yield _note(
        "image", f"{wanted.name} has {format_size(wanted.image_size)}, digest {wanted.digest.hex()}"
    )
    for reason in statement.expiry(wanted, now=facts.now):
        yield _refuse(
            "image-expired",
            f"image {wanted.name} may not be used any more: {reason}",
            "choose a newer one (`flashboot image list`), or publish it again under another name",
        )
    if facts.layout.root is not None:
        for reason in statement.check_fit(
            wanted,
            architecture=facts.architecture,
            boot_mode=facts.boot_mode,
            device_size=facts.layout.root.size,
            sector_size=facts.layout.root.sector_size,
        ):
            yield _refuse("image-unfit", f"image {wanted.name} does not fit: {reason}")
    if wanted.ramos is None:
        yield _refuse(
            "image-ramos",
            f"image {wanted.name} pins no RAM OS",
            "publish it with `flashboot image publish --ramos DIRECTORY`",
        )


def _data(facts: Facts) -> Iterator[Finding]:
    layout = facts.layout
    for name in layout.shared:
        yield _refuse(
            "data-shared", f"{name} lies on the root disk and on others at once", "take it apart"
        )
    for mount in layout.foreign:
        yield _refuse(
            "data-foreign",
            f"{mount.target} is {mount.filesystem}, of which the kernel does not say where it lies",
            "export its pool and use another filesystem",
        )
    for place in layout.root_extras:
        yield _warn(
            "root-extra",
            f"{place.target} lies on the root disk and gets lost with it",
            "copy away what you need",
        )
    for layer in layout.layers:
        if layer.kind not in ("md", "lvm"):
            yield _warn(
                "data-layer",
                f"{layer} lies on a data disk and is not stopped by flashboot",
                "stop it in a hook of before-flash, start it again in one of after-abort",
            )
    if facts.users_problem:
        yield _warn("data-users", f"who uses the data is unknown: {facts.users_problem}")
    for place in layout.data_mounts:
        yield _note("data", f"{place.target} ({place.mount.filesystem}) is on {below(place)}")
    if not layout.data_mounts:
        yield _note("data", "no filesystem is mounted from another disk than the root disk")
    for holder in facts.users:
        yield _note("data-user", f"the data is in use by {holder}")


def _door(facts: Facts) -> Iterator[Finding]:
    guests = facts.guests
    if facts.guests_problem:
        yield _refuse("rescue-keys", f"a file of keys is unusable: {facts.guests_problem}")
    elif not guests.keys:
        yield _warn(
            "rescue-door",
            "no authorized key was found, so the RAM OS will have no rescue door",
            "say --ssh-key FILE",
        )
    else:
        whose = ", ".join(guests.sources)
        yield _note("rescue-door", f"the rescue door opens to the authorized keys of {whose}")


def _staged(facts: Facts) -> Iterator[Finding]:
    if facts.staged_problem:
        yield _warn(
            "state", f"the state file is unusable: {facts.staged_problem}", "staging replaces it"
        )
    if facts.staged is not None and facts.staged.run.boot_id == facts.boot_id:
        yield _note("staged", f"image {facts.staged.run.image} is staged; staging replaces it")
    elif facts.kexec_loaded:
        yield _warn("kexec-loaded", "a kernel of somebody else is loaded; staging replaces it")


def describe(path: str, serial: str | None, model: str | None) -> str:
    """A disk in words."""
    words = [word for word in (model, serial and f"serial {serial}") if word]
    return path + (f" ({', '.join(words)})" if words else "")


def below(place: Placed) -> str:
    """What a mount lies on, in words."""
    over = [str(layer) for layer in place.layers]
    return " on ".join([*over, ", ".join(place.disks)])


def values(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
    """The findings for --json."""
    return [
        {
            "severity": finding.severity.value,
            "id": finding.id,
            "cause": finding.cause,
            "remedy": finding.remedy,
        }
        for finding in findings
    ]
