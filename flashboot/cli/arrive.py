"""`flashboot arrive`: at the first boot of the new system compare, rewarm, say ready."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flashboot.cli import output
from flashboot.cli.parser import add_verb

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs

_HOOKS = Path("/etc/flashboot/hooks.d")


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "arrive",
        run=run,
        summary="first boot: compare, warm the page cache, say ready",
        description=(
            "Run by a systemd unit at boot. Compare this system with the flasher's record, bring\n"
            "the page cache back, run the hooks of after-arrive, report. Done once; after that,\n"
            "and where no flash happened, it does nothing."
        ),
        example="flashboot arrive --json",
    )
    parser.add_argument(
        "--hooks", type=Path, default=_HOOKS, metavar="DIR", help=f"default {_HOOKS}"
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=120,
        metavar="SECONDS",
        help="how long to ask for the record (default 120)",
    )


def run(arguments: argparse.Namespace) -> int:
    from flashboot.node import arrive, local

    options = arrive.ArriveOptions(
        hooks=arguments.hooks, patience_seconds=max(0, arguments.patience)
    )
    found = arrive.arrive(local.open_node(), options)
    value = {
        "outcome": found.outcome.value,
        "text": found.text,
        "run": found.run.name if found.run else "",
        "image": found.run.image if found.run else "",
        "digest": found.run.digest if found.run else "",
        "disk_guid": found.disk_guid,
        "asked_pages": found.figures.asked,
        "resident_pages": found.figures.resident,
        "loaded_pages": found.figures.loaded,
    }
    output.result(value, found.text, as_json=arguments.json)
    return 0
