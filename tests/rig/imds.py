"""A strict fake of the instance metadata service, version 2 only.

    with Imds(Instance(instance_id="i-1")) as imds:
        os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = imds.endpoint

It refuses what the real one refuses (docs.aws.amazon.com/AWSEC2/latest/UserGuide/
instance-metadata-v2-how-it-works.html): requests without a valid token (401), tokens asked for
without or with a wrong time to live (400), and forwarded ones (403). Version 1 does not exist.

It binds to loopback in a thread of this process. A guest under QEMU reaches it at the real
address by `guestfwd=tcp:169.254.169.254:80-cmd:nc 127.0.0.1 PORT`: a process for each connection,
because the form with `-tcp:` opens one connection for the whole life of the machine.
"""

import argparse
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote

_TOKEN_HEADER = "X-aws-ec2-metadata-token"
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_LONGEST_TTL_SECONDS = 21600


def fixed_credentials() -> dict[str, str]:
    """Credentials that are good for six hours and known to nobody."""
    ends = datetime.now(UTC) + timedelta(hours=6)
    return {
        "AccessKeyId": "ASIARIGRIGRIGRIGRIG0",
        "SecretAccessKey": "rig-role-secret",
        "Token": "rig-role-token",
        "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


@dataclass(slots=True, kw_only=True)
class Instance:
    """What the metadata service says about its instance. Change it at any time.

    `credentials` is called for each request; AccessKeyId, SecretAccessKey, Token, Expiration.
    """

    instance_id: str = "i-0123456789abcdef0"
    instance_type: str = "i3.large"
    region: str = "eu-west-1"
    availability_zone: str = "eu-west-1a"
    image_id: str = "ami-0123456789abcdef0"
    account_id: str = "000000000000"
    architecture: str = "x86_64"
    mac: str = "52:54:00:12:34:56"
    local_ipv4: str = "10.0.2.15"
    block_devices: dict[str, str] = field(
        default_factory=lambda: {"ami": "/dev/xvda", "root": "/dev/xvda"}
    )
    role: str | None = "node"
    credentials: Callable[[], dict[str, str]] = fixed_credentials
    # None where the instance's metadata options do not show tags.
    tags: dict[str, str] | None = None
    user_data: str | None = None

    def items(self) -> dict[str, str]:
        """Every path below /latest/, without slashes at its end, and its text."""
        meta = {
            "ami-id": self.image_id,
            "instance-id": self.instance_id,
            "instance-type": self.instance_type,
            "local-ipv4": self.local_ipv4,
            "mac": self.mac,
            "placement/availability-zone": self.availability_zone,
            "placement/region": self.region,
            "services/domain": "amazonaws.com",
            "services/partition": "aws",
            f"network/interfaces/macs/{self.mac}/mac": self.mac,
            f"network/interfaces/macs/{self.mac}/device-number": "0",
            f"network/interfaces/macs/{self.mac}/local-ipv4s": self.local_ipv4,
        }
        meta |= {f"block-device-mapping/{name}": dev for name, dev in self.block_devices.items()}
        if self.tags is not None:
            meta |= {f"tags/instance/{name}": value for name, value in self.tags.items()}
        if self.role is not None:
            meta[f"iam/security-credentials/{self.role}"] = self._role_credentials()
        found = {f"meta-data/{path}": text for path, text in meta.items()}
        found["dynamic/instance-identity/document"] = self._identity_document()
        if self.user_data is not None:
            found["user-data"] = self.user_data
        return found

    def _role_credentials(self) -> str:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        head = {"Code": "Success", "LastUpdated": now, "Type": "AWS-HMAC"}
        return json.dumps(head | self.credentials(), indent=2)

    def _identity_document(self) -> str:
        document = {
            "accountId": self.account_id,
            "architecture": self.architecture,
            "availabilityZone": self.availability_zone,
            "imageId": self.image_id,
            "instanceId": self.instance_id,
            "instanceType": self.instance_type,
            "pendingTime": "2026-01-01T00:00:00Z",
            "privateIp": self.local_ipv4,
            "region": self.region,
            "version": "2017-09-30",
        }
        return json.dumps(document, indent=2)


@dataclass(slots=True, kw_only=True)
class Misbehaviour:
    """Knobs; the defaults behave."""

    delay_seconds: float = 0.0
    # The next so many requests get 503.
    fail_next: int = 0
    # The next so many connections are closed without an answer.
    drop_next: int = 0
    # Switched off in the instance's metadata options: 403 to everything.
    disabled: bool = False
    # No token is ever good enough.
    unauthorized: bool = False
    # Speaks version 1 only, as some imitations do: tokens do not exist, everything is told.
    version_1_only: bool = False


class Imds:
    """The service. `requests` counts 'METHOD /path'; `answers` counts status codes."""

    def __init__(self, instance: Instance | None = None, *, port: int = 0) -> None:
        self.instance = instance or Instance()
        self.misbehaviour = Misbehaviour()
        self.requests: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.lock = threading.Lock()
        self._tokens: dict[str, float] = {}
        self._wanted_port = port
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """On 127.0.0.1."""
        assert self._server is not None, "not started"
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        """http://127.0.0.1:PORT"""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; requests are answered from now on."""
        self._server = _Server(self, self._wanted_port)
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="imds", daemon=True
        ).start()

    def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def forget_tokens(self) -> None:
        """Make every token handed out so far void."""
        with self.lock:
            self._tokens.clear()

    def new_token(self, seconds: int) -> str:
        """A token that is good for so long."""
        token = secrets.token_urlsafe(40) + "=="
        with self.lock:
            self._tokens[token] = time.monotonic() + seconds
        return token

    def knows(self, token: str | None) -> bool:
        """Whether this token was handed out and is still good."""
        if token is None or self.misbehaviour.unauthorized:
            return False
        with self.lock:
            return self._tokens.get(token, 0.0) > time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # The default of 5 lets a burst of clients wait a second for their second SYN.
    request_queue_size = 128

    def __init__(self, owner: Imds, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.owner = owner

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Quiet; `Imds.requests` counts."""

    def do_PUT(self) -> None:
        if not self._admitted():
            return
        if self.server.owner.misbehaviour.version_1_only or self.path != "/latest/api/token":
            self._send(404)
            return
        ttl = self.headers.get(_TTL_HEADER, "")
        if not (ttl.isascii() and ttl.isdigit() and 1 <= int(ttl) <= _LONGEST_TTL_SECONDS):
            self._send(400)
            return
        self._send(200, self.server.owner.new_token(int(ttl)), {_TTL_HEADER: ttl})

    def do_GET(self) -> None:
        if not self._admitted():
            return
        owner = self.server.owner
        known = owner.knows(self.headers.get(_TOKEN_HEADER))
        if not known and not owner.misbehaviour.version_1_only:
            self._send(401)
            return
        text = self._item(unquote(self.path.partition("?")[0]))
        if text is None:
            self._send(404)
        else:
            self._send(200, text)

    def _admitted(self) -> bool:
        """Count the request; False where it was refused or dropped already."""
        owner, knobs = self.server.owner, self.server.owner.misbehaviour
        # A body, if any, must not be read as the next request.
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with owner.lock:
            owner.requests[f"{self.command} {self.path}"] += 1
            drop, fail = knobs.drop_next > 0, knobs.fail_next > 0
            knobs.drop_next -= drop
            knobs.fail_next -= fail and not drop
        if knobs.delay_seconds:
            time.sleep(knobs.delay_seconds)
        if drop:
            self.close_connection = True
            return False
        if fail:
            self._send(503)
            return False
        if knobs.disabled or "X-Forwarded-For" in self.headers:
            self._send(403)
            return False
        return True

    def _item(self, path: str) -> str | None:
        """The text of an item, or the names in a folder, one a line, folders with a slash."""
        if not path.startswith("/latest/"):
            return None
        wanted = path.removeprefix("/latest/").rstrip("/")
        items = self.server.owner.instance.items()
        if wanted in items:
            return items[wanted]
        below = [item.removeprefix(f"{wanted}/") for item in items if item.startswith(f"{wanted}/")]
        names = {name.partition("/")[0] + ("/" if "/" in name else "") for name in below}
        return "\n".join(sorted(names)) if names else None

    def _send(self, status: int, text: str = "", headers: dict[str, str] | None = None) -> None:
        owner = self.server.owner
        with owner.lock:
            owner.answers[status] += 1
        body = text.encode()
        # send_response adds Server and Date; the guest may set its clock by the latter.
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve by hand: `python -m tests.rig.imds --port 9169`, then curl; ends with Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9169)
    parser.add_argument("--instance-id", default=Instance().instance_id)
    options = parser.parse_args()
    with Imds(Instance(instance_id=options.instance_id), port=options.port) as imds:
        print(f"AWS_EC2_METADATA_SERVICE_ENDPOINT={imds.endpoint}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
