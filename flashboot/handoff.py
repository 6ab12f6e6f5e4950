"""The handoff: all that the serving node tells the flasher, as files of one cpio archive.

The archive is appended to the RAM OS's initramfs and passes through kexec in memory, so it is the
one place where private host keys may travel. Nothing here holds credentials: the flasher gets its
own from the instance metadata service. docs/formats/handoff.md lists the files and fields.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flashboot.errors import DigestMismatch, DocumentTooLarge, MalformedDocument
from flashboot.image import document
from flashboot.image.protocol import Tail
from flashboot.units import KIB, MIB

SCHEMA = "flashboot.handoff/1"
MAX_BYTES = 64 * KIB  # of handoff.json
DIRECTORY = "flashboot"  # below the root of the RAM OS
ARMED = "armed"  # the file that says that `flash` has left for this run
DEFAULT_BUDGET = 256 * MIB  # what the flasher may hold of an image at any time, bytes
MIN_BUDGET = 96 * MIB  # below this the threads' own buffers leave no room for what is fetched
DEFAULT_PATIENCE = 600  # seconds that the flasher asks a silent store before it gives up

_SAFE = re.compile(r"[A-Za-z0-9.,:_-]*")  # network.env is read by a shell
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_RUN = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True, slots=True)
class RootDevice:
    """What identifies the one device that may be written. Sizes are bytes.

    `controller` is the PCI address, `disk_guid` the GPT's or the MBR's identifier in hexadecimal.
    """

    serial: str
    model: str
    size: int
    sector_size: int
    controller: str
    disk_guid: str


@dataclass(frozen=True, slots=True)
class Network:
    """How the RAM OS reaches the world: the interface in use and what DHCP may not tell."""

    mac: str
    ntp: str = ""
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Handoff:
    """The plan for one flash. `staged_at` is seconds since 1970, `budget` bytes.

    `cloud` is what cloud/settings.py makes of itself: region, endpoints, proxy; no secrets.
    Raises MalformedDocument for values that cannot be.
    """

    run: str
    instance: str
    image: str
    store: str
    statement_digest: bytes
    table_digest: bytes
    root: RootDevice
    network: Network
    staged_at: int
    cloud: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    tail: Tail = Tail.SIGNATURES
    budget: int = DEFAULT_BUDGET
    patience: int = DEFAULT_PATIENCE  # seconds, before the first write only

    def __post_init__(self) -> None:
        if not _RUN.fullmatch(self.run):
            raise MalformedDocument("handoff", f"{self.run[:80]!r} is not a run's name")
        if not _MAC.fullmatch(self.network.mac):
            raise MalformedDocument("handoff", f"{self.network.mac[:40]!r} is not a MAC address")
        for server in self.network.dns:
            if not server or not _SAFE.fullmatch(server) or "," in server:
                raise MalformedDocument("handoff", f"{server[:80]!r} is not a name server")
        if not _SAFE.fullmatch(self.network.ntp):
            raise MalformedDocument("handoff", f"{self.network.ntp[:80]!r} is not a host")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A handoff with the documents and keys that travel beside it.

    `host_keys` are OpenSSH private keys by file name, `authorized_keys` the rescue door's guests.
    `armed` is the run that `flash` has left for: read in the RAM OS, and added by `arming` last.
    """

    handoff: Handoff
    statement: bytes  # in its envelope
    table: bytes  # as stored
    authorized_keys: bytes = b""
    # Private: never in a repr, which is what logs and tracebacks show.
    host_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    ca_bundle: bytes = b""
    armed: str = ""


def dump(handoff: Handoff) -> bytes:
    """The handoff in its one spelling.

    Raises DocumentTooLarge and MalformedDocument where the flasher would: better here, on a node
    that still serves.
    """
    root, network = handoff.root, handoff.network
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "run": handoff.run,
        "instance": handoff.instance,
        "image": handoff.image,
        "store": handoff.store,
        "statement": handoff.statement_digest.hex(),
        "table": handoff.table_digest.hex(),
        "staged_at": handoff.staged_at,
        "tail": handoff.tail.value,
        "budget": handoff.budget,
        "patience": handoff.patience,
        "cloud": dict(handoff.cloud),
        "root": {
            "serial": root.serial,
            "model": root.model,
            "size": root.size,
            "sector_size": root.sector_size,
            "controller": root.controller,
            "disk_guid": root.disk_guid,
        },
        "network": {"mac": network.mac, "ntp": network.ntp, "dns": list(network.dns)},
    }
    data = document.dump(value)
    load(data)
    return data


def load(data: bytes) -> Handoff:
    """The handoff in `data`. Raises DocumentTooLarge and MalformedDocument."""
    if len(data) > MAX_BYTES:
        raise DocumentTooLarge("handoff", len(data), MAX_BYTES)
    fields = document.load(data, what="handoff")
    schema = fields.text("schema")
    if schema != SCHEMA:
        raise fields.fail(f"schema {schema[:40]!r} is not known here, only {SCHEMA}")
    tail = fields.text("tail")
    if tail not in list(Tail):
        raise fields.fail(f"unknown tail {tail[:40]!r}")
    root, network = fields.object("root"), fields.object("network")
    handoff = Handoff(
        run=fields.text("run"),
        instance=fields.text("instance"),
        image=fields.text("image"),
        store=fields.text("store"),
        statement_digest=fields.digest("statement"),
        table_digest=fields.digest("table"),
        root=RootDevice(
            serial=root.text("serial"),
            model=root.text("model"),
            size=root.number("size", low=1),
            sector_size=root.number("sector_size", low=512, high=65536),
            controller=root.text("controller"),
            disk_guid=root.text("disk_guid"),
        ),
        network=Network(
            mac=network.text("mac"), ntp=network.text("ntp"), dns=network.texts("dns", cap=8)
        ),
        staged_at=fields.number("staged_at"),
        cloud=fields.nested("cloud"),
        tail=Tail(tail),
        budget=fields.number("budget", low=MIN_BUDGET),
        patience=fields.number("patience", low=1, high=86400),
    )
    for part in (root, network, fields):
        part.finish()
    return handoff


def files(bundle: Bundle) -> dict[str, bytes]:
    """The archive's files by their path below the RAM OS's root."""
    network = bundle.handoff.network
    environment = (
        f"FLASHBOOT_RUN={bundle.handoff.run}\n"
        f"FLASHBOOT_MAC={network.mac}\n"
        f"FLASHBOOT_NTP={network.ntp}\n"
        f"FLASHBOOT_DNS={','.join(network.dns)}\n"
    )
    result = {
        "handoff.json": dump(bundle.handoff),
        "statement": bundle.statement,
        "table": bundle.table,
        "network.env": environment.encode(),
    }
    if bundle.authorized_keys:
        result["ssh/authorized_keys"] = bundle.authorized_keys
    for name, key in bundle.host_keys.items():
        if not re.fullmatch(r"ssh_host_[a-z0-9]+_key", name):
            raise MalformedDocument("handoff", f"{name[:80]!r} is not the name of a host key")
        result[f"ssh/{name}"] = key
    if bundle.ca_bundle:
        result["ca.pem"] = bundle.ca_bundle
    return {f"{DIRECTORY}/{name}": data for name, data in result.items()}


def arming(run: str) -> dict[str, bytes]:
    """The file that `flash` adds last: without it the RAM OS gives the node back at once.

    `stage` loads a kernel that nobody may start by accident, but some systems start a loaded
    kernel at any reboot (systemctl(1) of newer systemd; Debian's LOAD_KEXEC).
    """
    return {f"{DIRECTORY}/{ARMED}": run.encode()}


def check_documents(handoff: Handoff, *, statement: bytes, table: bytes) -> None:
    """The documents are the ones that were staged. Raises DigestMismatch."""
    for what, data, wanted in (
        ("statement", statement, handoff.statement_digest),
        ("chunk table", table, handoff.table_digest),
    ):
        found = hashlib.sha256(data).digest()
        if found != wanted:
            raise DigestMismatch(what, found.hex(), wanted.hex())
