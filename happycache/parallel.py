"""Work in threads, results in order, a bounded number under way.

concurrent.futures would do, but its import (logging) costs more than this file, and it has no bound
on what waits.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class _Task(Generic[In, Out]):
    """One piece of work; `wait` blocks until a thread has done it."""

    __slots__ = ("_done", "_error", "_item", "_result")

    def __init__(self, item: In) -> None:
        self._item = item
        self._done = threading.Lock()
        self._done.acquire()
        self._result: list[Out] = []
        self._error: BaseException | None = None

    def run(self, function: Callable[[In], Out]) -> None:
        try:
            self._result.append(function(self._item))
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is taken
            self._error = error
        self._done.release()

    def wait(self) -> Out:
        # A lock, because the main thread can be interrupted while it waits for one.
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._result[0]


def in_order(
    function: Callable[[In], Out],
    items: Iterable[In],
    *,
    jobs: int,
    ahead: int,
    stop: threading.Event,
) -> Generator[Out, None, None]:
    """`function` of each item, in order, by `jobs` threads; at most `ahead` items are under way.

    With one job everything happens in the calling thread. What `function` raises is raised here.
    When this ends early (closed, interrupted, failed) `stop` is set, which `function` may look at
    to end sooner; what has not started is dropped, what has is waited for.
    """
    if jobs <= 1:
        yield from map(function, items)
        return
    waiting: queue.SimpleQueue[_Task[In, Out] | None] = queue.SimpleQueue()

    def work() -> None:
        while (task := waiting.get()) is not None:
            if not stop.is_set():
                task.run(function)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    pending: deque[_Task[In, Out]] = deque()
    try:
        for thread in threads:
            thread.start()
        for item in items:
            task = _Task[In, Out](item)
            pending.append(task)
            waiting.put(task)
            if len(pending) >= ahead:
                yield pending.popleft().wait()
        while pending:
            yield pending.popleft().wait()
    except BaseException:
        stop.set()
        raise
    finally:
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            if thread.ident is not None:
                thread.join()
