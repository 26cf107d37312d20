"""A service of AWS that takes only requests that are signed by the keys of a role, and keeps what it was asked.

Unlike moto it reckons the signature anew (Signature Version 4), over all that was sent.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEYS = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "secret/of+the-role", "Token": "IQoJb3JpZ2luX2VjEXAMPLE=="}
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/((\d+)/([^/]+)/([^/]+)/aws4_request), ?"
    r"SignedHeaders=([^,]+), ?Signature=(\w+)"
)


@dataclass(slots=True)
class SignedService:
    """What it was asked, in order: service, method and path, body."""

    url: str = ""
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@contextmanager
def running_signed_service() -> Iterator[SignedService]:
    """The fake, listening on a free port until the block ends."""
    fake = SignedService()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value.strip() for name, value in self.headers.items()}
            service, why = service_of(self.command, self.path, headers, body)
            if why:
                fake.refused.append(why)
            else:
                fake.asked.append((service, f"{self.command} {self.path}", body))
            self.send_response(403 if why else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_POST

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def service_of(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[str, str]:
    """The service that the request is signed for, and what is wrong with it, if anything."""
    found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if found is None:
        return "", f"not signed: {headers.get('authorization')}"
    key, scope, day, region, service, names, signature = found.groups()
    signed = names.split(";")
    if key != KEYS["AccessKeyId"] or headers.get("x-amz-security-token") != KEYS["Token"]:
        return service, "another's keys"
    if "x-amz-security-token" not in signed or "host" not in signed:
        return service, f"signed only {names}"
    digest = hashlib.sha256(body).hexdigest()
    if service == "s3" and headers.get("x-amz-content-sha256") != digest:
        return service, "another body than was announced"
    canonical = "\n".join([method, path, "", *(f"{name}:{headers[name]}" for name in signed), "", names, digest])
    told = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    secret = f"AWS4{KEYS['SecretAccessKey']}".encode()
    for part in (day, region, service, "aws4_request", told):
        secret = hmac.digest(secret, part.encode(), "sha256")
    return service, "" if hmac.compare_digest(secret.hex(), signature) else "another signature"
