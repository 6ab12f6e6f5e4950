"""For every test: the fence around unit tests, Hypothesis' profiles, and where the time went.

The fence: a test below tests/unit may start processes and talk to this machine, but it may not
reach for the network nor sleep. Both are a `Trespass`, a BaseException that no handler swallows by
accident. Tests in other folders, and those marked `unfenced`, are free.
"""

import ipaddress
import os
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

MAX_SLEEP_SECONDS: Final = 0.05  # subprocess.wait and psutil poll in steps of this at most
SUMMARY_SECONDS: Final = 10.0  # shorter runs need no account of where the time went
_FENCED: Final = Path(__file__).parent / "unit"
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

# A busy machine is no reason to fail, so there is no deadline and no complaint about slowness.
_CALM: Final = [HealthCheck.too_slow]
settings.register_profile("quick", max_examples=40, deadline=None, suppress_health_check=_CALM)
settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    suppress_health_check=_CALM,
    derandomize=True,
    print_blob=True,
)
settings.register_profile("long", max_examples=2000, deadline=None, suppress_health_check=_CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


class Trespass(BaseException):
    """A unit test reached over the fence."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "unfenced: a unit test that may sleep and use the network")


@pytest.fixture(autouse=True)
def fence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a unit test from the network and from sleeping."""
    free = request.node.get_closest_marker("unfenced") is not None
    if free or not request.path.is_relative_to(_FENCED):
        return
    monkeypatch.setattr(time, "sleep", _fenced_sleep(time.sleep))
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, _fenced_call(getattr(socket.socket, name)))


def _fenced_sleep(sleep: Callable[[float], None]) -> Callable[[float], None]:
    def fenced(seconds: float) -> None:
        if seconds > MAX_SLEEP_SECONDS:
            raise Trespass(f"a unit test sleeps for {seconds} s; give the code a clock instead")
        sleep(seconds)

    return fenced


def _fenced_call(call: Callable[..., Any]) -> Callable[..., Any]:
    def fenced(self: socket.socket, *arguments: Any) -> Any:
        if self.family in _FAMILIES and not _is_here(arguments[-1]):
            raise Trespass(f"a unit test talks to {arguments[-1]}; only loopback is allowed")
        return call(self, *arguments)

    return fenced


def _is_here(address: Any) -> bool:
    host = address[0] if isinstance(address, tuple) and address else ""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host in ("", "localhost")
    return found.is_loopback or found.is_unspecified


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time went, by folder, when there was enough of it to ask."""
    spent: dict[str, float] = defaultdict(float)
    tests: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder = report.nodeid.partition("::")[0].rpartition("/")[0]
                spent[folder] += report.duration
                tests[folder] += report.when == "call"
    if sum(spent.values()) < SUMMARY_SECONDS:
        return
    terminalreporter.section("timings")
    for folder, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{seconds:8.1f} s  {tests[folder]:5} tests  {folder}")
