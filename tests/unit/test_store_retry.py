"""The retrying wrapper on a clock of its own: no test here sleeps."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import (
    AccessDenied,
    DocumentTooLarge,
    FlashbootError,
    Interrupted,
    ObjectMissing,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from flashboot.store.retry import RetryingStore, RetryPolicy
from tests.fakes.memory_store import MemoryStore


@dataclass(slots=True)
class Time:
    """A clock that only waiting moves."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)
    cancelled: bool = False

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return self.cancelled


def _failing(times: int, error: Callable[[], FlashbootError]) -> MemoryStore:
    left = [times]

    def fault(operation: str, key: str) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error()

    return MemoryStore(objects={"images/i": b"bytes"}, fault=fault)


def _unavailable() -> FlashbootError:
    return StoreUnavailable("s3://memory/store", "images/i", "503 SlowDown")


def _patient(
    store: MemoryStore, policy: RetryPolicy, time: Time, said: list[str] | None = None
) -> RetryingStore:
    return RetryingStore(
        store,
        policy,
        notify=(said if said is not None else []).append,
        clock=lambda: time.now,
        wait=time.wait,
        jitter=lambda: 1.0,
    )


def test_pauses_double_up_to_the_longest() -> None:
    time, said = Time(), list[str]()
    policy = RetryPolicy(
        attempts=8, first_delay_seconds=0.5, longest_delay_seconds=5, deadline_seconds=None
    )
    store = _patient(_failing(6, _unavailable), policy, time, said)
    assert store.get("images/i", limit=10) == b"bytes"
    assert time.pauses == [0.5, 1, 2, 4, 5, 5]
    assert said[0] == (
        "The store at s3://memory/store did not answer for images/i: 503 SlowDown;"
        " retrying in 0.5 s"
    )


def test_the_last_attempt_raises_and_says_how_many_there_were() -> None:
    time = Time()
    store = _patient(_failing(99, _unavailable), RetryPolicy(attempts=3), time)
    with pytest.raises(StoreUnavailable, match=r"503 SlowDown \(3 attempts in 1 s\)"):
        store.size("images/i")
    assert time.pauses == [0.2, 0.4]


def test_no_attempt_starts_after_the_deadline() -> None:
    time = Time()
    policy = RetryPolicy(attempts=None, first_delay_seconds=1, deadline_seconds=10)
    store = _patient(_failing(99, _unavailable), policy, time)
    with pytest.raises(StoreUnavailable, match="4 attempts in 7 s"):
        store.put("images/i", b"1", replace=True)
    assert time.pauses == [1, 2, 4]


def test_it_goes_on_for_ever_when_told_so() -> None:
    time = Time()
    policy = RetryPolicy(attempts=None, deadline_seconds=None)
    store = _patient(_failing(3000, _unavailable), policy, time)
    assert store.size("images/i") == 5
    assert len(time.pauses) == 3000
    assert max(time.pauses) == policy.longest_delay_seconds


@pytest.mark.parametrize(
    "error",
    [
        ObjectMissing("s3://b", "k"),
        AccessDenied("s3://b", "k", "403"),
        StoreError("s3://b", "no such bucket"),
        DocumentTooLarge("object k", 2, 1),
        UsageError("a key"),
    ],
)
def test_what_stays_wrong_is_not_tried_again(error: FlashbootError) -> None:
    time = Time()
    store = _patient(_failing(1, lambda: error), RetryPolicy(), time)
    with pytest.raises(type(error)) as caught:
        store.get("images/i", limit=10)
    assert caught.value is error
    assert time.pauses == []


class Breaking(MemoryStore):
    """Its n-th listing breaks off after 2 n keys."""

    listings = 0

    def keys(self, prefix: str) -> Iterator[str]:
        self.listings += 1
        for place, key in enumerate(super().keys(prefix)):
            if place == 2 * self.listings:
                raise _unavailable()
            yield key


def test_a_listing_goes_on_where_it_broke_off() -> None:
    names = [f"packs/{number}" for number in range(6)]
    breaking = Breaking(objects=dict.fromkeys(names, b""))
    # Two attempts would not do for two breaks if new keys did not count as progress.
    store = _patient(breaking, RetryPolicy(attempts=2), Time())
    assert list(store.keys("packs/")) == names
    assert breaking.listings == 3


def test_cancelling_ends_a_pause_and_forbids_new_work() -> None:
    time = Time(cancelled=True)
    store = _patient(_failing(99, _unavailable), RetryPolicy(), time)
    with pytest.raises(Interrupted):
        store.get("images/i", limit=10)
    assert len(time.pauses) == 1

    cancelled = threading.Event()
    cancelled.set()
    memory = MemoryStore(objects={"images/i": b"bytes"})
    stopped = RetryingStore(memory, cancelled=cancelled)
    with pytest.raises(Interrupted):
        stopped.get("images/i", limit=10)
    with pytest.raises(Interrupted):
        list(stopped.keys(""))
    assert memory.gets.total() == 0


def test_jitter_is_between_nothing_and_everything() -> None:
    time, draws = Time(), iter([0.0, 0.5, 0.999])
    store = RetryingStore(
        _failing(3, _unavailable),
        RetryPolicy(first_delay_seconds=1),
        clock=lambda: time.now,
        wait=time.wait,
        jitter=lambda: next(draws),
    )
    assert store.size("images/i") == 5
    assert time.pauses == [0.0, 1.0, 0.999 * 4]


@given(failures=st.integers(1, 10**9), first=st.floats(0.001, 100), longest=st.floats(0.001, 1000))
def test_the_longest_pause_holds(failures: int, first: float, longest: float) -> None:
    policy = RetryPolicy(first_delay_seconds=first, longest_delay_seconds=longest)
    assert 0 < policy.longest_pause(failures) <= longest
    assert policy.longest_pause(failures) <= policy.longest_pause(failures + 1)
