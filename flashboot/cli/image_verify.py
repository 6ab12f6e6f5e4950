"""`flashboot image verify`: does the store, or a device, hold what was published?"""

import argparse
from typing import TYPE_CHECKING, Any

from flashboot.cli import opening, output
from flashboot.cli.parser import add_store, add_verb
from flashboot.cli.progress import Meter
from flashboot.errors import ChunkMismatch, NotVerified
from flashboot.units import format_size

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs
    from flashboot.image.extents import Extent
    from flashboot.publish.verify import StoreCheck
    from flashboot.store.catalog import Published

_SHOWN = 5  # wrong extents and objects named in text; JSON has all


class StoreDiffers(ChunkMismatch):
    """The store at {} does not hold image {}: {} wrong, the first in {}: {}."""

    hint = "mend it: `flashboot image publish --repair` from the same disk; look who wrote there"


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "verify",
        run=run,
        summary="compare a store, or a device, with what was published",
        description=(
            "Fetch every stored byte of an image and compare its digest with the table's "
            "(exit code 40 where one differs); with --device, read that device instead "
            "and compare it with the image, chunk by chunk (exit code 41)."
        ),
        example="flashboot image verify app-42 --store s3://images/prod",
    )
    parser.add_argument("image", metavar="NAME", help="the image")
    add_store(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--device", metavar="DEV|FILE", help="compare this device or file; it is only read"
    )
    what.add_argument("--quick", action="store_true", help="only ask for objects and their lengths")


def run(arguments: argparse.Namespace) -> int:
    from flashboot.store import catalog

    store = opening.store_of(arguments)
    image = catalog.fetch_image(store, arguments.image)
    if arguments.device is not None:
        return _verify_device(arguments, image)
    from flashboot.publish.verify import verify_stored

    with Meter("verifying", quiet=arguments.quiet) as progress:
        check = verify_stored(image, store, quick=arguments.quick, progress=progress)
    value = {
        "image": arguments.image,
        "store": store.url,
        "verified": not check.wrong,
        "quick": arguments.quick,
        "packs": check.packs,
        "stored_chunks": check.stored_chunks,
        "bytes_read": check.bytes_read,
        "wrong": [
            {"key": fault.key, "chunk": fault.chunk, "problem": fault.problem}
            for fault in check.wrong
        ],
    }
    if not check.wrong:
        output.result(value, _good_store(arguments, check), as_json=arguments.json)
        return 0
    for fault in check.wrong[:_SHOWN]:
        place = "" if fault.chunk is None else f", chunk {fault.chunk}"
        output.say(f"wrong: {fault.key}{place}: {fault.problem}")
    first = check.wrong[0]
    count = output.counted(len(check.wrong), "object or chunk is", "objects or chunks are")
    error = StoreDiffers(store.url, arguments.image, count, first.key, first.problem)
    return output.failed(value, error, as_json=arguments.json)


def _good_store(arguments: argparse.Namespace, check: "StoreCheck") -> str:
    if arguments.quick:
        packs = output.counted(check.packs, "pack is", "packs are")
        return f"{arguments.image}: {packs} there, with the right length; no byte was read"
    chunks = output.counted(check.stored_chunks, "stored chunk", "stored chunks")
    return (
        f"{arguments.image}: verified, {chunks} in "
        f"{output.counted(check.packs, 'pack', 'packs')}, "
        f"{format_size(check.bytes_read)} read"
    )


def _verify_device(arguments: argparse.Namespace, image: "Published") -> int:
    from flashboot.flasher.survey import read_back
    from flashboot.image.protocol import mismatches
    from flashboot.machine.device import open_device

    table = image.table
    with (
        open_device(arguments.device, writable=False) as device,
        Meter("verifying", quiet=arguments.quiet) as progress,
    ):
        if device.size < table.image_size:
            raise NotVerified(
                device.path,
                f"it has {format_size(device.size)}, the image {format_size(table.image_size)}",
            )
        observed = read_back(device, table, advance=progress.counter(table.image_size))
    wrong = mismatches(table, observed)
    extents = _extents(wrong, image)
    value: dict[str, Any] = {
        "image": arguments.image,
        "device": arguments.device,
        "verified": not wrong,
        "chunks": len(table.chunks),
        "bytes_read": table.image_size,
        "wrong_chunks": len(wrong),
        "wrong": [{"offset": extent.offset, "length": extent.length} for extent in extents],
    }
    if not wrong:
        text = (
            f"{arguments.device} holds {arguments.image}: all {len(table.chunks)} chunks, "
            f"{format_size(table.image_size)}"
        )
        output.result(value, text, as_json=arguments.json)
        return 0
    shown = ", ".join(f"{extent.offset}+{extent.length}" for extent in extents[:_SHOWN])
    more = f" and {len(extents) - _SHOWN} more" if len(extents) > _SHOWN else ""
    problem = f"{len(wrong)} of {len(table.chunks)} chunks differ, in the bytes {shown}{more}"
    return output.failed(value, NotVerified(arguments.device, problem), as_json=arguments.json)


def _extents(wrong: tuple[int, ...], image: "Published") -> "tuple[Extent, ...]":
    from flashboot.image.extents import Extent, merge
    from flashboot.image.table import CHUNK_SIZE

    return merge(Extent(index * CHUNK_SIZE, image.table.length_of(index)) for index in wrong)
