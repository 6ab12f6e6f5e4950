"""The statement: the small document that names an image and everything a reader must agree to.

It travels in an envelope (envelope.py), whose signature covers exactly its bytes; nothing of it
is parsed before that holds. docs/formats/image.md lists the fields.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from flashboot.errors import MalformedDocument, UnfitImage
from flashboot.image import document, table

SCHEMA = "flashboot.statement/1"
ARCHITECTURES = ("x86_64", "aarch64")
BOOT_MODES = ("bios", "uefi")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored object by its SHA-256 and its length in bytes."""

    digest: bytes
    length: int


@dataclass(frozen=True, slots=True)
class RamOs:
    """The RAM OS that a statement pins: its kernel and its initramfs."""

    kernel: Blob
    initramfs: Blob

    @property
    def prefix(self) -> str:
        """Where the two lie in a store; the name is the kernel's and initramfs's digests."""
        both = hashlib.sha256(self.kernel.digest + self.initramfs.digest)
        return f"ramos/{both.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Statement:
    """One image. Sizes are bytes, `created` and `expires` seconds since 1970 (0: never).

    `sequence` is the release's place in its line, the rollback floor compares it.
    Raises MalformedDocument for values that no image can have.
    """

    name: str
    image_size: int
    digest: bytes
    table: Blob
    architecture: str
    boot_modes: tuple[str, ...]
    sector_size: int
    created: int
    sequence: int = 0
    expires: int = 0
    source_ami: str = ""
    source_snapshot: str = ""
    ramos: RamOs | None = None

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise MalformedDocument("statement", problem)

    def _problem(self) -> str:
        if not _NAME.fullmatch(self.name):
            return f"{self.name[:140]!r} is not a name (letters, digits, . _ -, at most 128)"
        if self.sector_size not in (512, 4096):
            return f"sector size {self.sector_size} is neither 512 nor 4096"
        if self.image_size <= 0 or self.image_size % self.sector_size:
            return f"image size {self.image_size} is not a whole number of sectors"
        if self.architecture not in ARCHITECTURES:
            return f"unknown architecture {self.architecture[:40]!r}"
        if not set(self.boot_modes) <= set(BOOT_MODES) or list(self.boot_modes) != sorted(
            set(self.boot_modes)
        ):
            return f"unknown, repeated or unsorted boot modes {self.boot_modes!r}"
        if not 0 < self.table.length <= table.MAX_TABLE_BYTES:
            return f"table length {self.table.length} is impossible"
        return ""

    @property
    def key(self) -> str:
        return f"images/{self.name}"

    @property
    def table_key(self) -> str:
        return f"tables/{self.table.digest.hex()}"


def is_name(text: str) -> bool:
    """Whether an image may have this name."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """`name` where it can name an image. Raises MalformedDocument."""
    if not is_name(name):
        problem = f"{name[:140]!r} is not a name (letters, digits, . _ -, at most 128)"
        raise MalformedDocument("image name", problem)
    return name


def check_fit(
    statement: Statement,
    *,
    architecture: str,
    boot_mode: str | None,
    device_size: int,
    sector_size: int,
) -> tuple[str, ...]:
    """Every reason why the image cannot be flashed onto such a machine; none means it fits.

    A `boot_mode` of None leaves the firmware unasked (a device that this machine does not boot).
    """
    reasons: list[str] = []
    if statement.architecture != architecture:
        reasons.append(f"it is for {statement.architecture}, this machine is {architecture}")
    if boot_mode is not None and boot_mode not in statement.boot_modes:
        modes = " and ".join(statement.boot_modes) or "no firmware"
        reasons.append(f"it boots with {modes}, this machine starts with {boot_mode}")
    if statement.sector_size != sector_size:
        reasons.append(
            f"it is laid out for sectors of {statement.sector_size} bytes, "
            f"the device has {sector_size}"
        )
    if statement.image_size > device_size:
        reasons.append(f"it has {statement.image_size} bytes, the device only {device_size}")
    return tuple(reasons)


def expiry(statement: Statement, *, now: int) -> tuple[str, ...]:
    """The reason why the image may not be used any more at `now`, seconds since 1970; or none.

    Asked once, at the start of a run: a flash that has begun does not stop for the clock.
    """
    if statement.expires and now >= statement.expires:
        return (f"it expired {now - statement.expires} seconds ago",)
    return ()


def require_fit(statement: Statement, reasons: tuple[str, ...]) -> None:
    """Raises UnfitImage with all `reasons`, if there are any."""
    if reasons:
        raise UnfitImage(statement.name, "; ".join(reasons))


def dump(statement: Statement) -> bytes:
    """The statement in its one spelling. Raises MalformedDocument where no reader would take it."""
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "name": statement.name,
        "sequence": statement.sequence,
        "created": statement.created,
        "expires": statement.expires,
        "architecture": statement.architecture,
        "boot_modes": list(statement.boot_modes),
        "sector_size": statement.sector_size,
        "image_size": statement.image_size,
        "digest": statement.digest.hex(),
        "source": {"ami": statement.source_ami, "snapshot": statement.source_snapshot},
        "table": _dump_blob(statement.table),
    }
    if statement.ramos is not None:
        value["ramos"] = {
            "kernel": _dump_blob(statement.ramos.kernel),
            "initramfs": _dump_blob(statement.ramos.initramfs),
        }
    data = document.dump(value)
    load(data)
    return data


def load(data: bytes) -> Statement:
    """The statement in `data`. Raises MalformedDocument."""
    fields = document.load(data, what="statement")
    schema = fields.text("schema")
    if schema != SCHEMA:
        raise fields.fail(f"schema {schema[:40]!r} is not known here, only {SCHEMA}")
    source = fields.object("source")
    ramos = None
    if fields.has("ramos"):
        parts = fields.object("ramos")
        ramos = RamOs(_load_blob(parts.object("kernel")), _load_blob(parts.object("initramfs")))
        parts.finish()
    statement = Statement(
        name=fields.text("name"),
        image_size=fields.number("image_size", low=1),
        digest=fields.digest("digest"),
        table=_load_blob(fields.object("table")),
        architecture=fields.text("architecture"),
        boot_modes=fields.texts("boot_modes", cap=2),
        sector_size=fields.number("sector_size"),
        created=fields.number("created"),
        sequence=fields.number("sequence"),
        expires=fields.number("expires"),
        source_ami=source.text("ami", cap=64),
        source_snapshot=source.text("snapshot", cap=64),
        ramos=ramos,
    )
    source.finish()
    fields.finish()
    return statement


def _dump_blob(blob: Blob) -> dict[str, Any]:
    return {"sha256": blob.digest.hex(), "length": blob.length}


def _load_blob(fields: document.Fields) -> Blob:
    blob = Blob(fields.digest("sha256"), fields.number("length", low=1))
    fields.finish()
    return blob
