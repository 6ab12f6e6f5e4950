"""Ctrl-C: the first one ends the work in order, and ends the waiting for a store at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Set by Ctrl-C; stores that retry look at it, since their pauses are in threads that no
# KeyboardInterrupt reaches.
cancelled = threading.Event()


@contextmanager
def watched() -> Iterator[None]:
    """Turn SIGINT into `cancelled` and KeyboardInterrupt, where this is the main thread.

    Not where it is ignored: whoever started us in the background wants it so, as nohup does.
    """
    cancelled.clear()
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    cancelled.set()
    raise KeyboardInterrupt
