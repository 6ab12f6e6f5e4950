"""Waiting for others, but not for ever: a store or the cloud must not keep a node from its work."""

import threading
from collections.abc import Callable
from typing import TypeVar

from flashboot.errors import FlashbootError, explain

_T = TypeVar("_T")

# How long a record or a tag may take, seconds: both are welcome, neither is needed.
REPORT_SECONDS = 15.0


def bounded(work: Callable[[], _T], *, seconds: float) -> _T:
    """What `work` returns or raises; TimeoutError where that takes more than `seconds`.

    The work then goes on in a daemon thread that nobody waits for.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # it is raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=target, name="bounded", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return results[0]


def attempt(work: Callable[[], object], *, seconds: float = REPORT_SECONDS) -> str | None:
    """Do `work` if that is possible: None where it was, else why not, in one line."""
    try:
        bounded(work, seconds=seconds)
    except (FlashbootError, OSError) as error:
        return explain(error)
    return None
