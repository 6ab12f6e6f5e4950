"""How verbs describe themselves to argparse, and the options that many of them share."""

import argparse
import datetime
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from flashboot.errors import UsageError
from flashboot.units import parse_size

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction["Parser"]

# Serial consoles have 80 columns; a test holds every help text below it.
HELP_COLUMNS = 79


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=HELP_COLUMNS, max_help_position=24)


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of leaving the program."""

    def __init__(self, **options: object) -> None:
        options.setdefault("formatter_class", _Formatter)
        options.setdefault("allow_abbrev", False)  # --st today must not mean another option later
        super().__init__(**options)  # type: ignore[arg-type]  # argparse's own keywords

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=f"see `{self.prog} --help`")


def add_verb(
    verbs: "Verbs",
    name: str,
    *,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    example: str,
) -> Parser:
    """The parser of a verb, with --json, --quiet and --debug; `run` gets what it parsed.

    The description is one paragraph, wrapped here.
    """
    parser = verbs.add_parser(
        name,
        help=summary,
        description=textwrap.fill(" ".join(description.split()), HELP_COLUMNS),
        epilog=f"example:\n  {example}",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--debug", action="store_true", help="errors with their traceback")
    return parser


def add_group(verbs: "Verbs", name: str, *, summary: str, description: str) -> "Verbs":
    """A noun with verbs of its own: `flashboot image publish`."""
    parser = verbs.add_parser(name, help=summary, description=description)
    return parser.add_subparsers(title="verbs", metavar="VERB", dest=f"{name} verb", required=True)


def add_store(parser: argparse.ArgumentParser) -> None:
    """--store; opening.store_of(arguments) opens what it names."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="s3://BUCKET/PREFIX or file:///DIRECTORY; else $FLASHBOOT_STORE",
    )


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")


def add_yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="go on without being asked")


def size(text: str) -> int:
    """An argument's type: bytes, alone or with K, M, G, T."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str) -> int:
    """An argument's type: a whole number that is not negative."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"not a whole number: {text!r}")
    return int(text)


def instant(text: str) -> int:
    """An argument's type: seconds since 1970, from themselves or an ISO 8601 date or time (UTC)."""
    if text.isdecimal():
        return count(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not a time: {text!r} (write 2027-01-31)") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0, int(moment.timestamp()))
