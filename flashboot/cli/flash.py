"""`flashboot flash`: leave for the RAM OS, which gives this node its new system."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flashboot.cli import output
from flashboot.cli.parser import add_dry_run, add_verb, add_yes

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs
    from flashboot.node.flash import Departure

_HOOKS = Path("/etc/flashboot/hooks.d")


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "flash",
        run=run,
        summary="stop the services, unmount the data, flash what is staged",
        description=(
            "Leave this system in order: hooks, page cache, services, data filesystems, arrays;\n"
            "then kexec through systemd. If anything fails before, all of it is undone.\n"
            "A power cut while the RAM OS writes leaves a disk that does not boot: that is what\n"
            "--unprotected accepts."
        ),
        example="flashboot flash --unprotected --yes --service cassandra.service",
    )
    parser.add_argument(
        "--unprotected", action="store_true", help="accept that a power cut costs the root volume"
    )
    parser.add_argument(
        "--hooks", type=Path, default=_HOOKS, metavar="DIR", help=f"default {_HOOKS}"
    )
    parser.add_argument(
        "--service",
        action="append",
        default=[],
        metavar="UNIT",
        help="stop it too; whoever holds the data is found and stopped anyway",
    )
    parser.add_argument(
        "--keep-service", action="append", default=[], metavar="UNIT", help="never stop this one"
    )
    parser.add_argument(
        "--kill", action="store_true", help="end processes of login sessions that hold the data"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=120.0,
        metavar="SECONDS",
        help="for each step (default 120)",
    )
    add_dry_run(parser)
    add_yes(parser)


def run(arguments: argparse.Namespace) -> int:
    from flashboot.node import flash, local
    from flashboot.node.leaving import FlashOptions

    node = local.open_node()
    options = FlashOptions(
        hooks=arguments.hooks,
        services=tuple(arguments.service),
        kept=tuple(arguments.keep_service),
        kill=arguments.kill,
        timeout_seconds=arguments.timeout,
    )
    if arguments.dry_run:
        departure = flash.plan(node, options)
        value = {
            "run": departure.staged.run.name,
            "image": departure.staged.run.image,
            "dry_run": True,
            "steps": departure.items,
        }
        output.result(value, _text(departure), as_json=arguments.json)
        return 0
    flash.flash(node, options, unprotected=arguments.unprotected, confirmed=arguments.yes)
    return 0


def _text(departure: "Departure") -> str:
    run = departure.staged.run
    lines = [f"would leave for image {run.image} (run {run.name}); nothing was changed"]
    lines += [f"{name:10} {', '.join(items) or '-'}" for name, items in departure.items.items()]
    return "\n".join(lines)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 86400 seconds")
    return value
