"""Fixtures of the tests in virtual machines: the parts once a run, a cloud once a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.cloud import Cloud
from tests.rig.node import Node
from tests.rig.prepare import RAMOS, Parts, build_images, build_ramos

IMAGE = "app-42"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here boots machines."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def parts() -> Parts:
    """OLD, NEW and the RAM OS."""
    return Parts(build_images(), RAMOS, build_ramos())


@pytest.fixture(scope="module")
def cloud(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud with NEW published as app-42."""
    with Cloud(tmp_path_factory.mktemp("cloud")) as running:
        running.flashboot(
            "image", "publish", parts.images.new, "--name", IMAGE, "--ramos", parts.ramos
        )
        yield running


@pytest.fixture(scope="module")
def node(cloud: Cloud, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """An instance that serves OLD; every test leaves it so."""
    home = tmp_path_factory.mktemp("node")
    with Node(cloud, parts.images.old, parts.images.key, home) as machine:
        machine.boot()
        machine.configure()
        yield machine
