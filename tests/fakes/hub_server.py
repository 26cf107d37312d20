"""A Hub on this machine: the few addresses that the real client asks when it lists and fetches a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """One repository, `owner/model`, with `files`. `refuse`, a status and the Hub's error code, answers everything."""

    files: dict[str, bytes]
    endpoint: str = ""
    refuse: tuple[int, str] | None = None
    asked: list[str] = field(default_factory=list)


@contextmanager
def running_hub(files: dict[str, bytes]) -> Iterator[FakeHub]:
    """The fake, listening on a free port until the block ends."""
    hub = FakeHub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            status, headers, body = answer(hub, path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(hub: FakeHub, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for one address."""
    if hub.refuse is not None:
        status, code = hub.refuse
        return status, {"X-Error-Code": code, "X-Error-Message": "refused"}, b"{}"
    api, files = "/api/models/owner/model", "/owner/model/resolve/"
    if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
        siblings = [{"rfilename": name} for name in hub.files]
        return 200, {}, json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode()
    if path.startswith(f"{api}/revision/"):
        return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
    if path == f"{api}/tree/{COMMIT}":
        entries = [
            {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for name, body in hub.files.items()
        ]
        return 200, {}, json.dumps(entries).encode()
    name = path.removeprefix(f"{files}{COMMIT}/")
    if name in hub.files:
        body = hub.files[name]
        return 200, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}, body
    return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
