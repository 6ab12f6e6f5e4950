"""From --store to a store: the one place where a verb gets at images."""

import argparse
import os

from flashboot.errors import UsageError
from flashboot.store.base import Store


def store_url(arguments: argparse.Namespace) -> str:
    """--store, else FLASHBOOT_STORE. Raises UsageError where neither says anything."""
    url: str = arguments.store or os.environ.get("FLASHBOOT_STORE", "")
    if not url:
        raise UsageError(
            "no store is named",
            hint="say --store s3://BUCKET/PREFIX or --store file:///DIRECTORY, "
            "or set FLASHBOOT_STORE (also in /etc/flashboot/environment)",
        )
    return url


def store_of(arguments: argparse.Namespace) -> Store:
    """The store that the command names, with retries. Raises UsageError, StoreError, CloudError."""
    raise UsageError(f"{store_url(arguments)}: stores are not built yet")
