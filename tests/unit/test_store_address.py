"""Addresses of stores, and opening them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashboot.errors import UsageError
from flashboot.store.address import StoreAddress, parse_address
from flashboot.store.directory import DirectoryStore
from flashboot.store.open import open_store


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("s3://images", StoreAddress("s3", bucket="images"), "s3://images"),
        ("s3://images/", StoreAddress("s3", bucket="images"), "s3://images"),
        (
            "s3://my.images-1/prod/eu/",
            StoreAddress("s3", bucket="my.images-1", prefix="prod/eu"),
            "s3://my.images-1/prod/eu",
        ),
        ("file:///srv/images", StoreAddress("file", path="/srv/images"), "file:///srv/images"),
        ("file:///srv/images/", StoreAddress("file", path="/srv/images"), "file:///srv/images"),
        ("file:///a%20b", StoreAddress("file", path="/a b"), "file:///a%20b"),
        ("file:///", StoreAddress("file", path="/"), "file:///"),
    ],
)
def test_reads_both_forms(url: str, address: StoreAddress, shown: str) -> None:
    assert parse_address(url) == address
    assert address.url == shown
    assert parse_address(address.url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "images",
        "/srv/images",
        "s3:images",
        "s3:/images",
        "s3://",
        "s3:///prefix",
        "s3://Bucket",
        "s3://ab",
        "s3://a..b/x",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://user:pass@bucket",
        "s3://bucket:80/x",
        "s3://bucket/a?b",
        "s3://bucket/a#b",
        "s3://bucket/a b",
        "http://bucket/x",
        "file://srv/images",
        "file://localhost/srv",
        "file:/srv",
        "file://",
        "file:///srv/../etc",
        "file:///srv/%2e%2e/etc",
        "file:///srv/a%00b",
        "s3://[bucket",
    ],
)
def test_refuses_everything_else(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(url)
    assert caught.value.exit_code == 2


@given(st.text())
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    for url in (text, f"s3://{text}", f"file:///{text}"):
        try:
            address = parse_address(url)
        except UsageError:
            continue
        assert parse_address(address.url) == address


def test_opens_a_directory_without_a_client(tmp_path: Path) -> None:
    def none() -> Any:
        raise AssertionError("no client is needed")

    store = open_store(f"file://{tmp_path}", s3_client=none)
    assert isinstance(store, DirectoryStore)
    assert store.url == f"file://{tmp_path}"


def test_opens_a_bucket_with_the_client() -> None:
    store = open_store("s3://images/prod", s3_client=object)
    assert store.url == "s3://images/prod"
    assert open_store("s3://images", s3_client=object).url == "s3://images"
