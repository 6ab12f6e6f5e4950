"""`stage` and `cancel`: everything for a flash made ready in memory, and that undone again.

Nothing on a disk changes but the state file: the RAM OS and the handoff, which carries private
host keys, go from memory into memfds and through kexec_file_load into the kernel.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import flashboot
from flashboot import handoff
from flashboot.errors import FlashbootError, KexecRefused, Refused, explain
from flashboot.handoff import DEFAULT_PATIENCE, Bundle, Handoff, Network, RootDevice
from flashboot.image.protocol import Tail
from flashboot.node import check, files, loading, runs
from flashboot.node.check import Checked, Wish
from flashboot.node.findings import Facts
from flashboot.node.loading import Loadable
from flashboot.node.recorder import Recorder, tag
from flashboot.node.runs import Run, Staged
from flashboot.node.system import Node, Places
from flashboot.record import Kind
from flashboot.store import catalog
from flashboot.store.catalog import Published

# panic and oops restart the machine, which is OLD again before the first write; a serial console
# is slow, so the kernel starts quietly and the RAM OS raises the level for its own phases; an I/O
# error that a pause of EBS would make is worse than waiting (70-ec2-nvme-devices.rules); arrays are
# data and stay as they are (live-initramfs/build.py has the same line, with reasons).
_COMMAND_LINE = (
    "panic=10",
    "oops=panic",
    "loglevel=5",
    "nvme_core.io_timeout=4294967295",
    "raid=noautodetect",
)
_CONSOLES = ("console=tty0", "console=ttyS0,115200")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """How to stage.

    `patience_seconds` is how long the flasher asks a silent store before it gives the node back.
    """

    wish: Wish
    tail: Tail = Tail.SIGNATURES
    ntp: str = ""
    dns: tuple[str, ...] = ()
    patience_seconds: int = DEFAULT_PATIENCE


@dataclass(frozen=True, slots=True)
class Plan:
    """All that staging will do, before it does anything."""

    checked: Checked
    staged: Staged
    bundle: Bundle = field(repr=False)
    command_line: str


def plan(node: Node, options: StageOptions, checked: Checked | None = None) -> Plan:
    """Check the node, unless that was done, and put the handoff together; nothing changes.

    Raises Refused with every reason; MachineError where a host key cannot be read.
    """
    checked = checked or check.check(node, options.wish)
    checked.require()
    facts = checked.facts
    published, root = facts.published, facts.layout.root
    if published is None or root is None:
        raise Refused("no image was named")
    now = node.system.now() // 1000
    run = Run(
        name=new_run(now),
        image=published.statement.name,
        digest=published.statement.digest.hex(),
        store=options.wish.store,
        instance=facts.instance,
        boot_id=facts.boot_id,
        root_serial=root.serial or "",
        old_disk_guid=facts.disk_guid,
        cloud=node.cloud,
    )
    staged = Staged(run=run, staged_at=now, version=flashboot.__version__)
    bundle = _bundle(node.places, run, facts, published, options, now=now)
    return Plan(checked, staged, bundle, command_line(node.system.command_line()))


def stage(node: Node, options: StageOptions, checked: Checked | None = None) -> Plan:
    """Make the node ready for `flash`. Staging again replaces what was staged.

    Raises Refused with every reason, and leaves nothing behind where it fails.
    """
    ready = plan(node, options, checked)
    loadable = fetch(node, ready)
    run = ready.staged.run
    loading.load(node, loadable)
    try:
        if not node.system.kexec_loaded():
            raise KexecRefused("it took the kernel and says that none is loaded")
        loading.keep(node, loadable)
        runs.write_state(node.places.state, ready.staged)
    except BaseException:
        # Whatever was staged before is gone as well: the kernel holds one kernel at a time.
        node.system.unload_kexec()
        files.remove(node.places.state)
        loading.forget(node)
        raise
    recorder = Recorder(node, run)
    text = f"image {run.image} is staged, run {run.name}"
    recorder.say("stage", Kind.DONE, text, image=run.image, digest=run.digest)
    _report(node, recorder, run, state="staged")
    return ready


def fetch(node: Node, ready: Plan) -> Loadable:
    """Kernel and initramfs as the statement pins them, the handoff behind the initramfs.

    The bytes whose digests were compared are the very bytes that kexec loads. Raises
    DigestMismatch and whatever the store raises.
    """
    published = ready.checked.facts.published
    ramos = published.statement.ramos if published else None
    if ramos is None:
        raise Refused("the image pins no RAM OS")
    store = node.open_store(ready.staged.run.store, node.cloud)
    kernel = catalog.fetch_blob(store, f"{ramos.prefix}/kernel", ramos.kernel, what="kernel")
    initramfs = catalog.fetch_blob(
        store, f"{ramos.prefix}/initramfs", ramos.initramfs, what="initramfs"
    )
    # The kernel looks for the next archive at a multiple of four (init/initramfs.c).
    padding = bytes(-len(initramfs) % 4)
    return Loadable(
        kernel,
        initramfs + padding + loading.archive(handoff.files(ready.bundle)),
        ready.command_line,
    )


def cancel(node: Node) -> Staged | None:
    """Unload what is staged. None where nothing was; that is no error.

    An unusable state file is removed too. Raises MachineError.
    """
    try:
        staged = runs.read_state(node.places.state)
    except FlashbootError as error:
        node.system.say(f"the state file is removed: {explain(error)}")
        staged = None
    ours = staged is not None and staged.run.boot_id == node.system.host().boot_id
    if ours and node.system.kexec_loaded():
        node.system.unload_kexec()
    files.remove(node.places.state)
    loading.forget(node)
    if staged is None or not ours:
        return None
    recorder = Recorder(node, staged.run)
    recorder.say("cancel", Kind.DONE, f"run {staged.run.name} is cancelled")
    _report(node, recorder, staged.run, state="cancelled")
    return staged


def new_run(now: int) -> str:
    """A name for a run that begins at `now`, seconds since 1970: sortable, and never used twice."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)) + "-" + secrets.token_hex(4)


def command_line(running: str) -> str:
    """The RAM OS's kernel command line: this kernel's consoles, nothing else of it."""
    consoles = [word for word in running.split() if word.startswith("console=")]
    return " ".join((*(consoles or _CONSOLES), *_COMMAND_LINE))


def _bundle(
    places: Places,
    run: Run,
    facts: Facts,
    published: Published,
    options: StageOptions,
    *,
    now: int,
) -> Bundle:
    root = facts.layout.root
    assert root is not None  # plan() asked
    plan = Handoff(
        run=run.name,
        instance=run.instance,
        image=run.image,
        store=run.store,
        statement_digest=hashlib.sha256(published.envelope).digest(),
        table_digest=hashlib.sha256(published.stored_table).digest(),
        root=RootDevice(
            serial=root.serial or "",
            model=root.model or "",
            size=root.size,
            sector_size=root.sector_size,
            controller=root.pci_address or "",
            disk_guid=facts.disk_guid,
        ),
        network=Network(mac=facts.mac, ntp=options.ntp, dns=options.dns),
        staged_at=now,
        cloud=run.cloud,
        tail=options.tail,
        budget=facts.budget,
        patience=options.patience_seconds,
    )
    return Bundle(
        plan,
        statement=published.envelope,
        table=published.stored_table,
        authorized_keys=facts.guests.keys,
        host_keys=_host_keys(places.host_keys),
        ca_bundle=(files.read(places.ca_bundle) or b"") if places.ca_bundle else b"",
    )


def _host_keys(directory: Path) -> Mapping[str, bytes]:
    """The host keys whose names the handoff takes; others are somebody's own."""

    def found() -> Iterator[tuple[str, bytes]]:
        for path in sorted(directory.glob("ssh_host_*_key")):
            if not re.fullmatch(r"ssh_host_[a-z0-9]+_key", path.name) or not path.is_file():
                continue
            data = files.read(path)
            if data:
                yield path.name, data

    return dict(found())


def _report(node: Node, recorder: Recorder, run: Run, *, state: str) -> None:
    """Record and tag; neither is needed, so a failure is only told."""
    for what, problem in (
        ("record", recorder.save()),
        ("tag", tag(node, run, {"state": state})),
    ):
        if problem:
            node.system.say(f"warning: the {what} could not be written: {problem}")
