"""Threads that share one piece of work: the first error stops all and is the one that is raised."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def processors() -> int:
    """Threads for work that hashing and unpacking bound: one more than there are cores.

    Measured: with one more, a core is not idle while a thread waits for its device request.
    """
    return len(os.sched_getaffinity(0)) + 1


class Stopped(Exception):
    """Another thread failed, or the caller gave up."""


class Crew:
    """Named threads of one piece of work. `stop` is set as soon as one of them fails."""

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.stop = stop or threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._on_stop: list[Callable[[], None]] = []

    def on_stop(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the work is given up, so that nobody waits for ever."""
        self._on_stop.append(wake)

    def start(self, work: Callable[[], None], *, name: str, count: int = 1) -> None:
        """Run `work` in `count` threads."""
        for number in range(count):
            thread = threading.Thread(
                target=self._guard, args=(work,), name=f"{name}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def give_up(self, error: BaseException | None = None) -> None:
        """Stop everybody; `error` is what `join` raises, if it is the first."""
        if error is not None and not isinstance(error, Stopped):
            self._errors.append(error)
        self.stop.set()
        for wake in self._on_stop:
            wake()

    def join(self) -> None:
        """Wait for all threads; raise the first error. Ctrl-C here stops the threads first."""
        try:
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(0.2)  # in pieces, so that signals are seen
        except BaseException:
            self.give_up()
            for thread in self._threads:
                thread.join(1.0)  # one that waits for a dead store ends with the process
            raise
        if self._errors:
            raise self._errors[0]

    def check(self) -> None:
        """Raise Stopped where the work was given up."""
        if self.stop.is_set():
            raise Stopped

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - every error must reach the caller
            self.give_up(error)


class Shared(Iterator[T]):
    """One iterator for many threads."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self.lock = threading.Lock()

    def __next__(self) -> T:
        with self.lock:
            return next(self._items)


class ByteBudget:
    """At most `limit` bytes in flight; one request above it passes alone rather than never."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._closed = False
        self._change = threading.Condition()

    def acquire(self, count: int) -> None:
        """Take `count` bytes, waiting for room. Raises Stopped after close()."""
        with self._change:
            self._change.wait_for(
                lambda: self._closed or self._used == 0 or self._used + count <= self._limit
            )
            if self._closed:
                raise Stopped
            self._used += count

    def release(self, count: int) -> None:
        """Give `count` bytes back."""
        with self._change:
            self._used -= count
            self._change.notify_all()

    def close(self) -> None:
        """Wake everybody who waits, with Stopped."""
        with self._change:
            self._closed = True
            self._change.notify_all()


def for_each(items: Iterator[T], work: Callable[[T], None], *, workers: int, name: str) -> None:
    """`work` on every item in `workers` threads. Raises the first error."""
    crew = Crew()
    shared = Shared(items)

    def worker() -> None:
        for item in shared:
            crew.check()
            work(item)

    crew.start(worker, name=name, count=workers)
    crew.join()
