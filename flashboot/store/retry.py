"""A store that tries again: exponential backoff with full jitter, bounded, and cancellable.

Only StoreUnavailable is tried again. What is wrong with the request, the rights or the object
will be wrong again in a second.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from flashboot.errors import Interrupted, StoreUnavailable
from flashboot.store.base import Store

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to keep trying one operation. None for a bound means none.

    The pause before attempt n + 1 is random between 0 and first_delay * 2^(n - 1), capped: "full
    jitter" spreads a fleet that failed in one instant best
    (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
    """

    attempts: int | None = 8
    first_delay_seconds: float = 0.2
    longest_delay_seconds: float = 20.0
    # Counted from the start of the operation; no attempt starts after it.
    deadline_seconds: float | None = 120.0

    def longest_pause(self, failures: int) -> float:
        """Seconds: the upper end of the random pause after this many failures in a row."""
        # The exponent is capped because 2.0 ** 1024 overflows, and "for ever" gets there.
        doubled = self.first_delay_seconds * 2.0 ** min(failures - 1, 60)
        return min(self.longest_delay_seconds, doubled)


class RetryingStore:
    """`store`, but StoreUnavailable comes only after `policy` is used up.

    `notify` gets one sentence before every pause. Setting `cancelled` ends a pause at once and
    lets every operation raise Interrupted. The last three arguments are for tests.
    """

    def __init__(
        self,
        store: Store,
        policy: RetryPolicy | None = None,
        *,
        cancelled: threading.Event | None = None,
        notify: Callable[[str], None] = lambda sentence: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.store = store
        self.policy = policy or RetryPolicy()
        self._cancelled = cancelled or threading.Event()
        self._notify = notify
        self._clock = clock
        self._wait = wait or self._cancelled.wait
        self._jitter = jitter

    @property
    def url(self) -> str:
        return self.store.url

    def get(self, key: str, *, offset: int = 0, length: int | None = None, limit: int) -> bytes:
        return self._persist(lambda: self.store.get(key, offset=offset, length=length, limit=limit))

    def put(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        return self._persist(lambda: self.store.put(key, data, replace=replace))

    def size(self, key: str) -> int | None:
        return self._persist(lambda: self.store.size(key))

    def keys(self, prefix: str) -> Iterator[str]:
        # Keys come in order, so a listing that broke off is resumed by skipping what was seen;
        # every new key starts the patience anew.
        last = ""
        failures, started = 0, self._begin()
        while True:
            try:
                for key in self.store.keys(prefix):
                    if key > last:
                        last = key
                        yield key
                        failures, started = 0, self._begin()
            except StoreUnavailable as error:
                failures += 1
                self._pause(error, failures, started)
            else:
                return

    def _persist(self, operation: Callable[[], _T]) -> _T:
        failures, started = 0, self._begin()
        while True:
            try:
                return operation()
            except StoreUnavailable as error:
                failures += 1
                self._pause(error, failures, started)

    def _begin(self) -> float:
        if self._cancelled.is_set():
            raise Interrupted
        return self._clock()

    def _pause(self, error: StoreUnavailable, failures: int, started: float) -> None:
        """Wait before the next attempt. Raises the error where there shall be none."""
        policy = self.policy
        pause = self._jitter() * policy.longest_pause(failures)
        spent = self._clock() - started
        out_of_attempts = policy.attempts is not None and failures >= policy.attempts
        out_of_time = (
            policy.deadline_seconds is not None and spent + pause > policy.deadline_seconds
        )
        if out_of_attempts or out_of_time:
            url, key, reason = error.facts
            tries = f"{failures} attempts in {spent:.0f} s"
            raise StoreUnavailable(url, key, f"{reason} ({tries})") from error.__cause__
        self._notify(f"{str(error).rstrip('.')}; retrying in {pause:.1f} s")
        if self._wait(pause):
            raise Interrupted from error
