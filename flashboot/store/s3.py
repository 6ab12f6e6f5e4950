"""A store in an S3 bucket, over a botocore client that somebody else made.

The client shall not retry (store.retry does, visibly and within its policy), shall have timeouts
and shall leave checksums to us: `flashboot.cloud.clients.s3_client` makes such a one.

For `get` a role needs s3:GetObject, for `put` s3:PutObject, for `keys` s3:ListBucket. Without
s3:ListBucket S3 answers 403 instead of 404 for what is not there
(docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html), which arrives as AccessDenied.
"""

import re
from collections.abc import Iterator
from typing import Any

import botocore.exceptions
import urllib3.exceptions

from flashboot.errors import (
    AccessDenied,
    DocumentTooLarge,
    FlashbootError,
    ObjectMissing,
    StoreError,
    StoreUnavailable,
)
from flashboot.store.base import is_key, require_key, require_prefix, require_range
from flashboot.store.watchdog import Watchdog

# docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. Codes that may pass although their
# status (mostly 400 or 403) says otherwise: credentials are refreshed, a body is sent again.
_PASSING_CODES = {
    "BadDigest",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteBody",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TokenRefreshRequired",
}
# 409 is ConditionalRequestConflict: another conditional write was under way. 416 is a range beyond
# the end: of an object that was published whole, so this answer is stale or wrong.
_PASSING_STATUS = {408, 409, 416, 425, 429}

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")

# What reading a body raises: botocore wraps some of urllib3's errors and lets others through.
_BROKEN = (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError)


class S3Store:
    """Objects below `prefix` of a bucket. `client` is botocore's, and shared by all threads.

    A body that takes longer than 30 s plus its length at `slowest_bytes_per_second` is cut off
    as StoreUnavailable: timeouts of the client only see a connection that is wholly silent.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str = "",
        *,
        slowest_bytes_per_second: int = 128 * 1024,
        patience_seconds: float = 30,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._folder = f"{prefix}/" if prefix else ""
        self._slowest = slowest_bytes_per_second
        self._patience_seconds = patience_seconds
        self._watchdog = Watchdog()

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._folder}".rstrip("/")

    def get(self, key: str, *, offset: int = 0, length: int | None = None, limit: int) -> bytes:
        require_key(key)
        require_range(offset, length, limit)
        if length is not None and length > limit:
            raise DocumentTooLarge(self._name(key), length, limit)
        ranged = offset > 0 or length is not None
        arguments = {"Bucket": self._bucket, "Key": self._folder + key}
        if ranged:
            last = "" if length is None else offset + length - 1
            arguments["Range"] = f"bytes={offset}-{last}"
        try:
            answer = self._client.get_object(**arguments)
        except (botocore.exceptions.ClientError, *_BROKEN) as error:
            raise self._translate(error, key) from _cause(error)
        try:
            data = self._body(key, answer, limit)
            if ranged:
                self._require_range(key, answer, offset)
        except FlashbootError:
            # What is left of the body would be read as the next answer on this connection.
            answer["Body"].close()
            raise
        if length is not None and len(data) != length:
            raise StoreUnavailable(self.url, key, f"{len(data)} of {length} bytes at {offset}")
        return data

    def put(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        require_key(key)
        condition = {} if replace else {"IfNoneMatch": "*"}
        try:
            self._client.put_object(
                Bucket=self._bucket, Key=self._folder + key, Body=data, **condition
            )
        except botocore.exceptions.ClientError as error:
            if not replace and _status(error) == 412:
                return False
            raise self._translate(error, key) from _cause(error)
        except _BROKEN as error:
            raise self._translate(error, key) from _cause(error)
        return True

    def size(self, key: str) -> int | None:
        require_key(key)
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=self._folder + key)
        except botocore.exceptions.ClientError as error:
            if _status(error) == 404:
                return None
            raise self._translate(error, key) from _cause(error)
        except _BROKEN as error:
            raise self._translate(error, key) from _cause(error)
        return int(answer["ContentLength"])

    def keys(self, prefix: str) -> Iterator[str]:
        require_prefix(prefix)
        # All pages first, then sorted: S3 itself lists in this order, but SeaweedFS 4.48 lists
        # folder by folder ('a/x' before 'a-1/x'). A store has thousands of keys, not millions.
        yield from sorted(set(self._listing(prefix)))

    def _listing(self, prefix: str) -> Iterator[str]:
        arguments = {"Bucket": self._bucket, "Prefix": self._folder + prefix}
        while True:
            try:
                page = self._client.list_objects_v2(**arguments)
            except (botocore.exceptions.ClientError, *_BROKEN) as error:
                raise self._translate(error, f"{prefix}*") from _cause(error)
            for entry in page.get("Contents", ()):
                key = entry["Key"][len(self._folder) :]
                if is_key(key):
                    yield key
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if token is None or token == arguments.get("ContinuationToken"):
                raise StoreError(self.url, "its listing does not go on where it broke off")
            arguments["ContinuationToken"] = token

    def _name(self, key: str) -> str:
        return f"object {key} at {self.url}"

    def _body(self, key: str, answer: dict[str, Any], limit: int) -> bytes:
        """The body, of at most `limit` bytes."""
        declared = answer.get("ContentLength")
        if declared is not None and declared > limit:
            raise DocumentTooLarge(self._name(key), declared, limit)
        body = answer["Body"]
        seconds = self._patience_seconds + (declared or limit) / self._slowest
        with self._watchdog.watch(body, seconds) as watch:
            try:
                # With a declared length a read of all is bounded by it, and copies nothing:
                # 1.6 times the speed of reading pieces in 4 threads (1 MiB pieces, 2 cores).
                data: bytes = body.read() if declared is not None else body.read(limit + 1)
            except Exception as error:
                if not watch.fired and not isinstance(error, _BROKEN):
                    raise
                reason = "the body came too slowly" if watch.fired else _reason(error)
                raise StoreUnavailable(self.url, key, reason) from error
        if watch.fired:
            raise StoreUnavailable(self.url, key, "the body came too slowly")
        if len(data) > limit:
            raise DocumentTooLarge(self._name(key), len(data), limit)
        return data

    def _require_range(self, key: str, answer: dict[str, Any], offset: int) -> None:
        """Raise StoreError where a server or proxy did not answer with the range asked for."""
        match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        if answer["ResponseMetadata"]["HTTPStatusCode"] != 206 or match is None:
            raise StoreError(self.url, f"it does not answer ranges of {key} with ranges")
        if int(match[1]) != offset:
            raise StoreError(self.url, f"asked for {key} from {offset} on, it sent {match[0]}")

    def _translate(self, error: Exception, key: str) -> StoreError:
        if isinstance(error, botocore.exceptions.ClientError):
            return self._translate_answer(error, key)
        if isinstance(error, _NOT_PASSING) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return StoreError(self.url, _reason(error))
        if isinstance(error, _NO_CREDENTIALS):
            return AccessDenied(self.url, key, _reason(error))
        return StoreUnavailable(self.url, key, _reason(error))

    def _translate_answer(self, error: botocore.exceptions.ClientError, key: str) -> StoreError:
        status, details = _status(error), error.response.get("Error", {})
        code = str(details.get("Code", status))
        message = str(details.get("Message") or "").rstrip(".")  # our sentences end by themselves
        reason = f"{code}: {message}" if message else code
        if code in _PASSING_CODES or status in _PASSING_STATUS or status >= 500:
            return StoreUnavailable(self.url, key, reason)
        if code == "NoSuchBucket":
            return StoreError(self.url, "there is no such bucket")
        if status == 404:
            return ObjectMissing(self.url, key)
        if status in (401, 403):
            return AccessDenied(self.url, key, reason)
        return StoreError(self.url, f"{key}: {reason}")


_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
)
_NOT_PASSING = (
    botocore.exceptions.ParamValidationError,
    botocore.exceptions.ValidationError,
    botocore.exceptions.InvalidProxiesConfigError,
    botocore.exceptions.UnsupportedSignatureVersionError,
    botocore.exceptions.EndpointProviderError,
)


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _cause(error: Exception) -> Exception | None:
    """What is worth showing behind our sentence: not what says the same in more words."""
    return None if isinstance(error, botocore.exceptions.ClientError) else error


def _reason(error: BaseException) -> str:
    return str(error).rstrip(".") or type(error).__name__
