"""`image write`: the engine on a device that is not the root of this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flashboot.flasher import flash
from flashboot.flasher.source import StoreSource
from flashboot.image import protocol
from flashboot.image.protocol import Tail
from flashboot.image.statement import check_fit, require_fit
from flashboot.machine.device import Device
from flashboot.store.base import Store
from flashboot.store.catalog import Published
from flashboot.units import MIB

# Called with a phase's name, bytes done and bytes in all.
PhaseProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did: chunks in the image and of them differing, bytes, seconds by phase."""

    chunks: int
    differing: int
    bytes_fetched: int
    bytes_written: int
    digest: bytes
    seconds: dict[str, float] = field(default_factory=dict)


def write_image(
    store: Store,
    published: Published,
    device: Device,
    *,
    budget: int = 256 * MIB,
    tail: Tail = Tail.SIGNATURES,
    progress: PhaseProgress = lambda phase, done, total: None,
) -> WriteResult:
    """Make `device` hold the image: clear its head, write what differs, read all back, commit.

    Raises UnfitImage before anything is written; ChunkMismatch, DeviceFailed, NotVerified and what
    the store raises leave a device that does not boot, and the same call again completes it.
    """
    statement, table = published.statement, published.table
    require_fit(
        statement,
        check_fit(
            statement,
            architecture=statement.architecture,
            boot_mode=None,
            device_size=device.size,
            sector_size=statement.sector_size if _is_file(device) else device.sector_size,
        ),
    )
    steps = protocol.unprotected(
        image_size=table.image_size,
        device_size=device.size,
        sector_size=device.sector_size,
        tail=tail,
    )
    target = flash.Target(statement.name, table, device, steps, budget)
    source = StoreSource(store, table)
    seconds: dict[str, float] = {}

    def watch(phase: str) -> flash.Progress:
        return lambda done, total: progress(phase, done, total)

    start = time.monotonic()
    flash.clear(target)
    written = flash.write_streaming(target, source, progress=watch("write"))
    seconds["write"] = time.monotonic() - start
    verified = flash.verify(target, source, written, progress=watch("verify"))
    seconds["verify"] = time.monotonic() - start - seconds["write"]
    flash.commit(target, verified)
    return WriteResult(
        chunks=len(table.chunks),
        differing=written.differing,
        bytes_fetched=source.fetched,
        bytes_written=written.written,
        digest=statement.digest,
        seconds=seconds,
    )


def _is_file(device: Device) -> bool:
    """A regular file holds an image of any sector size; its own 512 mean nothing."""
    return not getattr(device, "is_block_device", True)
