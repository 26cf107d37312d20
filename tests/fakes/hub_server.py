"""A Hub on this machine: the few addresses that the real client asks when it lists, fetches or uploads a model."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """One repository, `owner/model`, with `files`. `refuse`, a status and the Hub's error code, answers everything.

    Uploads are let in with `token`, whose `role` is read or write; `commits` are their messages.
    """

    files: dict[str, bytes]
    endpoint: str = ""
    refuse: tuple[int, str] | None = None
    asked: list[str] = field(default_factory=list)
    token: str = "hf_let_me_in"
    role: str = "write"
    refuse_uploads: tuple[int, str] | None = None
    wrong_digest: str | None = None
    """What it says of large files, in place of their digests."""
    objects: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


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

        def do_POST(self) -> None:
            self._take()

        def do_PUT(self) -> None:
            self._take()

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if path == "/api/whoami-v2":
                self._send(*who(hub, self._token()), with_body=with_body)
            else:
                self._send(*answer(hub, path), with_body=with_body)

        def _take(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            self._send(*take(hub, path, sent, token=self._token()), with_body=True)

        def _token(self) -> str:
            return self.headers.get("Authorization", "").removeprefix("Bearer ")

        def _send(self, status: int, headers: dict[str, str], body: bytes, *, with_body: bool) -> None:
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
    if path in (f"{api}/tree/{COMMIT}", f"{api}/tree/main"):
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


def who(hub: FakeHub, token: str) -> tuple[int, dict[str, str], bytes]:
    """Whose token it is, and what it may."""
    if hub.refuse is not None:
        return hub.refuse[0], {}, b"{}"
    if token != hub.token:
        return 401, {"X-Error-Message": "Invalid credentials"}, b"{}"
    return 200, {}, json.dumps({"name": "owner", "auth": {"accessToken": {"role": hub.role}}}).encode()


def take(hub: FakeHub, path: str, sent: bytes, *, token: str) -> tuple[int, dict[str, str], bytes]:
    """One step of an upload: create, ask how to send, send a large file, commit. Large files are safetensors."""
    if path.startswith("/objects/"):  # a signed address takes no token
        hub.objects[path.removeprefix("/objects/")] = sent
        return 200, {}, b""
    refused = hub.refuse or hub.refuse_uploads or ((401, "") if token != hub.token else None)
    if refused is not None:
        return refused[0], {"X-Error-Code": refused[1]}, b"{}"
    if path == "/api/validate-yaml":
        return 200, {}, b'{"errors": [], "warnings": []}'
    if path == "/api/repos/create":
        return 200, {}, json.dumps({"url": f"{hub.endpoint}/owner/model", "name": "owner/model"}).encode()
    if path == "/api/models/owner/model/preupload/main":
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(sent)["files"]
        ]
        return 200, {}, json.dumps({"files": files}).encode()
    if path == "/owner/model.git/info/lfs/objects/batch":
        wanted = [
            {**one, "actions": {"upload": {"href": f"{hub.endpoint}/objects/{one['oid']}"}}}
            for one in json.loads(sent)["objects"]
        ]
        body = json.dumps({"transfer": "basic", "objects": wanted}).encode()
        return 200, {"Content-Type": "application/vnd.git-lfs+json"}, body
    if path == "/api/models/owner/model/paths-info/main":
        # As the real one: a form, whose `paths` stand once for each.
        asked = json.loads(sent)["paths"] if sent.startswith(b"{") else parse_qs(sent.decode())["paths"]
        return 200, {}, json.dumps([_info(hub, name) for name in asked if name in hub.files]).encode()
    if path == "/api/models/owner/model/commit/main":
        return 200, {}, json.dumps(_commit(hub, sent)).encode()
    return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"


def _info(hub: FakeHub, name: str) -> dict[str, object]:
    body = hub.files[name]
    sha256 = hashlib.sha256(body).hexdigest()
    lfs = {"oid": hub.wrong_digest or sha256, "size": len(body), "pointerSize": 134}
    return {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest(), "lfs": lfs}


def _commit(hub: FakeHub, sent: bytes) -> dict[str, str]:
    for line in map(json.loads, sent.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            hub.commits.append(value["summary"])
        elif line["key"] == "file":
            hub.files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "deletedFile":
            del hub.files[value["path"]]
        elif line["key"] == "lfsFile":
            hub.files[value["path"]] = hub.objects[value["oid"]]
    return {"commitUrl": f"{hub.endpoint}/owner/model/commit/{COMMIT}", "commitOid": COMMIT}
