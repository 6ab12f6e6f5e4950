"""`flashboot VERB ...`: find the verb, run it, and turn every ending into an exit code.

This is the only place that prints errors and the only one that decides on tracebacks.
"""

import os
import sys
import traceback
from collections.abc import Sequence

import flashboot
from flashboot.cli import (
    arrive,
    cancel,
    check,
    environment,
    exit_codes,
    flash,
    image,
    interrupts,
    output,
    stage,
    status,
)
from flashboot.cli.parser import Parser
from flashboot.errors import FlashbootError, Interrupted

# In the order of the help. A verb is one module with register() and run(); add it here.
VERBS = (image, check, stage, cancel, flash, status, arrive, exit_codes)

_BROKEN_PIPE = 128 + 13  # what a shell says of a program that SIGPIPE ended


class Bug(FlashbootError):
    """{}: {}; this is a bug in flashboot."""

    hint = "run it again with --debug and report what it prints"


def make_parser() -> Parser:
    """The parser of the whole command."""
    parser = Parser(
        prog="flashboot",
        description="A new operating system on a running node: in minutes, data untouched.",
        epilog="example:\n  flashboot image publish disk.raw --name app-42 \\\n"
        "      --store file:///srv/images",
    )
    parser.add_argument("--version", action="version", version=f"flashboot {flashboot.__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    for module in VERBS:
        module.register(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Never raises."""
    words = sys.argv[1:] if argv is None else list(argv)
    as_json = "--json" in words
    debug = "--debug" in words or os.environ.get("FLASHBOOT_DEBUG") == "1"
    try:
        arguments = make_parser().parse_args(words)
        environment.load()
        with interrupts.watched():
            code: int = arguments.run(arguments)
        sys.stdout.flush()
    except SystemExit as left:  # argparse after --help and --version
        return left.code if isinstance(left.code, int) else 0
    except BrokenPipeError:
        # The reader has gone (`| head`). Python flushes stdout at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _fail(Interrupted(), as_json=as_json, debug=debug)
    except FlashbootError as error:
        return _fail(error, as_json=as_json, debug=debug)
    except Exception as error:  # noqa: BLE001  # the last line of defence: no verb may end in a traceback
        bug = Bug(type(error).__name__, str(error) or "no message")
        return _fail(bug, as_json=as_json, debug=debug)
    return code


def _fail(error: FlashbootError, *, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    output.error(error, as_json=as_json)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
