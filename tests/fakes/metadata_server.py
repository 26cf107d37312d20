"""The metadata services of three clouds on this machine: what an instance is told, and how it can go wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "AQAEAExampleToken=="


@dataclass
class FakeMetadata:
    """What the services say now. `clouds` are those that answer; the others' addresses are 404, as another cloud's are.

    `silent` accepts and never answers, `status` replaces every answer.
    """

    clouds: frozenset[str] = frozenset({"aws", "gcp", "azure"})
    url: str = ""
    date: str | None = None
    silent: bool = False
    status: int | None = None
    valid_tokens: set[str] = field(default_factory=set)
    spot_action: dict[str, str] | str | None = None
    rebalance: str | None = None
    lifecycle: str | None = "InService"
    instance_id: str = "i-0123456789abcdef0"
    role_keys: dict[str, str] | None = None
    """Of the role `dbr`, as AWS names them: AccessKeyId, SecretAccessKey, Token."""
    preempted: bool = False
    maintenance: str = "NONE"
    azure_name: str = "trainer-1"
    azure_events: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def expire_tokens(self) -> None:
        """As after six hours, or when the machine comes back from hibernation."""
        self.valid_tokens.clear()


@contextmanager
def running_metadata(**state: Any) -> Iterator[FakeMetadata]:
    """The fake, listening on a free port until the block ends."""
    fake = FakeMetadata(**state)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def log_message(self, *args: object) -> None:
            pass

        def date_time_string(self, timestamp: float | None = None) -> str:
            return fake.date or super().date_time_string(timestamp)

        def _answer(self) -> None:
            fake.asked.append(f"{self.command} {self.path}")
            if fake.silent:
                time.sleep(5.0)
                return
            status, body, headers = answer(fake, self.command, self.path, dict(self.headers.items()))
            content = body.encode()
            self.send_response(fake.status or status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


Reply = tuple[int, str, dict[str, str]]
_NOT_FOUND: Reply = (404, "Not Found", {})


def answer(fake: FakeMetadata, method: str, path: str, headers: dict[str, str]) -> Reply:
    """Status, body and headers, as the real services give them."""
    lower = {name.lower(): value for name, value in headers.items()}
    if path.startswith("/latest/") and "aws" in fake.clouds:
        return _aws(fake, method, path, lower)
    if path.startswith("/computeMetadata/v1/") and "gcp" in fake.clouds:
        return _gcp(fake, path, lower)
    if path.startswith("/metadata/") and "azure" in fake.clouds:
        return _azure(fake, path, lower)
    return _NOT_FOUND


def _aws(fake: FakeMetadata, method: str, path: str, headers: dict[str, str]) -> Reply:
    if path == "/latest/api/token":
        if method != "PUT" or "x-aws-ec2-metadata-token-ttl-seconds" not in headers:
            return 400, "Bad Request", {}
        token = f"{TOKEN}{len(fake.asked)}"
        fake.valid_tokens.add(token)
        return 200, token, {}
    if headers.get("x-aws-ec2-metadata-token") not in fake.valid_tokens:
        return 401, "Unauthorized", {}
    said = {
        "spot/instance-action": fake.spot_action
        if isinstance(fake.spot_action, str | None)
        else json.dumps(fake.spot_action),
        "events/recommendations/rebalance": fake.rebalance,
        "autoscaling/target-lifecycle-state": fake.lifecycle,
        "instance-id": fake.instance_id,
        "iam/security-credentials/": None if fake.role_keys is None else "dbr",
        "iam/security-credentials/dbr": None if fake.role_keys is None else json.dumps(fake.role_keys, indent=2),
    }.get(path.removeprefix("/latest/meta-data/"))
    return _NOT_FOUND if said is None else (200, said, {})


def _gcp(fake: FakeMetadata, path: str, headers: dict[str, str]) -> Reply:
    if headers.get("metadata-flavor") != "Google":
        return 403, "Forbidden", {}
    said = {
        "": "instance/\nproject/\n",
        "instance/preempted": "TRUE" if fake.preempted else "FALSE",
        "instance/maintenance-event": fake.maintenance,
    }.get(path.removeprefix("/computeMetadata/v1/"))
    return _NOT_FOUND if said is None else (200, said, {"Metadata-Flavor": "Google"})


def _azure(fake: FakeMetadata, path: str, headers: dict[str, str]) -> Reply:
    if headers.get("metadata") != "true":
        return 400, "Bad Request", {}
    if path.startswith("/metadata/instance/compute/name"):
        return 200, fake.azure_name, {}
    if path.startswith("/metadata/scheduledevents"):
        return 200, json.dumps({"DocumentIncarnation": len(fake.azure_events), "Events": fake.azure_events}), {}
    return _NOT_FOUND
