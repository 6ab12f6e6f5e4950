"""`flashboot cancel`: drop what is staged."""

import argparse
from typing import TYPE_CHECKING

from flashboot.cli import output
from flashboot.cli.parser import add_verb

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs


def register(verbs: "Verbs") -> None:
    add_verb(
        verbs,
        "cancel",
        run=run,
        summary="drop what is staged",
        description="Unload what `stage` has loaded. Nothing staged is no error.",
        example="flashboot cancel",
    )


def run(arguments: argparse.Namespace) -> int:
    from flashboot.node import local, stage

    staged = stage.cancel(local.open_node())
    name = staged.run.name if staged else ""
    text = f"run {name} is cancelled" if name else "nothing was staged"
    output.result({"cancelled": bool(name), "run": name}, text, as_json=arguments.json)
    return 0
