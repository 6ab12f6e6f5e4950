"""Errors: every sentence can be said, every exit code stands for one thing."""

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashboot import errors
from flashboot.errors import FlashbootError, explain

CLASSES = tuple(
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, FlashbootError)
)
SPECIFIC = tuple(kind for kind in CLASSES if kind is not FlashbootError)
SOURCES = Path(errors.__file__).parent

# Where a code may lie, as the module's docstring promises, by the class that opens the range.
RANGES = {
    "UsageError": (2, 2),
    "NotConfirmed": (3, 3),
    "MalformedDocument": (10, 19),
    "StoreError": (20, 29),
    "MachineError": (30, 39),
    "ChunkMismatch": (40, 49),
    "Refused": (50, 59),
    "CloudError": (60, 69),
    "PublishFailed": (70, 70),
    "Interrupted": (130, 130),
}


def braces(kind: type[FlashbootError]) -> int:
    """How many facts the sentence of `kind` takes."""
    return (kind.__doc__ or "").count("{}")


@pytest.mark.parametrize("kind", CLASSES)
def test_every_sentence_can_be_said(kind: type[FlashbootError]) -> None:
    facts = [f"fact{number}" for number in range(braces(kind))]
    text = str(kind(*facts))
    assert text
    assert "{" not in text
    assert re.findall(r"fact\d+", text) == facts


@pytest.mark.parametrize("kind", SPECIFIC)
def test_every_sentence_is_one(kind: type[FlashbootError]) -> None:
    sentence = kind.__doc__ or ""
    assert sentence.endswith(".") or sentence == "{}"
    assert "\n" not in sentence
    assert len(kind.hint.splitlines()) <= 1
    assert not kind.hint.endswith(".")


@pytest.mark.parametrize("kind", CLASSES)
def test_too_few_facts_give_a_poor_sentence_but_no_second_error(
    kind: type[FlashbootError],
) -> None:
    assert str(kind())


def test_facts_with_braces_are_said_as_they_are() -> None:
    assert str(errors.UsageError("{0} {}")) == "{0} {}"


def test_exit_codes_are_unique_and_in_their_ranges() -> None:
    codes = [kind.exit_code for kind in CLASSES]
    assert len(set(codes)) == len(codes)
    assert FlashbootError.exit_code == 1
    low = high = 0
    for kind in SPECIFIC:
        low, high = RANGES.get(kind.__name__, (low, high))
        assert low <= kind.exit_code <= high, kind


def test_the_ranges_are_the_documented_ones() -> None:
    words = " ".join((errors.__doc__ or "").split())
    for low, high in RANGES.values():
        assert (f" {low}-{high} " if low < high else f" {low} ") in words


def test_an_error_survives_pickling() -> None:
    error = errors.AccessDenied("s3://b", "images/a", "403", hint="ask")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.advice == "ask"


def calls() -> Iterator[tuple[str, ast.Call, type[FlashbootError]]]:
    """Every place in flashboot that makes one of these errors."""
    by_name = {kind.__name__: kind for kind in CLASSES}
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                if name in by_name:
                    where = f"{path.relative_to(SOURCES)}:{node.lineno}"
                    yield where, node, by_name[name]


def test_every_error_is_made_with_the_facts_of_its_sentence() -> None:
    wrong = [
        f"{where}: {kind.__name__} takes {braces(kind)} facts"
        for where, call, kind in calls()
        if not any(isinstance(argument, ast.Starred) for argument in call.args)
        and len(call.args) != braces(kind)
    ]
    assert not wrong


class TestExplain:
    def test_an_error_with_its_hint(self) -> None:
        assert explain(errors.NotStaged()) == (
            "Nothing is staged on this node. [run `flashboot stage --image NAME` first]"
        )

    def test_a_hint_of_its_own_and_none(self) -> None:
        assert explain(errors.NotStaged(hint="wait")).endswith("node. [wait]")
        assert explain(errors.NotStaged(hint="")).endswith("node.")

    def test_causes_stand_behind_arrows_and_the_first_ones_advice_at_the_end(self) -> None:
        low = OSError("cable out")
        middle = errors.StoreUnavailable("s3://b", "images/a", "no route")
        middle.__cause__ = low
        top = errors.PublishFailed("app-1", "the store went away", hint="again later")
        top.__cause__ = middle
        assert explain(top) == (
            "Publishing app-1 failed: the store went away. -> The store at s3://b did not answer "
            "for images/a: no route. -> cable out [again later]"
        )

    def test_a_cause_that_was_said_already_is_not_said_again(self) -> None:
        top = errors.PublishFailed("app-1", "cable out")
        top.__cause__ = OSError("cable out")
        assert explain(top) == "Publishing app-1 failed: cable out."

    def test_an_error_without_words_is_named(self) -> None:
        assert explain(TimeoutError()) == "TimeoutError"

    def test_it_is_one_line_whatever_a_command_printed(self) -> None:
        error = errors.CommandFailed("mount", "code 32", "mount: bad superblock\n  dmesg(1)\r\n")
        assert explain(error) == (
            "The command `mount` failed with code 32: mount: bad superblock dmesg(1) ."
        )

    def test_a_circle_of_causes_ends(self) -> None:
        one, two = OSError("one"), OSError("two")
        one.__cause__, two.__cause__ = two, one
        assert explain(one) == "one -> two"
