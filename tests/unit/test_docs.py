"""The documents for people: links lead somewhere, and commands that they name exist."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashboot.cli import main
from happycache import cli as happycache

ROOT = Path(__file__).parents[2]
# Only directories of ours: caches and environments are full of other people's documents.
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "live-initramfs").rglob("*.md"),
        *(ROOT / "tests" / "rig").rglob("*.md"),
    ]
)
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# DESIGN names them; a document may say that they are not there yet, and nothing else.
NOT_BUILT = {"image diff", "confirm", "rollout", "deploy"}

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^ {4}(.+)$|^```[^\n]*\n([\s\S]*?)^```|`([^`\n]+)`", re.MULTILINE)
_COMMAND = re.compile(
    r"(?:^|\s|bin/)(flashboot|happycache|make)((?: +[a-z][a-z-]*(?![\w./])){1,2})", re.MULTILINE
)
# What a document speaks about: the machines of whoever wrote it are of no use to its reader.
_PRIVATE = re.compile(r"(?<![\w/])/(?:work|tmp|root)/|registry\.|localhost:\d|pypi\.org")


def verbs(parser: argparse.ArgumentParser, name: str = "") -> Iterator[str]:
    """The names of all verbs: 'image', 'image publish', 'check'."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield f"{name} {word}".strip()
                yield from verbs(inner, f"{name} {word}".strip())


def anchors(page: Path) -> set[str]:
    """What a '#...' may name in the page, by the rules of GitHub and GitLab."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def links(text: str) -> list[str]:
    """Targets of links that are not addresses of the web."""
    return [link for link in _LINK.findall(text) if "://" not in link]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Programs of ours and the up to two words behind them, wherever code is shown."""
    code = "\n".join("".join(groups) for groups in _CODE.findall(text))
    return [(program, words.split()) for program, words in _COMMAND.findall(code)]


def unknown(program: str, words: list[str]) -> str | None:
    """What is wrong with a command, None where nothing is."""
    if program == "make":
        return None if words[0] in TARGETS else f"make {words[0]}"
    parser = main.make_parser() if program == "flashboot" else happycache._parser()
    known = set(verbs(parser))
    groups = {verb.split()[0] for verb in known if " " in verb}
    wanted = " ".join(words[:2]) if words[0] in groups else words[0]
    return None if wanted in known | NOT_BUILT else f"{program} {wanted}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    found = commands(page.read_text(encoding="utf-8"))
    assert [problem for command in found if (problem := unknown(*command))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_the_machine_it_was_written_on(page: Path) -> None:
    assert _PRIVATE.findall(page.read_text(encoding="utf-8")) == []


def test_what_is_not_built_is_still_not_there() -> None:
    assert NOT_BUILT.isdisjoint(verbs(main.make_parser())), "tell it in README, not as missing"


def test_wrong_commands_are_found() -> None:
    text = "`flashboot fly`, `make tea`\n\n    $ happycache burn x\n    flashboot image eat a\n"
    found = [unknown(*command) for command in commands(text)]
    assert found == ["flashboot fly", "make tea", "happycache burn", "flashboot image eat"]
