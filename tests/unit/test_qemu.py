"""QEMU without QEMU: the argument list, QMP's messages on a socket pair, the console's lines."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flashboot.errors import MachineError
from flashboot.machine.console import Console
from flashboot.machine.qemu import Disk, VirtualMachine, arguments, network
from flashboot.machine.qmp import DiskCounters, Qmp, parse_counters


def argv(machine: VirtualMachine, *, rendezvous: int | None = None) -> list[str]:
    return arguments(
        machine, variables=Path("/run/vars.fd"), qmp=5, console=6, rendezvous=rendezvous
    )


def values(line: list[str], option: str) -> list[str]:
    return [line[number + 1] for number, word in enumerate(line) if word == option]


def test_disks_are_nvme_with_their_serials_in_order() -> None:
    disks = (
        Disk(Path("/a,b.raw"), "vol1"),
        Disk(Path("/d.qcow2"), "AWS2", format="qcow2", snapshot=True, sector_bytes=4096),
    )
    line = argv(VirtualMachine("m", disks))
    first, second = values(line, "-drive")
    assert first == "if=none,id=disk0,format=raw,discard=unmap,file=/a,,b.raw"
    assert second == "if=none,id=disk1,format=qcow2,discard=unmap,snapshot=on,file=/d.qcow2"
    devices = values(line, "-device")
    assert devices[0].startswith("nvme,drive=disk0,serial=vol1,logical_block_size=512,")
    assert devices[0].endswith(",bootindex=0")
    assert "serial=AWS2,logical_block_size=4096,physical_block_size=4096" in devices[1]


def test_uefi_gets_its_own_variables_and_bios_none() -> None:
    drives = values(argv(VirtualMachine("m", (), firmware="uefi")), "-drive")
    assert "readonly=on" in drives[0]
    assert drives[1] == "if=pflash,format=raw,unit=1,file=/run/vars.fd"
    assert values(argv(VirtualMachine("m", ())), "-drive") == []


def test_never_kvm() -> None:
    assert values(argv(VirtualMachine("m", ())), "-accel")[0].startswith("tcg,")


def test_a_kernel_of_our_own_takes_precedence_over_the_disk() -> None:
    machine = VirtualMachine(
        "m", (Disk(Path("/d"), "v"),), kernel=Path("/k"), initrd=Path("/i"), append="a b"
    )
    line = argv(machine)
    assert (values(line, "-kernel"), values(line, "-initrd")) == (["/k"], ["/i"])
    assert values(line, "-append") == ["a b"]
    assert "bootindex" not in values(line, "-device")[0]


def test_second_serial_port_only_for_a_rendezvous() -> None:
    assert values(argv(VirtualMachine("m", ())), "-serial") == ["chardev:console"]
    line = argv(VirtualMachine("m", ()), rendezvous=7)
    assert values(line, "-serial") == ["chardev:console", "chardev:rendezvous"]
    assert "socket,id=rendezvous,fd=7" in values(line, "-chardev")


def test_network_forwards_loopback_only() -> None:
    value = network(VirtualMachine("m", (), ssh_port=2222, metadata_port=9169))
    assert value == (
        "user,id=net,net=169.254.0.0/16,host=169.254.0.2,hostfwd=tcp:127.0.0.1:2222-:22,"
        "guestfwd=tcp:169.254.169.254:80-cmd:/bin/busybox nc 127.0.0.1 9169"
    )
    assert values(argv(VirtualMachine("m", (), network=False)), "-netdev") == []


def block(device: str, **discards: int) -> dict[str, Any]:
    stats = {"rd_operations": 1, "rd_bytes": 2, "wr_operations": 3, "wr_bytes": 4}
    below = {f"discard-{name.replace('_', '-')}": value for name, value in discards.items()}
    entry: dict[str, Any] = {"device": device, "stats": stats}
    if below:
        entry["parent"] = {"driver-specific": below}
    return entry


def test_counters_of_every_named_drive() -> None:
    answer = [block("disk0"), block("disk1", nb_ok=5, nb_failed=1, bytes_ok=9), block("")]
    assert parse_counters(answer) == {
        "disk0": DiskCounters(1, 2, 3, 4, 0, 0),
        "disk1": DiskCounters(1, 2, 3, 4, 6, 9),
    }


class FakeQemu:
    """The other end: answers from a table, sends events when told."""

    def __init__(self, channel: socket.socket, answers: dict[str, dict[str, Any]]) -> None:
        self.channel = channel
        self.answers = answers
        self.asked: list[dict[str, Any]] = []
        self.send({"QMP": {"version": {}, "capabilities": []}})
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def send(self, message: dict[str, Any]) -> None:
        self.channel.sendall(json.dumps(message).encode() + b"\r\n")

    def _serve(self) -> None:
        with self.channel.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                self.asked.append(message)
                if message["execute"] == "hang-up":
                    self.channel.shutdown(socket.SHUT_RDWR)
                    return
                answer = self.answers.get(message["execute"], {"return": {}})
                self.send({**answer, "id": message["id"]})


@pytest.fixture
def pair() -> Iterator[tuple[Qmp, FakeQemu]]:
    ours, theirs = socket.socketpair()
    fake = FakeQemu(
        theirs, {"query-status": {"return": 42}, "cont": {"error": {"desc": "needs a reset"}}}
    )
    qmp = Qmp(ours)
    qmp.start()
    yield qmp, fake
    qmp.close()
    fake.thread.join()
    theirs.close()


def test_answers_and_refusals(pair: tuple[Qmp, FakeQemu]) -> None:
    qmp, fake = pair
    assert qmp.execute("query-status", {"a": 1}) == 42
    assert [message["execute"] for message in fake.asked] == ["qmp_capabilities", "query-status"]
    assert fake.asked[1]["arguments"] == {"a": 1}
    with pytest.raises(MachineError, match="needs a reset"):
        qmp.execute("cont")


def test_events_are_kept_and_waited_for(pair: tuple[Qmp, FakeQemu]) -> None:
    qmp, fake = pair
    fake.send({"event": "STOP", "data": {}, "timestamp": {}})
    fake.send({"event": "SHUTDOWN", "data": {"reason": "guest-reset"}, "timestamp": {}})
    event = qmp.wait_event("SHUTDOWN", timeout_seconds=5)
    assert (event.number, event.data["reason"]) == (2, "guest-reset")
    assert [each.name for each in qmp.events(after=1)] == ["SHUTDOWN"]
    with pytest.raises(MachineError, match="no event SHUTDOWN"):
        qmp.wait_event("SHUTDOWN", timeout_seconds=0.01, after=2)


def test_hanging_up_ends_every_wait(pair: tuple[Qmp, FakeQemu]) -> None:
    qmp, _ = pair
    with pytest.raises(MachineError, match="not answered"):
        qmp.execute("hang-up")
    with pytest.raises(MachineError):
        qmp.wait_event("RESET", timeout_seconds=30)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[tuple[Console, socket.socket]]:
    ours, theirs = socket.socketpair()
    port = Console(ours, tmp_path / "console.log", start=time.monotonic())
    port.start()
    yield port, theirs
    theirs.close()
    port.close()


def test_lines_prompts_and_colours(console: tuple[Console, socket.socket], tmp_path: Path) -> None:
    port, guest = console
    guest.sendall(b"[\x1b[0;32m  OK  \x1b[0m] one\r\ntwo\r\nlogin: ")
    prompt = port.wait_for("^login: $", timeout_seconds=5)
    assert prompt is not None
    assert prompt.number == 3
    assert [line.text for line in port.lines()] == ["[  OK  ] one", "two", "login: "]
    guest.sendall(b"root\r\n")
    again = port.wait_for("root", timeout_seconds=5, after=2)
    assert again is not None
    assert (again.number, again.text) == (3, "login: root")
    assert again.at == prompt.at
    assert port.wait_for("one", timeout_seconds=0.01, after=1) is None
    log = (tmp_path / "console.log").read_text().splitlines()
    assert [line.split("] ", 1)[1] for line in log] == ["[  OK  ] one", "two", "login: root"]


def test_the_end_ends_the_wait(console: tuple[Console, socket.socket]) -> None:
    port, guest = console
    guest.sendall(b"last words")
    guest.shutdown(socket.SHUT_RDWR)
    assert port.wait_for("never", timeout_seconds=30) is None
    assert [line.text for line in port.lines()] == ["last words"]
