"""A web hook on this machine: takes messages, or refuses them, or is slow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0KEN-that-nobody-may-read"


@dataclass
class FakeWebHook:
    """`statuses` answer the first messages, 200 the rest; `delay_seconds` lies before every answer."""

    statuses: list[int] = field(default_factory=list)
    delay_seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """What was sent, refused messages included."""
    paths: list[str] = field(default_factory=list)


@contextmanager
def running_web_hook() -> Iterator[FakeWebHook]:
    """The fake, listening on a free port until the block ends; its address holds the secret."""
    hook = FakeWebHook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            hook.paths.append(self.path)
            hook.bodies.append(json.loads(body))
            status = hook.statuses.pop(0) if hook.statuses else 200
            time.sleep(hook.delay_seconds)
            self.send_response(status)
            for name, value in hook.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hook.url = f"http://127.0.0.1:{server.server_port}/services/{SECRET}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
