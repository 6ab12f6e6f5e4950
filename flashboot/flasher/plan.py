"""The plan of a flash, as a value: what will be read, fetched at most, written at most, and where.

Pure: it is made from the table and the device's size, and printed before anything happens.
"""

from dataclasses import dataclass

from flashboot.image import protocol
from flashboot.image.protocol import Step, Tail
from flashboot.image.table import CHUNK_SIZE, ChunkTable
from flashboot.units import format_size


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes: `zero` of the image's are zeroes, `stored` is what all its chunks take in packs."""

    image_size: int
    device_size: int
    chunks: int
    zero: int
    stored: int
    steps: tuple[Step, ...]


def make_plan(table: ChunkTable, *, device_size: int, sector_size: int, tail: Tail) -> Plan:
    """The plan for putting the image of `table` onto a device."""
    zero = sum(table.length_of(index) for index, chunk in enumerate(table.chunks) if chunk.is_zero)
    seen = {(place.pack, place.offset): place.stored for _, _, place in table.stored_chunks()}
    return Plan(
        image_size=table.image_size,
        device_size=device_size,
        chunks=len(table.chunks),
        zero=zero,
        stored=sum(seen.values()),
        steps=protocol.unprotected(
            image_size=table.image_size,
            device_size=device_size,
            sector_size=sector_size,
            tail=tail,
        ),
    )


def describe(plan: Plan) -> tuple[str, ...]:
    """The plan for people, a line each."""
    size = (
        f"image {format_size(plan.image_size)} in {plan.chunks} chunks of "
        f"{format_size(CHUNK_SIZE)}, {format_size(plan.zero)} of it zeroes, "
        f"{format_size(plan.stored)} stored; device {format_size(plan.device_size)}"
    )
    lines = [
        size,
        "read the device, fetch and verify what differs; nothing is written yet",
    ]
    lines += [f"step {number}: {_sentence(step)}" for number, step in enumerate(plan.steps, 1)]
    return tuple(lines)


def _sentence(step: Step) -> str:
    match step:
        case protocol.ClearHead():
            return "clear sector 0: from here a power cut leaves a disk that does not boot"
        case protocol.WriteBody():
            return "write every chunk that differs, all but sector 0"
        case protocol.EraseTail(extents):
            size = format_size(sum(extent.length for extent in extents))
            return f"zero {size} beyond the image, where old signatures lie"
        case protocol.Flush():
            return "flush"
        case protocol.ReadBack():
            return "read every byte back and compare"
        case protocol.CommitHead():
            return "write sector 0: the device boots the new image from here on"
