"""Ctrl-C and SIGTERM while a node is half on its way: they end a step, never the way back."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class Signals:
    """While it is open, SIGTERM interrupts as Ctrl-C does, and a closed terminal does nothing.

    Outside of the main thread, where Python has no signal handlers, it does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._set(signal.SIGINT, _interrupt)
        self._set(signal.SIGTERM, _interrupt)
        # The session that started us may be one of those that are ended.
        self._set(signal.SIGHUP, signal.SIG_IGN)
        return self

    def undoing(self) -> None:
        """From here on nothing interrupts: the way back is gone to its end."""
        self._set(signal.SIGINT, signal.SIG_IGN)
        self._set(signal.SIGTERM, signal.SIG_IGN)

    def leaving(self) -> None:
        """From here on systemd may end us, and Ctrl-C comes too late."""
        self._set(signal.SIGINT, signal.SIG_IGN)
        self._set(signal.SIGTERM, signal.SIG_DFL)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set(self, number: int, handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(number, handler)
            self._before.setdefault(number, before)
