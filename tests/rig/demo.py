"""The main job, for real: a running Debian instance gets another image in place.

    make demo            or   .venv/bin/python -m tests.rig demo [--firmware uefi] [--json]

Nothing is simulated but the hardware: SeaweedFS is S3, moto is EC2, QEMU is the instance, and all
the rest is flashboot's own code doing what it does on a node. Everything runs on loopback and ends
with this program, whatever ends it.
"""

import contextlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from flashboot import record
from flashboot.machine.console import Line
from flashboot.record import Kind, Program, Record
from flashboot.units import format_size
from tests.rig.cloud import REPOSITORY, Cloud
from tests.rig.node import DATA_SERIAL, Look, Node
from tests.rig.prepare import Parts, prepare
from tests.rig.story import Story

IMAGE = "app-42"
Firmware = Literal["bios", "uefi"]
# What the console says that belongs to the story; the kernel's own words do not.
_TOLD = re.compile(r"flashboot(?:\[\d+\])?: (?:flashboot: )?(?P<words>.*)")


class DemoFailed(Exception):
    """Something that was promised did not hold."""


def demo(story: Story, *, firmware: Firmware = "bios") -> None:
    """Play it once; `story.facts` hold the summary. Raises DemoFailed."""
    home = REPOSITORY / ".cache" / "rig"
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=home)))
        cloud = Cloud(directory / "cloud")
        with story.phase("build images and RAM OS, start S3, EC2 and metadata"):
            parts = prepare(lambda: _enter(stack, cloud))
        node = stack.enter_context(
            Node(cloud, parts.images.old, parts.images.key, directory / "node", firmware=firmware)
        )
        with story.phase("publish NEW while OLD boots"):
            publisher = _Background(lambda: _publish(story, cloud, parts))
            node.boot()
            story.say("OLD serves: its database runs on /data")
            publisher.result()
            node.configure()
        with story.phase("stage, while the node serves"):
            node.run(f"flashboot stage --image {IMAGE}")
        sums = node.run("cat /data/db/SHA256SUMS").stdout
        # Queries: the database itself, when it starts, reads only the first half of each file.
        node.run("cat /data/db/segment-0? > /dev/null")
        begin = node.qemu.mark()
        with _telling(story, node, begin):
            quiet, restart, reason, ready = _flash(story, node, parts)
        _judge(story, cloud, node, quiet=quiet, restart=restart, reason=reason)
        _sum_up(story, cloud, node, begin=begin, ready=ready)
        with story.phase("look at the data"):
            _look_at_data(story, node, sums)


def _publish(story: Story, cloud: Cloud, parts: Parts) -> None:
    first = cloud.flashboot(
        "image", "publish", parts.images.new, "--name", IMAGE, "--ramos", parts.ramos
    ).value
    again = cloud.flashboot(
        "image", "publish", parts.images.new, "--name", IMAGE, "--ramos", parts.ramos
    ).value
    chunks = first["chunks"]
    story.facts["published"] = (
        f"{IMAGE}: {format_size(first['image']['image_size'])}, {chunks['total']} chunks, "
        f"{chunks['zero']} of them zeroes, {format_size(first['bytes_sent'])} sent in "
        f"{first['seconds']:.1f} s; the same again: {format_size(again['bytes_sent'])} sent"
    )
    story.facts["RAM OS"] = (
        f"kernel {format_size(parts.ramos_facts['kernel']['length'])}, "
        f"initramfs {format_size(parts.ramos_facts['initramfs']['length'])}"
    )
    story.say(f"published {story.facts['published']}")


def _flash(story: Story, node: Node, parts: Parts) -> tuple[Look, Look, str, Line]:
    """From the operator's command to `ready`."""
    mark = node.qemu.mark()
    with story.phase("flash: drain, dump the page cache, unmount the data"):
        node.flash()
        quiet = node.wait_quiet(after=mark)
    with story.phase("kexec into the RAM OS"):
        node.qemu.wait_for(r"flashboot: RAM OS", timeout_seconds=120, after=mark)
    with story.phase("flash: fetch, write, verify, commit"):
        reason, restart = node.wait_restart()
    same = node.root.read_bytes() == parts.images.new.read_bytes()
    story.facts["root device"] = (
        "equals the published image, byte for byte" if same else "DIFFERS from the published image"
    )
    with story.phase("NEW boots"):
        node.boot()
    with story.phase("arrive: compare, rewarm, ready"):
        ready = node.qemu.wait_for(r"flashboot: ready: ", timeout_seconds=180, after=mark)
        node.wait_arrived()  # record and tags come after the word on the console
    return quiet, restart, reason, ready


def _judge(
    story: Story, cloud: Cloud, node: Node, *, quiet: Look, restart: Look, reason: str
) -> None:
    """The data disk by the virtual machine's own counters, and its bytes."""
    before, after = quiet.counters[DATA_SERIAL], restart.counters[DATA_SERIAL]
    mount = node.premounts[-1]
    writes = after.writes - before.writes + mount.counters[DATA_SERIAL].writes
    trims = after.discards - before.discards + mount.counters[DATA_SERIAL].discards
    same = quiet.data_digest == restart.data_digest == mount.data_digest
    story.facts["data disk"] = (
        f"{writes} writes, {trims} trims from unmount to NEW's first mount, "
        + ("no byte changed" if same else "BYTES CHANGED")
    )
    if writes or trims or not same or reason != "guest-reset":
        raise DemoFailed(f"{story.facts['data disk']}; the machine ended by {reason}")
    if "equals" not in story.facts["root device"]:
        raise DemoFailed(story.facts["root device"])


def _sum_up(story: Story, cloud: Cloud, node: Node, *, begin: int, ready: Line) -> None:
    tags = cloud.tags()
    told = {program: _record(cloud, tags, program) for program in Program}
    flasher, arrive = told[Program.FLASHER].outcome, told[Program.ARRIVE].outcome
    if flasher is None or arrive is None:
        raise DemoFailed("the record has no outcome")
    stop = next(
        event for event in told[Program.NODE].events
        if event.phase == "stop" and event.kind is Kind.BEGAN
    )  # fmt: skip
    dumped = next(
        event for event in told[Program.NODE].events
        if event.phase == "dump" and event.kind is Kind.DONE
    )  # fmt: skip
    story.facts["phases in the RAM OS"] = ", ".join(
        f"{event.phase} {int(event.facts['milliseconds']) / 1000:.1f} s"
        for event in told[Program.FLASHER].events
        if event.kind is Kind.DONE
    )
    story.facts["fetched"] = format_size(int(flasher.facts["bytes_fetched"]))
    story.facts["written"] = (
        f"{format_size(int(flasher.facts['bytes_written']))}: {flasher.facts['differing']} of "
        f"{flasher.facts['chunks']} chunks differed"
    )
    story.facts["root digest"] = str(flasher.facts["digest"])
    story.facts["page cache"] = (
        f"{dumped.text} before; after: {arrive.facts['resident_pages']} of "
        f"{arrive.facts['asked_pages']} resident, {arrive.facts['loaded_pages']} of them loaded"
    )
    seconds = (arrive.time - stop.time) / 1000
    story.facts["downtime"] = (
        f"{seconds:.0f} s from the first service stopped to ready (QEMU without KVM; "
        "the host's own checks included)"
    )
    story.facts["instance tags"] = ", ".join(f"{name}={tags[name]}" for name in sorted(tags))
    if not int(arrive.facts["loaded_pages"]):
        raise DemoFailed(f"no page was warmed: {story.facts['page cache']}")
    if tags.get("flashboot:state") != "ready":
        raise DemoFailed(f"the tags say {tags}")


def _look_at_data(story: Story, node: Node, sums: str) -> None:
    node.run("cd /data/db && sha256sum --check --quiet -", input=sums)
    story.facts["data files"] = f"{len(sums.splitlines())} files have the checksums they had"
    story.facts["now running"] = node.run("head -n 1 /etc/rig-release").stdout.strip()


def _record(cloud: Cloud, tags: dict[str, str], program: Program) -> Record:
    key = record.key(cloud.instance_id, tags["flashboot:run"], program=program)
    return record.load(cloud.object(key))


@contextlib.contextmanager
def _telling(story: Story, node: Node, after: int) -> Iterator[None]:
    """Tell the console's flashboot lines as they come."""
    done = threading.Event()

    def tell() -> None:
        seen = after
        last = ""
        while not done.wait(0.2):
            for line in node.qemu.console.lines(after=seen):
                seen = line.number
                found = _TOLD.search(line.text)
                if found and found["words"] != last:  # what goes to stderr comes twice
                    last = found["words"]
                    story.say(f"  {last}")

    teller = threading.Thread(target=tell, name="teller", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


class _Background:
    """One call on a thread of its own; `result` waits and raises what it raised."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._error: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again by result
                self._error.append(error)

        self._thread = threading.Thread(target=run, name="background", daemon=True)
        self._thread.start()

    def result(self) -> None:
        self._thread.join()
        if self._error:
            raise self._error[0]


def _enter(stack: contextlib.ExitStack, cloud: Cloud) -> None:
    stack.enter_context(cloud)


def tell_end(story: Story, *, as_json: bool) -> None:
    """The summary to stdout."""
    if as_json:
        print(story.as_json())
        return
    print(f"\nSummary\n{story.summary()}\n\nWhere the time went\n{story.picture()}")
    print(f"\n  {'in all':50} {sum(story.phases.values()):6.1f} s")
