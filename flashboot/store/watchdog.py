"""Ends HTTP bodies that take too long.

A socket's timeout starts anew with every byte, so a peer that drips never runs into it; and a
thread blocked in a read cannot be stopped from outside except by its socket.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# A deadline is met this late at worst; deadlines are tens of seconds.
_STEP_SECONDS = 0.5


@dataclass(slots=True, eq=False)
class Watch:
    """One body under watch: whether it was cut off."""

    body: Any
    deadline: float
    fired: bool = False


class Watchdog:
    """One thread, started with the first body, that cuts off those past their deadline."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, body: Any, seconds: float) -> Iterator[Watch]:
        """Cut `body` (botocore's StreamingBody) off unless the block ends within `seconds`."""
        watch = Watch(body, time.monotonic() + seconds)
        with self._changed:
            self._watches.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="store-watchdog", daemon=True
                )
                self._thread.start()
            elif len(self._watches) == 1:
                self._changed.notify()
        try:
            yield watch
        finally:
            with self._changed:
                self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._watches:
                    self._changed.wait()
                now = time.monotonic()
                late = [w for w in self._watches if now > w.deadline and not w.fired]
                for watch in late:
                    watch.fired = True
                    _cut(watch.body)
            time.sleep(_STEP_SECONDS)


def _cut(body: Any) -> None:
    # urllib3 2.3 added shutdown() for exactly this: callable while another thread reads. An error
    # means that the connection is gone already.
    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
        body._raw_stream.shutdown()
