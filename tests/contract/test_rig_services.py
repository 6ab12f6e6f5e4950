"""The rig's services leave nothing behind, however their parent ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.service import Service, ServiceFailed, answers, eventually, free_ports

pytestmark = pytest.mark.server


class Listener(Service):
    """A server of one line."""

    def __init__(self, log: Path) -> None:
        super().__init__("listener", log)
        (self.port,) = free_ports(1)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "http.server", "-b", "127.0.0.1", str(self.port)]

    def ready(self) -> bool:
        return answers(self.port)


class Broken(Listener):
    """A server that ends with a complaint."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no such thing')"]


def test_a_service_ends_with_its_block(tmp_path: Path) -> None:
    with Listener(tmp_path / "log") as service:
        assert answers(service.port)
        pid = service.pid
    assert not answers(service.port)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServiceFailed, match="no such thing"):
        Broken(tmp_path / "log").start()


def test_a_service_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tests.contract.test_rig_services import Listener\n"
        "service = Listener(Path(sys.argv[1])); service.start()\n"
        "print(service.port, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert answers(port)
        parent.send_signal(signal.SIGKILL)
    assert eventually(lambda: not answers(port), timeout_seconds=5)
