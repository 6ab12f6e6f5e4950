"""The flash in the RAM OS, phase by phase.

PHASES is the order. Up to `rehearse` nothing is written and every failure restarts into OLD.
From `clear` on the device does not boot, so the flasher tries again for ever, stays reachable
through the rescue door and says why (DESIGN, promise 3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flashboot import handoff, record
from flashboot.errors import FlashbootError, NoMemory, NotArmed, WrongDevice, explain
from flashboot.flasher import flash
from flashboot.flasher.flash import Rehearsed, Target
from flashboot.flasher.plan import describe, make_plan
from flashboot.flasher.report import Report, record_key
from flashboot.flasher.source import StoreSource
from flashboot.handoff import Bundle
from flashboot.image.protocol import Verified
from flashboot.image.statement import check_fit, require_fit
from flashboot.machine import heads
from flashboot.machine.device import Device
from flashboot.store import catalog
from flashboot.store.base import Store
from flashboot.store.catalog import Published
from flashboot.units import MIB

PHASES = (
    "documents",
    "device",
    "network",
    "plan",
    "rehearse",
    "clear",
    "write",
    "verify",
    "commit",
    "report",
    "restart",
)

MEMORY_RESERVE = 48 * MIB  # for the interpreter, sockets and the kernel beside the byte budget
_PAUSES = (1, 2, 5, 10, 30, 60)  # seconds between tries after the point of no return


class Machine(Protocol):
    """What the phases need of the computer; machine.py has the real one."""

    architecture: str
    boot_mode: str

    def open_root(self, wanted: handoff.RootDevice) -> Device:
        """The one device that is `wanted`, writable, every other disk read-only."""

    def available_memory(self) -> int:
        """Bytes that can be had without reclaiming what is in use."""

    def pass_no_return(self) -> None:
        """Leave the mark that tells PID 1 to start the flasher again rather than to restart."""

    def past_no_return(self) -> bool:
        """Whether an earlier flasher of this boot has left that mark."""

    def at_least(self, seconds: int) -> None:
        """Put the clock forward to `seconds` since 1970 if it is behind."""

    def restart(self) -> None:
        """Restart the machine; returns only where that fails."""


class Cloud(Protocol):
    """What the phases need of AWS."""

    def open_store(self, *, patience: float | None) -> Store:
        """The image's store; asked again for `patience` seconds, for ever with None."""

    def tag(self, tags: dict[str, str]) -> None:
        """Set the instance's tags, within a bounded time."""


@dataclass(frozen=True, slots=True)
class Flash:
    """One flash with its doors."""

    bundle: Bundle
    machine: Machine
    cloud: Cloud
    report: Report
    wait: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything that is known before the first write."""

    target: Target
    source: StoreSource
    rehearsed: Rehearsed
    disk_guid: str
    digest: bytes


def run(job: Flash) -> None:
    """Flash this machine and restart it. Returns only where even the restart fails."""
    try:
        ready = prepare(job)
    except Exception as error:
        if not job.machine.past_no_return():
            return give_back(job, error)
        job.report.note(f"starting again, this disk does not boot yet: {explain(error)}")
        raise
    written = insist(job, ready)
    return finish(job, ready, written)


def prepare(job: Flash) -> Ready:
    """All that can fail without harm."""
    report, plan_of = job.report, job.bundle.handoff
    with report.phase("documents") as facts:
        if job.bundle.armed != plan_of.run:
            raise NotArmed
        published = _documents(job.bundle)
        facts["image"] = published.statement.name
    with report.phase("device") as facts:
        device = job.machine.open_root(plan_of.root)
        if not job.machine.past_no_return():
            _require_same_disk(device, plan_of.root.disk_guid)
        facts.update(device=device.path, bytes_size=device.size)
    with report.phase("network") as facts:
        job.machine.at_least(plan_of.staged_at)
        store = job.cloud.open_store(
            patience=None if job.machine.past_no_return() else plan_of.patience
        )
        _require_same_statement(store, job.bundle)
        facts["store"] = store.url
    with report.phase("plan") as facts:
        require_fit(
            published.statement,
            check_fit(
                published.statement,
                architecture=job.machine.architecture,
                boot_mode=job.machine.boot_mode,
                device_size=device.size,
                sector_size=device.sector_size,
            ),
        )
        plan = make_plan(
            published.table,
            device_size=device.size,
            sector_size=device.sector_size,
            tail=plan_of.tail,
        )
        budget = _budget(plan_of.budget, job.machine.available_memory())
        for line in describe(plan):
            report.say(line)
        facts.update(chunks=plan.chunks, bytes_zero=plan.zero, bytes_budget=budget)
    target = Target(published.statement.name, published.table, device, plan.steps, budget)
    source = StoreSource(store, published.table)
    with report.phase("rehearse") as facts:
        rehearsed = flash.rehearse(target, source, progress=report.progress())
        facts.update(
            differing=len(rehearsed.differing),
            bytes_fetched=source.fetched,
            bytes_kept=rehearsed.payload.kept_bytes,
        )
    # As `arrive` will read it from the device.
    disk_guid = heads.disk_identity(rehearsed.first_bytes, sector_size=device.sector_size)
    return Ready(target, source, rehearsed, disk_guid, published.statement.digest)


def insist(job: Flash, ready: Ready) -> int:
    """Write, verify and commit, again and again until it is done. Returns the bytes written."""
    tries = 0
    written = 0
    while True:
        try:
            written += write_once(job, ready)
        except Exception as error:  # noqa: BLE001 - there is no way back, so no failure may end this
            pause = _PAUSES[min(tries, len(_PAUSES) - 1)]
            tries += 1
            job.report.note(
                f"try {tries} failed and this disk does not boot yet: {explain(error)}; "
                f"again in {pause} s; the rescue door is open"
            )
            _send_record(job, ready)
            _tag(
                job, {"state": "stuck", "run": job.report.run, "record": f"stuck: {explain(error)}"}
            )
            job.wait(pause)
        else:
            return written


def write_once(job: Flash, ready: Ready) -> int:
    """One try of everything that writes. Returns the bytes written."""
    report, target = job.report, ready.target
    with report.phase("clear") as facts:
        job.machine.pass_no_return()
        flash.clear(target)
        facts["sector"] = 0
    with report.phase("write") as facts:
        written = flash.write(target, ready.rehearsed, progress=report.progress())
        facts.update(bytes_written=written.written, bytes_fetched=ready.source.fetched)
    with report.phase("verify") as facts:
        verified: Verified = flash.verify(target, ready.source, written, progress=report.progress())
        facts.update(bytes_read=target.table.image_size, digest=verified.table.digest.hex())
    with report.phase("commit"):
        flash.commit(target, verified)
    return written.written


def finish(job: Flash, ready: Ready, written: int) -> None:
    """Tell what happened, then restart into NEW; that nobody listens is no reason to stay."""
    digest = ready.digest.hex()
    job.report.outcome(
        "flashed",
        {
            "state": "flashed",
            "image": ready.target.name,
            "digest": digest,
            "disk_guid": ready.disk_guid,
            "chunks": len(ready.target.table.chunks),
            "differing": len(ready.rehearsed.differing),
            "bytes_fetched": ready.source.fetched,
            "bytes_written": written,
        },
    )
    with job.report.phase("report"):
        _send_record(job, ready)
        _tag(
            job,
            {
                "state": "flashed",
                "run": job.report.run,
                "image": ready.target.name,
                "digest": digest,
                "disk_guid": ready.disk_guid,
                "record": f"flashed {ready.target.name}, {written} bytes written",
            },
        )
    with job.report.phase("restart"):
        job.machine.restart()


def give_back(job: Flash, error: BaseException) -> None:
    """Nothing was written: say why and restart into OLD."""
    reason = explain(error)
    job.report.outcome(f"returned to the old system: {reason}", {"state": "returned"})
    _send_record(job, None)
    _tag(job, {"state": "returned", "run": job.report.run, "record": f"returned: {reason}"})
    with job.report.phase("restart"):
        job.machine.restart()


def dry_run(bundle: Bundle) -> tuple[str, ...]:
    """The plan for people, from the documents alone; no device is opened."""
    published = _documents(bundle)
    root = bundle.handoff.root
    plan = make_plan(
        published.table,
        device_size=root.size,
        sector_size=root.sector_size,
        tail=bundle.handoff.tail,
    )
    return describe(plan)


def _documents(bundle: Bundle) -> Published:
    """The statement and table of the handoff, in the only safe order."""
    handoff.check_documents(bundle.handoff, statement=bundle.statement, table=bundle.table)
    statement = catalog.open_statement(bundle.statement, bundle.handoff.image)
    table = catalog.open_table(statement, bundle.table)
    return Published(statement, table, bundle.statement, bundle.table)


def _require_same_disk(device: Device, wanted: str) -> None:
    found = heads.read_disk_identity(device)
    if found != wanted:
        raise WrongDevice(f"{device.path} has the disk identity {found}, {wanted} was staged")


def _require_same_statement(store: Store, bundle: Bundle) -> None:
    """The store answers us, and still publishes what was staged."""
    _, envelope = catalog.fetch_statement(store, bundle.handoff.image)
    handoff.check_documents(bundle.handoff, statement=envelope, table=bundle.table)


def _budget(wanted: int, available: int) -> int:
    """Bytes that the flash may use. Raises NoMemory where they are too few to work with."""
    budget = min(wanted, available - MEMORY_RESERVE)
    if budget < handoff.MIN_BUDGET:
        raise NoMemory(handoff.MIN_BUDGET + MEMORY_RESERVE, available)
    return budget


def _send_record(job: Flash, ready: Ready | None) -> None:
    """Put the record into the store if that can be had soon; never a reason to fail."""
    try:
        store = job.cloud.open_store(patience=20)
        store.put(record_key(job.report), record.dump(job.report.record()), replace=True)
    except (FlashbootError, OSError) as error:
        job.report.say(f"the record could not be stored: {explain(error)}")


def _tag(job: Flash, tags: dict[str, str]) -> None:
    try:
        job.cloud.tag(tags)
    except (FlashbootError, OSError) as error:
        job.report.say(f"the tags could not be set: {explain(error)}")
