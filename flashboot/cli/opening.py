"""From --store to a store: the one place where a verb gets at images."""

import argparse
import os
from pathlib import Path
from typing import Any

from flashboot.cli import interrupts, output
from flashboot.errors import StoreError, UsageError
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


def store_of(arguments: argparse.Namespace, *, create: bool = False) -> Store:
    """The store that the command names, with retries that are told on stderr.

    No request is made yet. With `create` a directory that is missing is made, but not its parent:
    then the address is more likely to be mistyped. Raises UsageError, StoreError and CloudError.
    """
    from flashboot.store.address import parse_address
    from flashboot.store.open import open_store
    from flashboot.store.retry import RetryingStore

    url = store_url(arguments)
    address = parse_address(url)
    if create and address.scheme == "file":
        try:
            Path(address.path).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(url, f"its directory cannot be made ({error.strerror})") from error
    return RetryingStore(
        open_store(url, s3_client=_s3_client), cancelled=interrupts.cancelled, notify=output.say
    )


def _s3_client() -> Any:
    # Only an s3:// store pays for botocore.
    from flashboot.cloud.clients import s3_client
    from flashboot.cloud.settings import CloudSettings

    return s3_client(CloudSettings.from_environment())
