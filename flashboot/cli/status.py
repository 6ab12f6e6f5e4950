"""`flashboot status`: what is staged, or what became of the last run."""

import argparse
from typing import TYPE_CHECKING

from flashboot.cli import output
from flashboot.cli.parser import add_verb

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs


def register(verbs: "Verbs") -> None:
    add_verb(
        verbs,
        "status",
        run=run,
        summary="what is staged, or what became of the last run",
        description=(
            "Say what is staged, or how the last flash ended: from this system, the record in\n"
            "the store and the instance's tags. Waits some seconds for them, then says who is\n"
            "silent."
        ),
        example="flashboot status --json",
    )


def run(arguments: argparse.Namespace) -> int:
    from flashboot.node import local, report, status

    found = status.status(local.open_node(ask_region=True))
    lines = [found.text, *(f"not heard: {problem}" for problem in found.problems)]
    output.result(report.value(found), "\n".join(lines), as_json=arguments.json)
    return 0
