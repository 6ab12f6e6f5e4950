"""The instance metadata service, version 2 only: who and where this instance is.

docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-v2-how-it-works.html and
docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html (the paths).
Not for credentials: botocore fetches and refreshes those itself (cloud.clients).
"""

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from flashboot.errors import NoMetadata

DEFAULT_ENDPOINT = "http://169.254.169.254"

# The longest that AWS allows: six hours.
_TOKEN_SECONDS = 21600
# Ask for a new token this long before the old one ends.
_TOKEN_MARGIN_SECONDS = 60
# The identity document has about 500 bytes; user data, the largest item, at most 16 KiB.
_ANSWER_BYTES = 64 * 1024
_PAUSE_SECONDS = 0.1


class Metadata:
    """A client of the metadata service. Every method raises NoMetadata and may be called from
    many threads.

    Each request gets `attempts` tries with `timeout_seconds` for each connect and read; silence,
    5xx and 429 are tried again. `clock` and `sleep` are for tests.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        timeout_seconds: float = 1.0,
        attempts: int = 4,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme != "http" or not parts.hostname:
            raise NoMetadata("its own address", f"{endpoint!r} is not an http:// address")
        self._host, self._port = parts.hostname, parts.port or 80
        self._timeout_seconds = timeout_seconds
        self._attempts = attempts
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._token = ""
        self._token_ends = 0.0

    def get(self, path: str) -> str:
        """The item at `path` below /latest/, as 'meta-data/instance-id'."""
        found = self.find(path)
        if found is None:
            raise NoMetadata(path, "this instance has no such item")
        return found

    def find(self, path: str) -> str | None:
        """The item at `path` below /latest/; None where this instance has none (404)."""
        status, text = self._ask(path, self._current_token())
        if status == 401:
            # Tokens are void after a stop and start, and where the service itself was restarted.
            status, text = self._ask(path, self._new_token())
        if status == 404:
            return None
        if status != 200:
            raise NoMetadata(path, f"it answered with {status}")
        return text

    def instance_id(self) -> str:
        """As i-0123456789abcdef0."""
        return self.get("meta-data/instance-id")

    def region(self) -> str:
        """As eu-west-1."""
        return self.get("meta-data/placement/region")

    def availability_zone(self) -> str:
        """As eu-west-1a."""
        return self.get("meta-data/placement/availability-zone")

    def instance_type(self) -> str:
        """As i3.large."""
        return self.get("meta-data/instance-type")

    def mac(self) -> str:
        """The MAC address of the primary interface, with colons."""
        return self.get("meta-data/mac")

    def block_devices(self) -> dict[str, str]:
        """Virtual devices ('root', 'ami', 'ebs1', 'ephemeral0') and the names they were given.

        The names are those of the launch request: on Nitro the kernel calls the devices nvme*.
        """
        folder = "meta-data/block-device-mapping/"
        return {name: self.get(folder + quote(name)) for name in self.get(folder).split()}

    def tags(self) -> dict[str, str] | None:
        """The instance's tags; None where its metadata options do not show them."""
        folder = "meta-data/tags/instance"
        names = self.find(folder)
        if names is None:
            return None
        return {name: self.get(f"{folder}/{quote(name, safe='')}") for name in names.splitlines()}

    def identity_document(self) -> dict[str, Any]:
        """The instance identity document: accountId, imageId, architecture, region and more."""
        path = "dynamic/instance-identity/document"
        text = self.get(path)
        try:
            document = json.loads(text)
        except ValueError as error:
            raise NoMetadata(path, "it is not JSON") from error
        if not isinstance(document, dict):
            raise NoMetadata(path, "it is not a JSON object")
        return document

    def _ask(self, path: str, token: str) -> tuple[int, str]:
        return self._request("GET", f"/latest/{path}", {"X-aws-ec2-metadata-token": token})

    def _current_token(self) -> str:
        with self._lock:
            if self._clock() < self._token_ends:
                return self._token
        return self._new_token()

    def _new_token(self) -> str:
        asked = self._clock()
        header = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        status, token = self._request("PUT", "/latest/api/token", header)
        if status == 403:
            raise NoMetadata("a token", "it is switched off for this instance")
        # Whoever does not give tokens does not speak version 2. There is no falling back.
        if status != 200 or not token or not token.isprintable():
            raise NoMetadata("a token", f"it answered with {status}")
        with self._lock:
            self._token, self._token_ends = token, asked + _TOKEN_SECONDS - _TOKEN_MARGIN_SECONDS
        return token

    def _request(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        """Status and text of the first answer that is neither 5xx nor 429."""
        for attempt in range(self._attempts):
            if attempt:
                self._sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
            cause: Exception | None = None
            try:
                status, text = self._once(method, path, headers)
            except (OSError, http.client.HTTPException) as error:
                cause, reason = error, str(error) or type(error).__name__
            else:
                if status < 500 and status != 429:
                    return status, text
                reason = f"it answered with {status}"
        raise NoMetadata(path, f"{reason} ({self._attempts} attempts)") from cause

    def _once(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        # A link-local address: proxies of the environment are never asked.
        connection = http.client.HTTPConnection(
            self._host, self._port, timeout=self._timeout_seconds
        )
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body = answer.read(_ANSWER_BYTES)
            return answer.status, body.decode("utf-8", "replace").strip()
        finally:
            connection.close()
