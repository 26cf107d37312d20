"""Hugging Face Jobs on this machine: the addresses that the real client asks to start, see, cancel and read a job.

The script itself would go into a bucket of the Hub, whose protocol is not imitated: that one step of the client is
replaced, and what it was given is kept in `scripts`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import huggingface_hub.constants
import pytest

HARDWARE = [
    {"name": name, "prettyName": name, "cpu": "8 vCPU", "ram": "30 GB", "unitCostMicroUSD": int(cost * 1e6),
     "unitCostUSD": cost, "unitLabel": "minute"}
    for name, cost in (("cpu-basic", 0.000167), ("l4x1", 0.0133), ("a10g-small", 0.0167))
]  # fmt: skip


@dataclass
class FakeJobs:
    """The jobs of `owner`.

    `refuse` has a status for the end of a path; `loses_answers`: a job is made, and then 500 is said.
    """

    endpoint: str = ""
    token: str = "hf_let_me_in"
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was posted, and its stage."""
    scripts: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    loses_answers: bool = False


@contextmanager
def running_jobs(patch: pytest.MonkeyPatch) -> Iterator[FakeJobs]:
    """The fake, listening on a free port until the block ends, with the client library turned to it."""
    hub = FakeJobs()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(*answer(hub, self.path, None, self._token()))

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self._send(*answer(hub, self.path, sent, self._token()))

        def log_message(self, *args: object) -> None:
            pass

        def _token(self) -> str:
            return self.headers.get("Authorization", "").removeprefix("Bearer ")

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def keep(self: object, *, namespace: str, remote_to_local_file_names: dict[str, str], token: object) -> list[Any]:
        hub.scripts += [Path(file).read_text() for file in remote_to_local_file_names.values()]
        return [
            huggingface_hub.Volume(type="bucket", source=f"{namespace}/jobs-artifacts", mount_path="/data", path="x")
        ]

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    patch.setattr(huggingface_hub.HfApi, "_upload_scripts_to_bucket", keep)
    patch.setenv("HF_TOKEN", hub.token)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(hub: FakeJobs, address: str, sent: bytes | None, token: str) -> tuple[int, bytes]:
    """Status and body for one address; `sent` is None for a GET."""
    parts = urlsplit(address)
    words = parts.path.strip("/").split("/")
    refused = next((status for end, status in hub.refuse.items() if parts.path.endswith(end)), None)
    if refused is not None or token != hub.token:
        return refused or 401, b'{"error": "refused"}'
    if words == ["api", "whoami-v2"]:
        return 200, json.dumps({"name": "owner", "type": "user"}).encode()
    if words == ["api", "jobs", "hardware"]:
        return 200, json.dumps(HARDWARE).encode()
    if words[:2] != ["api", "jobs"] or words[2] != "owner":
        return 404, b"{}"
    if len(words) == 3 and sent is not None:
        job_id = f"job{len(hub.jobs)}"
        hub.jobs[job_id] = {**json.loads(sent), "stage": "SCHEDULING"}
        return (500, b"{}") if hub.loses_answers else (200, json.dumps(_job(hub, job_id)).encode())
    if len(words) == 3:
        wanted = dict(label.split("=", 1) for label in parse_qs(parts.query).get("label", ()))
        found = [one for one in hub.jobs if wanted.items() <= hub.jobs[one]["labels"].items()]
        return 200, json.dumps([_job(hub, one) for one in found]).encode()
    if words[3] not in hub.jobs:
        return 404, b'{"error": "Job not found"}'
    if words[4:] == ["cancel"]:
        hub.jobs[words[3]]["stage"] = "CANCELED"
    if words[4:] == ["logs"]:
        return 200, b"".join(b"data: %s\n\n" % json.dumps({"data": f"step {n}"}).encode() for n in (1, 2))
    return 200, json.dumps(_job(hub, words[3])).encode()


def _job(hub: FakeJobs, job_id: str) -> dict[str, Any]:
    """As the Hub tells of it: without the secrets' values."""
    sent = hub.jobs[job_id]
    return {
        "id": job_id,
        "owner": {"id": "0", "name": "owner", "type": "user"},
        "status": {"stage": sent["stage"], "message": None},
        "labels": sent["labels"],
        "secrets": dict.fromkeys(sent.get("secrets", {}), ""),
    }
