"""A server as a child process on loopback: started, waited for, ended, never left behind."""

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_POLL_SECONDS = 0.02


class ServiceFailed(Exception):
    """The server did not come up; the message ends with the tail of its log."""


class Service(ABC):
    """A child process with a log file. Use it as a context manager, from the main thread.

    `setpriv --pdeathsig` lets the kernel end the child when its parent dies, even by SIGKILL.
    The kernel counts the death of the *thread* that started the child (prctl(2)), so start
    services from a thread that lives as long as they shall.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What to run; asked for at the start."""

    def environment(self) -> dict[str, str]:
        """The child's environment; nothing of ours that could lead it elsewhere."""
        kept = ("PATH", "HOME", "LANG", "VIRTUAL_ENV")
        return {name: os.environ[name] for name in kept if name in os.environ}

    @abstractmethod
    def ready(self) -> bool:
        """Whether it serves by now. Must answer within a second."""

    @property
    def pid(self) -> int:
        """The server's process id, which is also its process group."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def start(self, *, timeout_seconds: float = 60) -> None:
        """Start the process and return when it serves. Raises ServiceFailed."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.environment(),
            )
        try:
            self._wait(time.monotonic() + timeout_seconds)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill the process group and reap it. SIGKILL: what it kept is thrown away anyway."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None

    def _wait(self, deadline: float) -> None:
        assert self._process is not None
        while not self.ready():
            code = self._process.poll()
            if code is not None:
                raise ServiceFailed(f"{self.name} ended with {code}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise ServiceFailed(f"{self.name} is not ready in time:\n{self._tail()}")
            time.sleep(_POLL_SECONDS)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def free_ports(count: int) -> list[int]:
    """Loopback ports nobody listens on just now, all different.

    Below 32768, where the kernel takes no outgoing connection's port from by default
    (ip_local_port_range): otherwise one of our own clients may sit on it a moment later.
    """
    found: list[int] = []
    start = 20000 + os.getpid() * 37 % 12000
    for step in range(12000):
        port = 20000 + (start - 20000 + step) % 12000
        if port not in _given and _is_free(port):
            _given.add(port)
            found.append(port)
            if len(found) == count:
                return found
    raise ServiceFailed(f"no {count} free ports between 20000 and 32000")


# Ports handed out by this process before: a service that is just starting does not listen yet.
_given: set[int] = set()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True


def eventually(check: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Whether `check` comes true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
