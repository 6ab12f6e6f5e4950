"""The command `happycache`: options in, one call, result out."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from happycache import __version__
from happycache.errors import HappycacheError, NotReady, explain
from happycache.progress import Progress

# More warnings than this are counted, not shown: a tree of a stranger may have a million files.
_WARNINGS_SHOWN = 20

_EXAMPLES = """\
examples:
  happycache dump -o /data/.flashboot/residency.map /data
  happycache load /data/.flashboot/residency.map
  happycache load --root /data=/mnt/data --ready-share 90 residency.map
  happycache show --json residency.map | jq .bytes

exit codes:
  0 done   1 unexpected   2 usage   3 fewer pages in memory than wanted
  10-15 the map (unreadable, malformed, too large, damaged, version, unwritable)
  20 not a directory   21 --root does not fit   130, 143 interrupted
"""


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that it cleans up as Ctrl-C does."""


class _Warnings:
    """Words for people about single files, at most some of them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._count = 0

    def say(self, text: str) -> None:
        self._count += 1
        if self._count <= _WARNINGS_SHOWN:
            self._progress.close()
            print(f"warning: {text}", file=sys.stderr)

    def close(self) -> None:
        if self._count > _WARNINGS_SHOWN:
            print(f"warning: {self._count - _WARNINGS_SHOWN:,} more like these", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    # Names of files may be any bytes; a result must not fail on them.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = run(options)
        sys.stdout.flush()
        return code
    except HappycacheError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: Interrupted; nothing was left behind.", file=sys.stderr)
        return 128 + signal.SIGINT
    except _Terminated:
        print("error: Terminated; nothing was left behind.", file=sys.stderr)
        return 128 + signal.SIGTERM
    except BrokenPipeError:
        # The reader has enough (`happycache show MAP | head`). Python would complain once more at
        # exit, when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _print(options: argparse.Namespace, as_json: Callable[[], object], text: str) -> None:
    if options.json:
        print(json.dumps(as_json()))
    else:
        print(text)


def _dump(options: argparse.Namespace) -> int:
    from happycache import dump, report

    progress = Progress("dumping", sys.stderr)
    warnings = _Warnings(progress)
    try:
        result = dump.dump(
            options.output,
            options.directories,
            jobs=options.jobs or dump.DEFAULT_JOBS,
            one_file_system=options.one_file_system,
            warn=warnings.say,
            show=progress.show,
        )
    finally:
        progress.close()
        warnings.close()
    _print(options, lambda: report.dump_json(result), report.dump_text(result))
    return 0


def _load(options: argparse.Namespace) -> int:
    from happycache import load, report

    progress = Progress("loading", sys.stderr)
    warnings = _Warnings(progress)
    try:
        result = load.load(
            options.map,
            load.LoadOptions(
                jobs=options.jobs,
                roots=tuple(options.root),
                ready_share=options.ready_share,
                deadline_seconds=options.deadline,
            ),
            warn=warnings.say,
            show=lambda text, share: progress.show(text, share=share),
        )
    finally:
        progress.close()
        warnings.close()
    _print(options, lambda: report.load_json(result), report.load_text(result))
    if not result.ready:
        why = {
            "memory": ", memory became low",
            "deadline": ", the deadline passed",
            None: "",
        }[result.stopped]
        sys.stdout.flush()
        raise NotReady(result.ready_share, result.wanted_share, why)
    if result.stopped:
        print(f"warning: loading ended early: {result.stopped}", file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    from happycache import report, show

    summary = show.summarize(options.map, top=options.top)
    _print(options, lambda: report.show_json(summary), report.show_text(summary))
    return 0


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 1024")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a time to wait")
    return value


def _move(text: str) -> tuple[str, str]:
    old, separator, new = text.partition("=")
    if not (old and separator and new):
        raise argparse.ArgumentTypeError(f"{text} is not OLD=NEW")
    return old, new


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="happycache",
        description="Remember which file pages are in the page cache, and bring them back.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"happycache {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    dump = verbs.add_parser(
        "dump",
        help="write which pages of files below directories are in memory",
        description="Write a map of the pages of regular files below DIR that are in memory. "
        "No page is touched, no symbolic link followed.",
    )
    dump.add_argument("directories", nargs="+", metavar="DIR", help="directory to look through")
    dump.add_argument("-o", "--output", required=True, metavar="MAP", help="the map to write")
    dump.add_argument("--json", action="store_true", help="the result as JSON")
    dump.add_argument("--jobs", type=_count, metavar="N", help="threads (one a core, at most 4)")
    dump.add_argument(
        "-x", "--one-file-system", action="store_true", help="do not enter other filesystems"
    )
    dump.set_defaults(run=_dump)

    load = verbs.add_parser(
        "load",
        help="bring the pages of a map back into memory",
        description="Read the pages of MAP into memory and confirm that they are there.",
    )
    load.add_argument("map", metavar="MAP", help="the map that dump wrote")
    load.add_argument("--json", action="store_true", help="the result as JSON")
    load.add_argument(
        "--jobs", type=_count, default=4, metavar="N", help="threads (default: %(default)s)"
    )
    load.add_argument(
        "--root",
        type=_move,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="a directory of the map lies elsewhere now; may be repeated",
    )
    load.add_argument(
        "--ready-share",
        type=_share,
        default=95.0,
        metavar="PERCENT",
        help="pages that must be in memory at the end, else exit 3 (default: %(default)g)",
    )
    load.add_argument(
        "--deadline",
        type=_seconds,
        default=3600.0,
        metavar="SECONDS",
        help="end loading after this time (default: %(default)g)",
    )
    load.set_defaults(run=_load)

    show = verbs.add_parser(
        "show", help="print what a map holds", description="Check MAP and print what it holds."
    )
    show.add_argument("map", metavar="MAP", help="the map that dump wrote")
    show.add_argument("--json", action="store_true", help="the result as JSON")
    show.add_argument(
        "--top",
        type=_natural,
        default=10,
        metavar="N",
        help="directories in the table (default: %(default)s)",
    )
    show.set_defaults(run=_show)
    return parser
