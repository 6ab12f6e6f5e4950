"""What S3Store makes of answers that are late, broken, wrong or endless."""

import functools
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from flashboot.cloud.clients import s3_client
from flashboot.cloud.settings import CloudSettings
from flashboot.errors import (
    AccessDenied,
    DocumentTooLarge,
    Interrupted,
    StoreError,
    StoreUnavailable,
    explain,
)
from flashboot.store.retry import RetryingStore, RetryPolicy
from flashboot.store.s3 import S3Store
from tests.fakes.faulty_s3 import Fault, FaultyS3
from tests.rig.seaweed import ACCESS_KEY, Seaweed
from tests.rig.service import free_ports

WHOLE = bytes(range(256)) * 40
KEY = "packs/p"


@pytest.fixture(scope="module")
def one_server() -> Iterator[FaultyS3]:
    with FaultyS3() as fake:
        yield fake


@pytest.fixture
def server(one_server: FaultyS3) -> FaultyS3:
    one_server.objects = {f"bucket/pre/{KEY}": WHOLE}
    one_server.faults = []
    one_server.requests = []
    return one_server


@pytest.fixture
def store(server: FaultyS3) -> S3Store:
    return S3Store(_client(server.endpoint), "bucket", "pre", patience_seconds=0.3)


@functools.cache
def _client(endpoint: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        # Two seconds instead of twenty: one test waits for it.
        patch.setattr("flashboot.cloud.clients._READ_SECONDS", 2)
        return s3_client(CloudSettings(region="eu-west-1", endpoints={"s3": endpoint}))


def _get(store: S3Store) -> bytes:
    return store.get(KEY, offset=100, length=5000, limit=8000)


PASSING: list[Fault] = [
    "slow_down",
    "internal_error",
    "html",
    "expired",
    "conflict",
    "reset",
    "close",
    "truncate",
    "reset_in_body",
    "short_range",
    "drip",
]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_unavailable_and_then_over(
    store: S3Store, server: FaultyS3, fault: Fault
) -> None:
    server.faults = [fault]
    with pytest.raises(StoreUnavailable) as caught:
        _get(store)
    assert "s3://bucket/pre" in explain(caught.value)
    # botocore itself did not try again, and the next answer is not mixed up with the broken one.
    assert len(server.requests) == 1
    assert _get(store) == WHOLE[100:5100]


@pytest.mark.parametrize("fault", PASSING)
def test_a_retrying_store_outlives_it(store: S3Store, server: FaultyS3, fault: Fault) -> None:
    said: list[str] = []
    patient = RetryingStore(
        store, RetryPolicy(first_delay_seconds=0.001), notify=said.append, jitter=lambda: 1.0
    )
    server.faults = [fault, fault]
    assert patient.get(KEY, offset=100, length=5000, limit=8000) == WHOLE[100:5100]
    assert len(said) == 2
    assert all("retrying in 0.0 s" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("denied", AccessDenied),
        ("no_bucket", StoreError),
        ("ignore_range", StoreError),
        ("shifted_range", StoreError),
    ],
)
def test_a_lasting_fault_is_not_tried_again(
    store: S3Store, server: FaultyS3, fault: Fault, error: type[StoreError]
) -> None:
    server.faults = [fault, fault]
    with pytest.raises(error) as caught:
        RetryingStore(store).get(KEY, offset=100, length=5000, limit=len(WHOLE))
    assert caught.type is error
    assert len(server.requests) == 1


def test_what_s3_said_is_said_once(store: S3Store, server: FaultyS3) -> None:
    server.faults = ["denied"]
    with pytest.raises(AccessDenied) as caught:
        _get(store)
    assert explain(caught.value).partition(" [")[0] == (
        "The store at s3://bucket/pre refuses access to packs/p: AccessDenied: as the test asked."
    )


def test_a_whole_object_instead_of_a_range_stops_at_the_limit(
    store: S3Store, server: FaultyS3
) -> None:
    server.faults = ["ignore_range"]
    with pytest.raises(DocumentTooLarge):
        _get(store)


def test_wrong_bytes_are_the_readers_business(store: S3Store, server: FaultyS3) -> None:
    server.faults = ["wrong_bytes"]
    data = _get(store)
    assert data != WHOLE[100:5100]
    assert len(data) == 5000


def test_an_endless_body_ends_at_the_limit(store: S3Store, server: FaultyS3) -> None:
    server.faults = ["endless"]
    limit = 4 * 1024 * 1024
    tracemalloc.start()
    try:
        with pytest.raises(DocumentTooLarge):
            store.get(KEY, limit=limit)
        assert tracemalloc.get_traced_memory()[1] < 4 * limit
    finally:
        tracemalloc.stop()


def test_a_dripping_body_is_cut_off(store: S3Store, server: FaultyS3) -> None:
    server.faults = ["drip"]
    started = time.monotonic()
    # 10240 bytes would take 512 s.
    with pytest.raises(StoreUnavailable, match="too slowly"):
        store.get(KEY, limit=len(WHOLE))
    assert time.monotonic() - started < 20


def test_a_put_outlives_an_answer_that_was_lost(store: S3Store, server: FaultyS3) -> None:
    patient = RetryingStore(store, RetryPolicy(first_delay_seconds=0.001))
    server.faults = ["slow_down", "conflict", "reset"]
    assert patient.put("images/i", b"new")
    assert server.objects["bucket/pre/images/i"] == b"new"
    assert not patient.put("images/i", b"newer")


def test_size_outlives_faults(store: S3Store, server: FaultyS3) -> None:
    patient = RetryingStore(store, RetryPolicy(first_delay_seconds=0.001))
    server.faults = ["slow_down", "internal_error"]
    assert patient.size(KEY) == len(WHOLE)
    server.faults = ["denied"]
    with pytest.raises(AccessDenied):
        patient.size(KEY)


def test_silence_is_unavailable(store: S3Store, server: FaultyS3) -> None:
    server.faults = ["silent"]
    with pytest.raises(StoreUnavailable):
        _get(store)
    assert len(server.requests) == 1


def test_nobody_at_the_endpoint_is_unavailable() -> None:
    (port,) = free_ports(1)
    store = S3Store(_client(f"http://127.0.0.1:{port}"), "bucket", "pre")
    with pytest.raises(StoreUnavailable, match="s3://bucket/pre"):
        _get(store)
    with pytest.raises(StoreUnavailable):
        store.size(KEY)
    with pytest.raises(StoreUnavailable):
        store.put(KEY, b"1")
    with pytest.raises(StoreUnavailable):
        list(store.keys(""))


def test_a_bucket_name_that_is_none_is_said_to_be_so(server: FaultyS3, store: S3Store) -> None:
    wrong = S3Store(store._client, "no such bucket!")
    with pytest.raises(StoreError, match="no such bucket!") as caught:
        wrong.get(KEY, limit=1)
    assert caught.type is StoreError
    assert server.requests == []


def test_an_abort_ends_the_wait_at_once(store: S3Store, server: FaultyS3) -> None:
    cancelled = threading.Event()
    server.faults = ["slow_down"] * 100
    patient = RetryingStore(
        store,
        RetryPolicy(first_delay_seconds=60, longest_delay_seconds=60, deadline_seconds=None),
        cancelled=cancelled,
        jitter=lambda: 1.0,
        notify=lambda sentence: threading.Timer(0.05, cancelled.set).start(),
    )
    started = time.monotonic()
    with pytest.raises(Interrupted):
        patient.get(KEY, limit=len(WHOLE))
    assert time.monotonic() - started < 20


@pytest.mark.server
@pytest.mark.parametrize("access_key", [ACCESS_KEY, "nobody"], ids=["secret", "unknown"])
def test_wrong_credentials_are_denied(seaweed: Seaweed, access_key: str) -> None:
    store = S3Store(seaweed.client(access_key=access_key, secret_key="wrong"), "contract")
    with pytest.raises(AccessDenied, match="s3://contract"):
        store.get("images/i", limit=1)
    with pytest.raises(AccessDenied):
        store.put("images/i", b"1")
    with pytest.raises(AccessDenied):
        store.size("images/i")
    with pytest.raises(AccessDenied):
        list(store.keys(""))


@pytest.mark.server
def test_a_missing_bucket_is_named(seaweed: Seaweed) -> None:
    store = S3Store(seaweed.client(), "nowhere")
    with pytest.raises(StoreError, match="no such bucket") as caught:
        store.get("images/i", limit=1)
    assert caught.type is StoreError
