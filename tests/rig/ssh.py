"""Commands in a rig guest over SSH, on one shared connection: handshakes take seconds under TCG."""

import contextlib
import shlex
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class GuestUnreachable(Exception):
    """The guest's sshd did not let us in; the message says what ssh said."""


class Ssh:
    """root in a guest, by a port on 127.0.0.1. Use it as a context manager.

    The guest may restart in between: a command then connects anew.
    """

    def __init__(self, port: int, key: Path) -> None:
        self.port = port
        self.key = key
        # Short, since a socket's path may have 107 bytes.
        self._directory = tempfile.TemporaryDirectory(prefix="ssh-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the shared connection."""
        self.disconnect()
        self._directory.cleanup()

    def disconnect(self) -> None:
        """Forget the connection, as after a restart of the guest."""
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(
                [*self.arguments(), "-O", "exit", "guest"],
                capture_output=True,
                timeout=5,
                check=False,
            )
        (Path(self._directory.name) / "control").unlink(missing_ok=True)

    def arguments(self) -> list[str]:
        """The ssh command without destination; by hand it does as well."""
        options = {
            "HostName": "127.0.0.1",
            "Port": self.port,
            "User": "root",
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "GlobalKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ControlMaster": "auto",
            "ControlPersist": 600,
            "ControlPath": Path(self._directory.name) / "control",
            "ConnectTimeout": 10,
            # A guest that is cut off is noticed within 30 s.
            "ServerAliveInterval": 10,
            "ServerAliveCountMax": 3,
        }
        argv = ["ssh", "-F", "/dev/null"]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        return argv

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout_seconds: float = 60,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - subprocess calls it so
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell line, or an argument list, in the guest.

        CalledProcessError (with what it wrote) for a code other than 0 under `check`;
        TimeoutExpired; 255 is ssh's own failure.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        # The master keeps a copy of stderr: a file, since a pipe would never end.
        with tempfile.TemporaryFile("w+") as errors:
            done = subprocess.run(
                [*self.arguments(), "guest", line],
                input=input,
                stdin=subprocess.DEVNULL if input is None else None,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=timeout_seconds,
                check=False,
            )
            errors.seek(0)
            done.stderr = errors.read()
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, line, done.stdout, done.stderr)
            error.add_note(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
            raise error
        return done

    def wait(self, *, timeout_seconds: float) -> None:
        """Return when root can log in. GuestUnreachable."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            left = deadline - time.monotonic()
            try:
                done = self.run("true", timeout_seconds=max(left, 0.1), check=False)
            except subprocess.TimeoutExpired as error:
                raise GuestUnreachable(f"no login within {timeout_seconds:g} s") from error
            if done.returncode == 0:
                return
            if time.monotonic() >= deadline:
                raise GuestUnreachable(done.stderr)
            time.sleep(0.05)
