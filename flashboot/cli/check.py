"""`flashboot check`: may this node be flashed? Every reason at once; nothing changes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flashboot.cli import opening, output
from flashboot.cli.parser import add_store, add_verb, size
from flashboot.errors import Refused
from flashboot.units import MIB

if TYPE_CHECKING:
    from flashboot.cli.parser import Parser, Verbs
    from flashboot.node.check import Wish
    from flashboot.node.findings import Finding

_BUDGET = 256 * MIB


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "check",
        run=run,
        summary="may this node be flashed? every reason at once",
        description=(
            "Look at this machine and, with --image, at the image, and print everything that\n"
            "speaks against a flash. Nothing changes. Exit code 50 if something does."
        ),
        example="flashboot check --image app-42 --store s3://images/prod",
    )
    parser.add_argument("--image", metavar="NAME", help="the image that the node shall get")
    add_wish(parser)


def add_wish(parser: "Parser") -> None:
    """The options that `check` and `stage` share."""
    add_store(parser)
    parser.add_argument(
        "--instance-id", metavar="ID", default="", help="do not ask the metadata service for it"
    )
    parser.add_argument(
        "--budget",
        type=size,
        default=_BUDGET,
        metavar="SIZE",
        help="memory for the flash (default 256M)",
    )
    parser.add_argument(
        "--ssh-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="authorized keys for the RAM OS, beside those of this system; may be repeated",
    )


def wish(arguments: argparse.Namespace) -> "Wish":
    """What the options ask for. Raises UsageError."""
    from flashboot.node.check import Wish

    return Wish(
        image=arguments.image or "",
        store=opening.store_url(arguments) if arguments.image else "",
        instance=arguments.instance_id,
        budget=arguments.budget,
        keys=tuple(arguments.ssh_key),
    )


def run(arguments: argparse.Namespace) -> int:
    from flashboot.node import check, findings, local

    checked = check.check(local.open_node(ask_region=True), wish(arguments))
    against = findings.refusals(checked.findings)
    value = {
        "flashable": not against,
        "image": arguments.image or "",
        "findings": findings.values(checked.findings),
    }
    verdict = "This node can be flashed."
    if against:
        number = output.counted(len(against), "reason", "reasons")
        verdict = f"This node cannot be flashed: {number}."
    lines = [*map(line, checked.findings), verdict]
    output.result(value, "\n".join(lines), as_json=arguments.json)
    return Refused.exit_code if against else 0


def line(finding: "Finding") -> str:
    """A finding for people."""
    remedy = f"\n{'':9}-> {finding.remedy}" if finding.remedy else ""
    return f"{finding.severity.value:8} {finding.cause}{remedy}"
