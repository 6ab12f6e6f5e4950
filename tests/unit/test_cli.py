"""The command itself: the ladder of errors, help, defaults, output."""

import argparse
import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import flashboot
from flashboot.cli import environment, exit_codes, interrupts, main, output
from flashboot.cli.parser import count, instant, size
from flashboot.cli.progress import Meter, PhaseMeter, clock_text, describe
from flashboot.errors import Interrupted, UsageError

ROOT = Path(__file__).parents[2]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its verbs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


ALL = list(parsers(main.make_parser()))
# Neither groups nor what is hidden.
VERBS = [parser for parser in ALL if parser.get_default("run") and "exit-codes" not in parser.prog]


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_help_fits_a_serial_console(parser: argparse.ArgumentParser) -> None:
    assert [line for line in parser.format_help().splitlines() if len(line) > 79] == []


@pytest.mark.parametrize("parser", VERBS, ids=lambda parser: parser.prog)
def test_every_verb_has_an_example_that_it_accepts(parser: argparse.ArgumentParser) -> None:
    epilog = parser.epilog or ""
    words = epilog.replace("\\\n", " ").partition("example:")[2].split()
    assert words[0] == "flashboot"
    arguments = main.make_parser().parse_args(words[1:])
    assert arguments.run is parser.get_default("run")


def test_the_page_of_exit_codes_is_current() -> None:
    hint = "run: flashboot exit-codes > docs/exit-codes.md"
    assert (ROOT / "docs/exit-codes.md").read_text() == exit_codes.page(), hint


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"flashboot {flashboot.__version__}\n"


@pytest.mark.parametrize("words", [[], ["image"], ["nonsense"], ["image", "list", "--st", "x"]])
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("flashboot: error: ")
    assert "--help`]" in printed.err


def test_an_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["image", "show", "--json"]) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert set(error) == {"kind", "message", "exit_code", "hint"}
    assert (error["kind"], error["exit_code"]) == ("UsageError", 2)
    assert error["hint"] not in error["message"]


def break_list(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(arguments: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr("flashboot.cli.image_list.run", fail)


def test_a_bug_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FLASHBOOT_DEBUG", raising=False)
    break_list(monkeypatch, KeyError("lost"))
    assert main.main(["image", "list"]) == 1
    printed = capsys.readouterr().err
    assert "KeyError: 'lost'; this is a bug" in printed
    assert "Traceback" not in printed
    assert main.main(["image", "list", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("FLASHBOOT_DEBUG", "1")
    assert main.main(["image", "list"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted()])
def test_interrupted(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_list(monkeypatch, error)
    assert main.main(["image", "list"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_ctrl_c_ends_the_waiting_of_other_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[bool] = []

    def work(arguments: argparse.Namespace) -> int:
        # As a thread of the work waits for a store while Ctrl-C comes.
        thread = threading.Thread(target=lambda: waited.append(interrupts.cancelled.wait(10)))
        thread.start()
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            thread.join()
        return 0

    monkeypatch.setattr("flashboot.cli.image_list.run", work)
    before = signal.getsignal(signal.SIGINT)
    assert main.main(["image", "list"]) == 130
    assert waited == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_reader_that_left_is_no_error() -> None:
    command = "flashboot.cli.main exit-codes"
    line = f"{sys.executable} -m {command} | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("#0", "#141")


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from flashboot.cli.main import main; main(['--help']); "
        "heavy = {'botocore', 'boto3', 'zstandard', 'cryptography', 'requests', 'psutil',"
        " 'concurrent.futures', 'subprocess', 'ctypes', 'http.client', 'asyncio'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"


def test_defaults_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text(
        "# a comment\n; another\n\nFLASHBOOT_STORE=file:///srv\n"
        "QUOTED='a b'\nDOUBLE=\"c d\"  \nSET=file\nEMPTY=\n"
    )
    values = {"FLASHBOOT_ENVIRONMENT": str(file), "SET": "shell"}
    environment.load(values)
    assert values["FLASHBOOT_STORE"] == "file:///srv"
    assert (values["QUOTED"], values["DOUBLE"], values["EMPTY"]) == ("a b", "c d", "")
    assert values["SET"] == "shell"


def test_a_wrong_line_in_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text("GOOD=1\nexport BAD\n")
    with pytest.raises(UsageError, match="line 2"):
        environment.load({"FLASHBOOT_ENVIRONMENT": str(file)})
    with pytest.raises(UsageError, match="cannot be read"):
        environment.load({"FLASHBOOT_ENVIRONMENT": str(tmp_path)})
    environment.load({"FLASHBOOT_ENVIRONMENT": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0),
        ("1800000000", 1_800_000_000),
        ("2027-01-31", 1_801_353_600),
        ("2027-01-31T12:00:00Z", 1_801_396_800),
        ("2027-01-31T13:00:00+01:00", 1_801_396_800),
    ],
)
def test_times(text: str, wanted: int) -> None:
    assert instant(text) == wanted


def test_arguments_that_are_none() -> None:
    for read, text in ((instant, "tomorrow"), (count, "-1"), (count, "1.5"), (size, "1 parsec")):
        with pytest.raises(argparse.ArgumentTypeError):
            read(text)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_on_a_terminal_leaves_no_trace() -> None:
    stream, clock = Terminal(), Clock()
    with Meter("publishing", stream=stream, clock=clock) as progress:
        for step in range(11):
            clock.now = step
            progress(step * 100, 1000)
    text = stream.getvalue()
    assert "\n" not in text
    assert text.endswith(" \r")
    assert " 50% of 1000 B" in text


def test_lines_every_few_seconds_elsewhere() -> None:
    stream, clock = io.StringIO(), Clock()
    with Meter("publishing", stream=stream, clock=clock) as progress:
        for step in range(21):
            clock.now = step
            progress(step * 50, 1000)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("flashboot: publishing [############............]  50% of")
    assert lines[1].endswith("0:10 left")


def test_quiet_meters_say_nothing() -> None:
    stream, clock = io.StringIO(), Clock()
    with Meter("x", quiet=True, stream=stream, clock=clock) as progress:
        clock.now = 60
        progress(1, 2)
    assert stream.getvalue() == ""
    with PhaseMeter(quiet=True) as phases:
        phases("write", 1, 2)
        phases("verify", 1, 2)


def test_a_counter_adds_up() -> None:
    stream, clock = io.StringIO(), Clock()
    advance = Meter("x", stream=stream, clock=clock).counter(100)
    clock.now = 10
    advance(25)
    advance(25)
    assert " 25% " in stream.getvalue()


def test_progress_lines_are_narrow() -> None:
    longest = describe("publishing", 2**37 - 1, 2**37, seconds=36000.0)
    assert len("flashboot: " + longest) <= 100
    assert describe("x", 0, 0, seconds=0).startswith("x [####")
    assert clock_text(3725) == "1:02:05"


def test_tables_line_up() -> None:
    text = output.table([("NAME", "SIZE"), ("a", "1 B"), ("long", "10 B")], numeric=(1,))
    assert text.splitlines() == ["NAME  SIZE", "a      1 B", "long  10 B"]
    assert output.fields([("a", "1"), ("none", ""), ("long", "2")]) == "a     1\nlong  2"
