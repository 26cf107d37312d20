"""A proxy between an S3 client and a server, that does to chosen requests what networks and services do.

A `Fault` says which requests (verb, key, the n-th of them) and what becomes of them. What no fault is meant for passes
unchanged: signatures hold, because the Host header is passed on too.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import fnmatch
import functools
import hashlib
import http.client
import http.server
import re
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

_PIECE_BYTES = 16 * 1024
_GATE_SECONDS_MAX = 100
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
Checksums = Literal["ignored", "kept", "verified"]


class What(enum.Enum):
    """What becomes of a request."""

    RESET = "the connection breaks before the server hears of it"
    BLACKHOLE = "no answer ever comes, and the server does not hear of it"
    DELAY = "passes after `seconds`, or once `gate` is set"
    RATE = "both bodies pass at `bytes_per_second`"
    CUT_UPLOAD = "the connection breaks in the middle of the request's body"
    CUT_DOWNLOAD = "the connection breaks in the middle of the answer's body"
    CORRUPT_UPLOAD = "one bit of the request's body flips"
    CORRUPT_DOWNLOAD = "one bit of the answer's body flips"
    DROP_ANSWER = "the server does it, the answer is lost"
    LAND_LATE = "the connection breaks, and the server hears of it when `land` is called"
    ANSWER = "answered with `status` and `code`, the server does not hear of it"
    HIDE_NEWEST = "a listing lacks the `count` keys that were put last"


@dataclass(slots=True, kw_only=True)
class Fault:
    """Which requests, and what becomes of them.

    `verb` is an HTTP verb, or LIST; `key` a pattern of the key in the bucket. Of the requests that match, the fault
    acts on number `at` and the `times - 1` that follow (None: all), or on every `every`-th.
    """

    what: What
    verb: str = "*"
    key: str = "*"
    conditional: bool | None = None
    at: int = 1
    times: int | None = 1
    every: int | None = None
    seconds: float = 0.0
    gate: threading.Event | None = None
    bytes_per_second: float = 1e6
    status: int = 503
    code: str = "SlowDown"
    details: str = ""
    count: int = 1
    seen: int = 0
    acted: int = 0

    def acts_on(self, request: Request) -> bool:
        if self.verb not in ("*", request.verb) or not fnmatch.fnmatchcase(request.key, self.key):
            return False
        if self.conditional is not None and self.conditional != ("If-None-Match" in request.headers):
            return False
        self.seen += 1
        if self.every is not None:
            acts = self.seen % self.every == 0
        else:
            acts = self.seen >= self.at and (self.times is None or self.seen < self.at + self.times)
        self.acted += acts
        return acts


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, as a test may look at it afterwards."""

    verb: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    size_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class _Answer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(slots=True)
class _State:
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    put_keys: list[str] = field(default_factory=list)
    late: list[tuple[str, str, list[tuple[str, str]], bytes]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class FaultProxy:
    """Listens on loopback, over TLS if it is given a certificate, and passes on to `upstream_port`.

    `checksums`: "ignored", as Ceph 16 does; "kept" without a look at the body, as moto does; "verified", as S3 does:
    400 BadDigest to a wrong SHA-256, 400 to a body that isn't the one that was signed, and right checksums are kept.
    `refuses_trailers`: answers 411 to checksums in trailers, as Ceph of a few years ago does.
    """

    def __init__(
        self,
        upstream_port: int,
        *,
        certificate: tuple[str, str] | None = None,
        checksums: Checksums = "ignored",
        refuses_trailers: bool = False,
    ) -> None:
        self.upstream_port = upstream_port
        self.checksums = checksums
        self.refuses_trailers = refuses_trailers
        self.state = _State()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, what: What, verb: str = "*", key: str = "*", **how: object) -> Fault:
        """From now on; the first fault that is meant for a request acts on it."""
        fault = Fault(what=what, verb=verb, key=key, **how)  # type: ignore[arg-type]
        with self.state.lock:
            self.state.faults.append(fault)
        return fault

    def clear(self) -> None:
        """No faults any more, and nothing remembered of the past."""
        self.state = _State()

    def requests(self, verb: str = "*", key: str = "*") -> list[Request]:
        with self.state.lock:
            return [
                request
                for request in self.state.requests
                if verb in ("*", request.verb) and fnmatch.fnmatchcase(request.key, key)
            ]

    def land(self) -> int:
        """What was late reaches the server now. Returns how many requests did."""
        with self.state.lock:
            late, self.state.late = self.state.late, []
        for verb, path, headers, body in late:
            self.forward(verb, path, headers, body)
        return len(late)

    def forward(self, verb: str, path: str, headers: list[tuple[str, str]], body: bytes) -> _Answer:
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream_port, timeout=60)
        try:
            upstream.putrequest(verb, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            if self.checksums != "ignored" and any(name.lower() == "x-amz-checksum-sha256" for name, _ in headers):
                upstream.putheader("x-amz-sdk-checksum-algorithm", "SHA256")  # moto keeps a checksum only with this
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            return _Answer(status=answer.status, reason=answer.reason, headers=answer.getheaders(), body=answer.read())
        finally:
            upstream.close()


@functools.cache
def shared_proxy(upstream_port: int, checksums: Checksums = "ignored") -> FaultProxy:
    """One proxy for all tests of this process, since making a client for a new address takes a tenth of a second."""
    return FaultProxy(upstream_port, checksums=checksums)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: FaultProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that break are what this is for."""


class _Broken(Exception):
    """The connection breaks here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        try:
            self._pass_on()
        except (_Broken, OSError):
            self._break()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def handle_expect_100(self) -> bool:
        """Answered by `_read_body`: a refusal must come without the body, as from a real server."""
        return True

    def _pass_on(self) -> None:
        proxy = self.server.proxy
        request = self._request()
        state = proxy.state
        with state.lock:
            state.requests.append(request)
            fault = next((fault for fault in state.faults if fault.acts_on(request)), None)
        what = fault.what if fault else None
        if what is What.RESET:
            raise _Broken
        if fault is not None and what is What.BLACKHOLE:
            time.sleep(fault.seconds or 60)
            raise _Broken
        if fault is not None and what is What.ANSWER:
            self._refuse(fault.status, fault.code, fault.details)
            return
        if proxy.refuses_trailers and "x-amz-trailer" in self.headers:
            self._refuse(411, "MissingContentLength")
            return
        body = self._read_body(fault)
        if proxy.checksums == "verified" and (code := self._contradiction(body, fault)):
            self._refuse(400, code, body_is_read=True)
            return
        self._answer(request, body, fault)

    def _contradiction(self, body: bytes, fault: Fault | None) -> str | None:
        """S3's word for a body that isn't what its headers say: its checksum, or the digest that was signed."""
        checksum, signed = (self.headers.get(f"x-amz-{name}", "") for name in ("checksum-sha256", "content-sha256"))
        if not checksum and not _HEX_SHA256.fullmatch(signed):
            return None
        is_flipped = fault is not None and fault.what is What.CORRUPT_UPLOAD
        digest = hashlib.sha256(_flipped(body) if is_flipped else body)
        if checksum and base64.b64encode(digest.digest()).decode() != checksum:
            return "BadDigest"
        if _HEX_SHA256.fullmatch(signed) and digest.hexdigest() != signed:
            return "XAmzContentSHA256Mismatch"
        return None

    def _answer(self, request: Request, body: bytes, fault: Fault | None) -> None:
        proxy, what = self.server.proxy, fault.what if fault else None
        headers = list(self.headers.items())
        if what is What.LAND_LATE:
            with proxy.state.lock:
                proxy.state.late.append((self.command, self.path, headers, body))
            raise _Broken
        if fault is not None and what is What.DELAY:
            _wait(fault)
        answer = proxy.forward(
            self.command, self.path, headers, _flipped(body) if what is What.CORRUPT_UPLOAD else body
        )
        if self.command == "PUT" and answer.status == 200:
            with proxy.state.lock:
                proxy.state.put_keys.append(request.key)
        if what is What.DROP_ANSWER:
            raise _Broken
        if fault is not None and what is What.HIDE_NEWEST:
            answer.body = self._without_newest(answer.body, fault.count)
        if what is What.CORRUPT_DOWNLOAD:
            answer.body = _flipped(answer.body)
        self._send(answer, fault)

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        is_list = self.command == "GET" and ("list-type" in query or "uploads" in query)
        if is_list:
            key = query.get("prefix", [""])[0]
        size_bytes = int(self.headers.get("Content-Length", 0))
        headers = dict(self.headers.items())
        return Request(
            verb="LIST" if is_list else self.command, key=key, query=query, headers=headers, size_bytes=size_bytes
        )

    def _read_body(self, fault: Fault | None) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        left = int(self.headers.get("Content-Length", 0))
        if fault is not None and fault.what is What.CUT_UPLOAD:
            self.rfile.read(left // 2)
            raise _Broken
        pieces = []
        while left:
            piece = self.rfile.read(min(left, _PIECE_BYTES if _is_slow(fault) else left))
            if not piece:
                raise _Broken
            pieces.append(piece)
            left -= len(piece)
            _linger(fault, len(piece))
        return b"".join(pieces)

    def _send(self, answer: _Answer, fault: Fault | None) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        given = next((value for name, value in answer.headers if name.lower() == "content-length"), None)
        is_bodiless = self.command == "HEAD"
        self.send_header("Content-Length", (given or "0") if is_bodiless else str(len(answer.body)))
        self.end_headers()
        body = b"" if is_bodiless else answer.body
        if fault is not None and fault.what is What.CUT_DOWNLOAD:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(0.05)  # a reset overtakes what was sent just before it
            raise _Broken
        for start in range(0, len(body), _PIECE_BYTES if _is_slow(fault) else max(len(body), 1)):
            piece = body[start : start + _PIECE_BYTES] if _is_slow(fault) else body
            self.wfile.write(piece)
            _linger(fault, len(piece))

    def _refuse(self, status: int, code: str, details: str = "", *, body_is_read: bool = False) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as told</Message>{details}</Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        if not body_is_read:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
        if not body_is_read:
            # What the client still sends is taken, so that the answer isn't lost to a reset.
            with contextlib.suppress(OSError):
                if "Expect" not in self.headers:
                    self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.close_connection = True

    def _without_newest(self, listing: bytes, count: int) -> bytes:
        with self.server.proxy.state.lock:
            newest = list(dict.fromkeys(reversed(self.server.proxy.state.put_keys)))[:count]

        def kept(match: re.Match[str]) -> str:
            return "" if any(f"<Key>{key}</Key>" in match[0] for key in newest) else match[0]

        return re.sub(r"<Contents>.*?</Contents>", kept, listing.decode(), flags=re.S).encode()

    def _break(self) -> None:
        """The client sees a reset, not an orderly end."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _wait(fault: Fault) -> None:
    if fault.gate is not None:
        assert fault.gate.wait(_GATE_SECONDS_MAX), "nobody has opened the gate"
    else:
        time.sleep(fault.seconds)


def _is_slow(fault: Fault | None) -> bool:
    return fault is not None and fault.what is What.RATE


def _linger(fault: Fault | None, size_bytes: int) -> None:
    if fault is not None and fault.what is What.RATE:
        time.sleep(size_bytes / fault.bytes_per_second)


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else b"\0"
