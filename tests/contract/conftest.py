"""The servers that contract tests talk to, each started once a session and only when asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.motoserver import MotoServer
from tests.rig.seaweed import Seaweed


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        server.make_bucket("contract")
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    log: Path = tmp_path_factory.mktemp("moto") / "moto.log"
    with MotoServer(log) as server:
        server.make_bucket("contract")
        yield server
