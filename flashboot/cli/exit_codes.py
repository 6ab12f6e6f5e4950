"""`flashboot exit-codes`: the table of docs/exit-codes.md, from the errors themselves."""

import argparse
from typing import TYPE_CHECKING

from flashboot import errors
from flashboot.cli import output
from flashboot.errors import FlashbootError

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs

_HEAD = """\
# Exit codes

Every error has its own sentence and exit code; 0 is success.
This page is written by `flashboot exit-codes`, a test compares the two.

| code | error | it says | what to do |
| ---: | --- | --- | --- |
| 0 | | the verb did what it says | |
"""


def register(verbs: "Verbs") -> None:
    # Without a summary it is not listed: it serves the documentation only.
    parser = verbs.add_parser("exit-codes", description="Print docs/exit-codes.md.")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    output.result({}, page().rstrip("\n"), as_json=False)
    return 0


def page() -> str:
    """docs/exit-codes.md."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, FlashbootError)
        and kind is not FlashbootError
    ]
    rows = [
        f"| {kind.exit_code} | {kind.__name__} | {_sentence(kind)} | {kind.hint} |"
        for kind in sorted(kinds, key=lambda kind: kind.exit_code)
    ]
    bug = "| 1 | Bug | an unexpected error, with its name | say --debug and report it |"
    return _HEAD + "\n".join((bug, *rows)) + "\n"


def _sentence(kind: type[FlashbootError]) -> str:
    sentence = (kind.__doc__ or "").replace("{}", "…").replace("|", "\\|")
    return "what is wrong with the command line" if sentence == "…" else sentence
