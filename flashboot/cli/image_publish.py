"""`flashboot image publish`: a disk becomes an image in a store."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashboot.cli import opening, output
from flashboot.cli.describe import statement_json
from flashboot.cli.parser import add_dry_run, add_store, add_verb, count, instant
from flashboot.cli.progress import Meter
from flashboot.units import format_rate, format_size

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs
    from flashboot.publish.publish import PublishResult


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "publish",
        run=run,
        summary="make an image of a file or a device",
        description=(
            "Make an image of a disk image file or a block device and store it. "
            "Only what the store does not have yet is sent; the same command said again "
            "continues where it broke off, and does nothing if all is there."
        ),
        example="flashboot image publish disk.raw --name app-42 --store s3://images/prod",
    )
    parser.add_argument("source", metavar="FILE|DEVICE", help="what is published; only read")
    parser.add_argument(
        "--name", "--image", required=True, metavar="NAME", help="the image's name, for ever"
    )
    add_store(parser)
    parser.add_argument(
        "--ramos", type=Path, metavar="DIR", help="pin the RAM OS that live-initramfs built there"
    )
    base = parser.add_mutually_exclusive_group()
    base.add_argument(
        "--base",
        action="append",
        metavar="NAME",
        help="take known chunks from this image (repeatable; else the 8 newest)",
    )
    base.add_argument("--no-base", action="store_true", help="store every chunk anew")
    parser.add_argument(
        "--boot-mode",
        action="append",
        choices=("bios", "uefi"),
        help="which firmware boots it (repeatable; else found in its head)",
    )
    parser.add_argument(
        "--arch", choices=("x86_64", "aarch64"), help="its architecture (else this machine's)"
    )
    parser.add_argument(
        "--sequence", type=count, default=0, metavar="N", help="its place in its release line"
    )
    parser.add_argument(
        "--expires",
        type=instant,
        default=0,
        metavar="TIME",
        help="2027-01-31, 2027-01-31T12:00Z, or seconds since 1970 (else never)",
    )
    parser.add_argument("--source-ami", default="", metavar="AMI", help="the AMI it was made from")
    parser.add_argument(
        "--source-snapshot", default="", metavar="SNAP", help="the snapshot it was made from"
    )
    parser.add_argument(
        "--live", action="store_true", help="read a device although it is mounted for writing"
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="read back what the store has of it, and send again what is wrong or missing",
    )
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    from flashboot.publish.publish import PublishOptions, publish

    options = PublishOptions(
        boot_modes=tuple(arguments.boot_mode) if arguments.boot_mode else None,
        architecture=arguments.arch,
        sequence=arguments.sequence,
        expires=arguments.expires,
        source_ami=arguments.source_ami,
        source_snapshot=arguments.source_snapshot,
        base=() if arguments.no_base else tuple(arguments.base) if arguments.base else None,
        ramos=arguments.ramos,
        live=arguments.live,
        dry_run=arguments.dry_run,
        repair=arguments.repair,
    )
    with Meter("publishing", quiet=arguments.quiet) as progress:
        result = publish(
            arguments.source,
            opening.store_of(arguments, create=not arguments.dry_run),
            name=arguments.name,
            options=options,
            progress=progress,
        )
    for warning in _warnings(result):
        output.say(f"warning: {warning}")
    value = _json(result, dry_run=arguments.dry_run)
    text = _text(result, dry_run=arguments.dry_run, repair=arguments.repair)
    output.result(value, text, as_json=arguments.json)
    return 0


def _warnings(result: "PublishResult") -> tuple[str, ...]:
    found = list(result.warnings)
    if not result.consistent:
        found.append("the device was mounted for writing: the image may be inconsistent")
    if result.statement.ramos is None:
        found.append("no RAM OS is pinned: `flashboot stage` will refuse it (say --ramos DIR)")
    if not result.statement.boot_modes:
        found.append("no boot code and no EFI system partition found: it boots with no firmware")
    return tuple(found)


def _text(result: "PublishResult", *, dry_run: bool, repair: bool) -> str:
    counts, name = result.counts, result.statement.name
    repaired = _repaired(result.repaired, dry_run=dry_run)
    if result.already_published:
        if not repair:
            return f"{name} is already published, nothing was uploaded"
        if not repaired:
            return f"{name} is already published and whole in the store, nothing was uploaded"
        return f"{name} is already published; {repaired}"
    size = result.statement.image_size
    verb = "would be published" if dry_run else "published"
    return (
        f"{name} {verb}: {format_size(size)} in {result.seconds:.1f} s "
        f"({format_rate(size, result.seconds)})\n"
        f"chunks: {counts.new} new, {counts.known} known, {counts.repeated} repeated, "
        f"{counts.zero} zero\n"
        f"{'to send' if dry_run else 'sent'}: {_objects(result.objects_sent)}, "
        f"{format_size(result.bytes_sent)}; {_objects(result.objects_found)} already there"
        + (f"\ndamaged: {repaired}" if repaired else "")
    )


def _repaired(keys: tuple[str, ...], *, dry_run: bool) -> str:
    """'' where nothing was damaged."""
    if not keys:
        return ""
    verb = "would be" if dry_run else "was" if len(keys) == 1 else "were"
    return f"{_objects(len(keys))} {verb} sent again: {', '.join(keys)}"


def _objects(number: int) -> str:
    return output.counted(number, "object", "objects")


def _json(result: "PublishResult", *, dry_run: bool) -> dict[str, Any]:
    counts = result.counts
    return {
        "image": statement_json(result.statement),
        "already_published": result.already_published,
        "consistent": result.consistent,
        "dry_run": dry_run,
        "chunks": {
            "total": len(result.table.chunks),
            "new": counts.new,
            "known": counts.known,
            "repeated": counts.repeated,
            "zero": counts.zero,
        },
        "objects_sent": result.objects_sent,
        "bytes_sent": result.bytes_sent,
        "objects_found": result.objects_found,
        "seconds": round(result.seconds, 3),
        "mib_per_second": _mib_per_second(result.statement.image_size, result.seconds),
        "warnings": list(_warnings(result)),
        "repaired": list(result.repaired),
    }


def _mib_per_second(count: int, seconds: float) -> float:
    return round(count / 2**20 / seconds, 1) if seconds > 0 else 0.0
