"""Where a store is: `s3://bucket/prefix` or `file:///path`, read once and kept as a value."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

from flashboot.errors import UsageError
from flashboot.store.base import require_key

_FORMS = "write s3://BUCKET[/PREFIX] or file:///PATH"
# docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, general purpose buckets.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """One store. `bucket` and `prefix` belong to s3, the absolute `path` to file."""

    scheme: Literal["s3", "file"]
    bucket: str = ""
    prefix: str = ""
    path: str = ""

    @property
    def url(self) -> str:
        """The address as `parse_address` reads it, without a slash at its end."""
        if self.scheme == "file":
            return "file://" + quote(self.path)
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def parse_address(url: str) -> StoreAddress:
    """The store that `url` names. Raises UsageError for anything else than the two forms."""
    # Not urlsplit: it quietly drops tabs and line breaks and fails at a stray bracket.
    scheme, separator, rest = url.partition("://")
    if scheme not in ("s3", "file") or not separator:
        raise UsageError(f"{url!r} is not the address of a store", hint=_FORMS)
    if "?" in rest or "#" in rest:
        raise UsageError(f"{url!r} has a query or a fragment, which no store has", hint=_FORMS)
    return _file(url, rest) if scheme == "file" else _s3(url, rest)


def _file(url: str, rest: str) -> StoreAddress:
    if not rest.startswith("/"):
        raise UsageError(
            f"{url!r} names a host, not a path", hint="an absolute path has three slashes: file:///"
        )
    try:
        path = unquote(rest, errors="strict")
        path.encode()
    except UnicodeError as error:
        raise UsageError(f"{url!r} is not UTF-8", hint=_FORMS) from error
    if not path.isprintable() or ".." in path.split("/"):
        raise UsageError(f"{url!r} has '..' or a character that no path should have", hint=_FORMS)
    return StoreAddress("file", path="/" + path.strip("/"))


def _s3(url: str, rest: str) -> StoreAddress:
    bucket, _, path = rest.partition("/")
    if _BUCKET.fullmatch(bucket) is None or ".." in bucket:
        raise UsageError(f"{url!r} has no valid bucket name", hint=_FORMS)
    prefix = path.strip("/")
    if prefix:
        require_key(prefix)
    return StoreAddress("s3", bucket=bucket, prefix=prefix)
