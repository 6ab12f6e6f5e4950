"""What every store promises, asked of each implementation: the fake, a directory, two S3s."""

import functools
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flashboot.cloud.clients import s3_client
from flashboot.cloud.settings import CloudSettings
from flashboot.errors import DocumentTooLarge, ObjectMissing, StoreUnavailable, UsageError
from flashboot.store.base import Store
from flashboot.store.directory import DirectoryStore
from flashboot.store.retry import RetryingStore
from flashboot.store.s3 import S3Store
from tests.fakes.memory_store import MemoryStore
from tests.rig.seaweed import ACCESS_KEY, SECRET_KEY

WHOLE = bytes(range(256)) * 16


@functools.cache
def _client(endpoint: str) -> Any:
    # The product's own client, so that its settings are under test as well. Once for each server:
    # making one takes a third of a second.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        return s3_client(CloudSettings(region="eu-west-1", endpoints={"s3": endpoint}))


@pytest.fixture(
    params=[
        "memory",
        "directory",
        "retrying",
        pytest.param("moto", marks=pytest.mark.server),
        pytest.param("seaweed", marks=pytest.mark.server),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param in ("moto", "seaweed"):
        server = request.getfixturevalue(request.param)
        return S3Store(_client(server.endpoint), "contract", uuid.uuid4().hex)
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    if request.param == "retrying":
        return RetryingStore(DirectoryStore(tmp_path / "store"))
    return MemoryStore()


def test_gives_back_what_was_put(store: Store) -> None:
    assert store.put("tables/abc", WHOLE)
    assert store.get("tables/abc", limit=len(WHOLE)) == WHOLE
    assert store.size("tables/abc") == len(WHOLE)


def test_keeps_an_empty_object(store: Store) -> None:
    assert store.put("fences/none", b"")
    assert store.get("fences/none", limit=1) == b""
    assert store.size("fences/none") == 0


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (1, 100), (4095, 1), (0, 4096), (4000, None), (0, None)]
)
def test_gives_ranges(store: Store, offset: int, length: int | None) -> None:
    store.put("packs/p", WHOLE)
    end = None if length is None else offset + length
    assert store.get("packs/p", offset=offset, length=length, limit=4096) == WHOLE[offset:end]


@pytest.mark.parametrize(("offset", "length"), [(4000, 97), (4096, 1), (9000, 10), (4096, None)])
def test_says_unavailable_beyond_the_end(store: Store, offset: int, length: int | None) -> None:
    store.put("packs/p", WHOLE)
    with pytest.raises(StoreUnavailable) as caught:
        # Through the wrapper it would be tried again for two minutes.
        _bare(store).get("packs/p", offset=offset, length=length, limit=4096)
    assert store.url in str(caught.value)


def _bare(store: Store) -> Store:
    return store.store if isinstance(store, RetryingStore) else store


@pytest.mark.parametrize(("offset", "length"), [(0, None), (1, None), (0, 4096), (5, 4090)])
def test_refuses_more_than_the_limit(store: Store, offset: int, length: int | None) -> None:
    store.put("images/i", WHOLE)
    with pytest.raises(DocumentTooLarge):
        store.get("images/i", offset=offset, length=length, limit=4089)
    assert store.get("images/i", offset=7, length=None, limit=4089) == WHOLE[7:]


@pytest.mark.parametrize(
    ("offset", "length", "limit"), [(-1, None, 1), (0, 0, 1), (0, -1, 1), (0, 1, 0)]
)
def test_refuses_a_range_that_is_none(
    store: Store, offset: int, length: int | None, limit: int
) -> None:
    with pytest.raises(ValueError, match="no such range"):
        store.get("images/i", offset=offset, length=length, limit=limit)


def test_says_what_is_missing(store: Store) -> None:
    store.put("images/other", b"x")
    assert store.size("images/i") is None
    with pytest.raises(ObjectMissing, match="images/i") as caught:
        store.get("images/i", limit=10)
    assert store.url in str(caught.value)
    with pytest.raises(ObjectMissing):
        store.get("images/i", offset=3, length=4, limit=10)


def test_puts_once(store: Store) -> None:
    assert store.put("images/i", b"first")
    assert not store.put("images/i", b"second")
    assert store.get("images/i", limit=10) == b"first"


def test_replaces_when_told_to(store: Store) -> None:
    assert store.put("channels/prod", b"first", replace=True)
    assert store.put("channels/prod", b"second", replace=True)
    assert store.get("channels/prod", limit=10) == b"second"


def test_lets_one_of_many_writers_win(store: Store) -> None:
    start = threading.Barrier(16)

    def write(number: int) -> bool:
        start.wait(timeout=30)
        return store.put("images/race", b"%02d" % number * 500)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert won.count(True) == 1
    assert store.get("images/race", limit=1000) == b"%02d" % won.index(True) * 500


def test_readers_never_see_half_an_object(store: Store) -> None:
    bodies = [bytes([number]) * 200_000 for number in range(4)]
    store.put("channels/c", bodies[0], replace=True)
    seen: list[bytes] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(store.get("channels/c", limit=200_000))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for body in bodies * 3:
            store.put("channels/c", body, replace=True)
        done.set()
        reader.result(timeout=30)
    assert set(seen) <= set(bodies)


def test_lists_keys_in_the_order_of_their_bytes(store: Store) -> None:
    names = ["a", "images/b", "images/B", "images/a-1/x", "images/a/x", "images/a.1", "z/y/x"]
    for name in names:
        store.put(name, b"1")
    assert list(store.keys("")) == sorted(names)
    assert list(store.keys("images/")) == sorted(n for n in names if n.startswith("images/"))
    assert list(store.keys("images/a")) == ["images/a-1/x", "images/a.1", "images/a/x"]
    assert list(store.keys("images/b")) == ["images/b"]
    assert list(store.keys("none/")) == []
    assert list(store.keys("images/zzz")) == []


def test_lists_more_than_a_page(store: Store) -> None:
    # S3 gives 1000 keys a page.
    names = [f"packs/{number:064x}" for number in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda name: store.put(name, b"1"), names))
    assert list(store.keys("packs/")) == names


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        ".hidden",
        "a/.tmp",
        "a b",
        "a\nb",
        "a\0b",
        "a%2fb",
        "ä",
        "a\\b",
        "a?b",
        "x" * 513,
    ],
)
def test_refuses_weird_keys(store: Store, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get(key, limit=1),
        lambda: store.put(key, b"1"),
        lambda: store.size(key),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a//", ".", "a b", "*"])
def test_refuses_weird_prefixes(store: Store, prefix: str) -> None:
    with pytest.raises(UsageError):
        list(store.keys(prefix))


def test_holds_every_character_a_key_may_have(store: Store) -> None:
    key = "images/_Az09._+=@~-/~x"
    assert store.put(key, b"1")
    assert store.get(key, limit=1) == b"1"
    assert list(store.keys("images/_Az09._+=@")) == [key]
    assert not store.put(key, b"2")


def test_serves_many_threads_at_once(store: Store) -> None:
    whole = bytes(range(256)) * 4096
    store.put("packs/big", whole)

    def part(number: int) -> bool:
        offset = number * 7919 % 900_000
        data = store.get("packs/big", offset=offset, length=100_000, limit=100_000)
        return data == whole[offset : offset + 100_000]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(part, range(100)))
