"""An S3 server that misbehaves on request: what networks, proxies and bad clones do to a GET.

    with FaultyS3() as server:
        server.objects["bucket/key"] = b"..."
        server.faults = ["slow_down", "truncate"]      # one for each of the next requests

It checks no signatures and knows GET, HEAD and PUT of single objects only.
"""

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self, cast

Fault = Literal[
    "none",
    "slow_down",  # 503, as S3 says "you ask too often"
    "internal_error",  # 500
    "html",  # 502 with a page of HTML, as proxies do
    "expired",  # 400 ExpiredToken
    "denied",  # 403
    "conflict",  # 409 ConditionalRequestConflict
    "no_bucket",  # 404 NoSuchBucket
    "reset",  # a TCP reset instead of an answer
    "close",  # a closed connection instead of an answer
    "silent",  # no answer at all
    "truncate",  # half of the promised body, then the end
    "reset_in_body",  # half of the promised body, then a TCP reset
    "short_range",  # 206 with fewer bytes than asked for, and says so
    "shifted_range",  # 206 with other bytes than asked for, and says so
    "ignore_range",  # 200 with the whole object
    "wrong_bytes",  # one bit flipped, everything else right
    "endless",  # a chunked body that never ends
    "drip",  # a byte every 50 ms
]

_CODES: dict[str, tuple[int, str]] = {
    "slow_down": (503, "SlowDown"),
    "internal_error": (500, "InternalError"),
    "expired": (400, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "conflict": (409, "ConditionalRequestConflict"),
    "no_bucket": (404, "NoSuchBucket"),
}


@dataclass(slots=True)
class FaultyS3:
    """The server, on a free loopback port, in threads of this process."""

    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    _server: "_Server | None" = None

    @property
    def endpoint(self) -> str:
        """http://127.0.0.1:PORT"""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def next_fault(self) -> Fault:
        """The fault of this request; 'none' once the list is used up."""
        return self.faults.pop(0) if self.faults else "none"

    def __enter__(self) -> Self:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # The default of 5 lets a burst of clients wait a second for their second SYN.
    request_queue_size = 128

    def __init__(self, owner: FaultyS3) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that give up are what these tests are about: no traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        owner = self.server.owner
        key = self.path.partition("?")[0].strip("/")
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        owner.requests.append(f"{self.command} {key}")
        fault = owner.next_fault()
        if fault in _CODES:
            self._error(*_CODES[fault])
        elif fault == "html":
            self._send(502, b"<html><body><h1>Bad Gateway", {"Content-Type": "text/html"})
        elif fault in ("reset", "close", "silent"):
            self._hang_up(fault)
        elif self.command == "PUT":
            self._put(key, sent)
        elif key not in owner.objects:
            self._error(404, "NoSuchKey")
        else:
            self._get(owner.objects[key], fault)

    def _put(self, key: str, sent: bytes) -> None:
        objects = self.server.owner.objects
        if self.headers.get("If-None-Match") == "*" and key in objects:
            self._error(412, "PreconditionFailed")
            return
        objects[key] = sent
        self._send(200, b"", {"ETag": '"0"'})

    def _get(self, whole: bytes, fault: Fault) -> None:
        start, end, status = 0, len(whole), 200
        header = self.headers.get("Range", "")
        if header and fault != "ignore_range":
            first, _, last = header.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            end = min(len(whole), int(last) + 1) if last else len(whole)
        if fault == "short_range":
            end -= 1
        if fault == "shifted_range":
            start, end = start + 1, end + 1
        data = whole[start:end]
        if fault == "wrong_bytes":
            data = bytes([data[0] ^ 1]) + data[1:]
        headers = {"ETag": '"0"'}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(whole)}"
        if fault == "endless":
            self._endless(status, headers)
        elif fault in ("truncate", "reset_in_body"):
            self._send(status, data, headers, stop_at=len(data) // 2)
            self._hang_up("reset" if fault == "reset_in_body" else "close")
        elif fault == "drip":
            self._send(status, data, headers, stop_at=0)
            self._drip(data)
        else:
            self._send(status, data, headers)

    def _endless(self, status: int, headers: dict[str, str]) -> None:
        self._head(status, headers | {"Transfer-Encoding": "chunked"})
        piece = bytes(65536)
        with contextlib.suppress(OSError):
            while not self.server.owner.stopping.is_set():
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.close_connection = True

    def _drip(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            for place in range(len(data)):
                if self.server.owner.stopping.wait(0.05):
                    break
                self.wfile.write(data[place : place + 1])
        self.close_connection = True

    def _hang_up(self, how: str) -> None:
        self.close_connection = True
        connection = cast("socket.socket", self.connection)
        if how == "silent":
            self.server.owner.stopping.wait(30)
        elif how == "reset":
            # Lingering for no time at all turns the close into a reset (socket(7)).
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            time.sleep(0.01)
            # rfile and wfile hold the socket open, so close the descriptor under them.
            socket.close(connection.detach())

    def _error(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>as the test asked</Message></Error>"
        self._send(status, text.encode(), {"Content-Type": "application/xml"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, stop_at: int | None = None
    ) -> None:
        self._head(status, headers | {"Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body[:stop_at])
            self.wfile.flush()

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
