"""From a store's address to a store."""

from collections.abc import Callable
from typing import Any

from flashboot.store.address import parse_address
from flashboot.store.base import Store
from flashboot.store.directory import DirectoryStore


def open_store(url: str, *, s3_client: Callable[[], Any]) -> Store:
    """The store at `url`; `s3_client` makes a botocore client and is called for s3:// only.

    No request is made yet. Raises UsageError for an address that is none.
    """
    address = parse_address(url)
    if address.scheme == "file":
        return DirectoryStore(address.path)
    # Imported here: botocore's exceptions cost more than all the rest of this room.
    from flashboot.store.s3 import S3Store

    return S3Store(s3_client(), address.bucket, address.prefix)
