"""Where words go: results to stdout, everything for people to stderr, errors to both.

With --json stdout holds exactly one JSON object, whether the verb succeeded or not; its keys are
an interface: they are added to, never renamed.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from flashboot.errors import FlashbootError, explain


def result(value: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """The verb's result: `value` where JSON was asked for, else `text`."""
    print(json.dumps(value, indent=2) if as_json else text)


def say(text: str) -> None:
    """A line for people."""
    print(f"flashboot: {text}", file=sys.stderr)


def error(cause: FlashbootError, *, as_json: bool) -> None:
    """The one line that an error ends in, and its object where JSON was asked for."""
    say(f"error: {explain(cause)}")
    if as_json:
        print(json.dumps({"error": error_json(cause)}, indent=2))


def failed(value: Mapping[str, Any], cause: FlashbootError, *, as_json: bool) -> int:
    """A verb that has a result and an error: as JSON, the result with the error in it.

    The exit code of the error.
    """
    say(f"error: {explain(cause)}")
    if as_json:
        print(json.dumps({**value, "error": error_json(cause)}, indent=2))
    return cause.exit_code


def error_json(cause: FlashbootError) -> dict[str, Any]:
    """What programs see of an error; its kind and exit code are what to branch on."""
    return {
        "kind": type(cause).__name__,
        "message": explain(cause).removesuffix(f" [{cause.advice}]"),
        "exit_code": cause.exit_code,
        "hint": cause.advice,
    }


def counted(number: int, one: str, many: str) -> str:
    """'1 pack', '2 packs'."""
    return f"{number} {one if number == 1 else many}"


def table(rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> str:
    """`rows`, the first the headings, in columns; those in `numeric` are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, rows))


def fields(pairs: Sequence[tuple[str, str]]) -> str:
    """Named values, one a line, their values in one column; those without value are left out."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs if value)
