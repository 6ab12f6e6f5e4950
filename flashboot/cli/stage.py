"""`flashboot stage`: make a flash ready, in memory, with no effect on the serving system."""

import argparse
from typing import TYPE_CHECKING, Any

from flashboot.cli import output
from flashboot.cli.check import add_wish, line, wish
from flashboot.cli.parser import add_dry_run, add_verb

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs
    from flashboot.node.check import Checked
    from flashboot.node.findings import Finding
    from flashboot.node.stage import Plan


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "stage",
        run=run,
        summary="make a flash ready; the node serves on",
        description=(
            "Check everything, fetch and verify the image's documents and its RAM OS, and load\n"
            "them for kexec. No disk changes but for a state file; `flashboot cancel` undoes it."
        ),
        example="flashboot stage --image app-42 --store s3://images/prod",
    )
    parser.add_argument("--image", metavar="NAME", required=True, help="the image's name")
    add_wish(parser)
    parser.add_argument(
        "--tail",
        choices=("signatures", "zero"),
        default="signatures",
        help="beyond the image: erase old signatures (the default) or zero all",
    )
    parser.add_argument("--ntp", default="", metavar="HOST", help="a clock for the RAM OS")
    parser.add_argument(
        "--dns", action="append", default=[], metavar="ADDRESS", help="if DHCP names none"
    )
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=600,
        metavar="SECONDS",
        help="how long the RAM OS asks a silent store before it gives the node back (default 600)",
    )
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    from flashboot.image.protocol import Tail
    from flashboot.node import check, local, report, stage

    node = local.open_node(ask_region=True)
    options = stage.StageOptions(
        wish=wish(arguments),
        tail=Tail(arguments.tail),
        ntp=arguments.ntp,
        dns=tuple(arguments.dns),
        patience_seconds=arguments.patience,
    )
    checked = check.check(node, options.wish)
    for finding in _worth_telling(checked):
        output.say(line(finding))
    if arguments.dry_run:
        plan = stage.plan(node, options, checked)
        for number, words in enumerate(_flash_plan(plan), 1):
            output.say(f"plan {number}: {words}")
        said = "would be staged; nothing was changed"
    else:
        plan = stage.stage(node, options, checked)
        said = f"is staged; {report.LEAVE} leaves for it"
    text = f"image {plan.staged.run.image} {said}"
    output.result(_value(plan, dry_run=arguments.dry_run), text, as_json=arguments.json)
    return 0


def _worth_telling(checked: "Checked") -> list["Finding"]:
    """Warnings; and refusals where they are several: the error puts them into one line."""
    from flashboot.node import findings

    against = findings.refusals(checked.findings)
    told = {"warning", "refusal"} if len(against) > 1 else {"warning"}
    return [finding for finding in checked.findings if finding.severity in told]


def _flash_plan(plan: "Plan") -> tuple[str, ...]:
    """What the RAM OS would do, a line each."""
    from flashboot.flasher.plan import describe, make_plan

    published, wanted = plan.checked.facts.published, plan.bundle.handoff
    if published is None:
        return ()
    root = wanted.root
    return describe(
        make_plan(
            published.table,
            device_size=root.size,
            sector_size=root.sector_size,
            tail=wanted.tail,
        )
    )


def _value(plan: "Plan", *, dry_run: bool) -> dict[str, Any]:
    from flashboot import handoff
    from flashboot.node import findings

    run, root = plan.staged.run, plan.bundle.handoff.root
    return {
        "run": run.name,
        "image": run.image,
        "digest": run.digest,
        "store": run.store,
        "instance": run.instance,
        "root": {"serial": root.serial, "size": root.size, "sector_size": root.sector_size},
        "command_line": plan.command_line,
        "handoff": sorted(handoff.files(plan.bundle)),  # names only: it holds private keys
        "staged_at": plan.staged.staged_at,
        "dry_run": dry_run,
        "plan": list(_flash_plan(plan)),
        "findings": findings.values(plan.checked.findings),
    }


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 86400 seconds")
    return int(text)
