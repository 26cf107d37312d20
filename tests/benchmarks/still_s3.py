"""An S3 service that holds a folder and only reads, a round trip away: so quick that its client is what is measured.

`python still_s3.py FOLDER SECONDS` prints its address and answers each request after so many seconds. It ends with its
input.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "still"
ROUND_TRIP_SECONDS = 0.03
_HEAD = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'


class StillS3:
    """The service as a process of its own; `address` is `s3://still`, `url` its endpoint."""

    address = f"s3://{BUCKET}"

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, __file__, str(folder), str(ROUND_TRIP_SECONDS)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_request: object) -> None:
        """A client that was killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    seconds: float

    def log_message(self, *_words: object) -> None:
        pass

    def do_GET(self) -> None:
        time.sleep(self.seconds)
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix(f"/{BUCKET}").lstrip("/")
        if not key:
            self._answer(200, self._listed({name: found[0] for name, found in parse_qs(parts.query).items()}))
        elif (self.root / key).is_file():
            self._answer(200, (self.root / key).read_bytes())
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")

    def _listed(self, asked: dict[str, str]) -> bytes:
        """All below the prefix on one page, or the folders there."""
        prefix = asked.get("prefix", "")
        here = self.root / prefix
        if "delimiter" in asked:
            folders = sorted(path.name for path in here.iterdir() if path.is_dir()) if here.is_dir() else []
            body = "".join(
                f"<CommonPrefixes><Prefix>{escape(prefix + one)}/</Prefix></CommonPrefixes>" for one in folders
            )
        else:
            above = here if prefix.endswith("/") or not prefix else here.parent
            files = sorted(path for path in above.rglob("*") if path.is_file()) if above.is_dir() else []
            keys = {str(path.relative_to(self.root)): path.stat().st_size for path in files}
            body = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size></Contents>"
                for key, size in keys.items()
                if key.startswith(prefix)
            )
        return f"{_HEAD}<IsTruncated>false</IsTruncated>{body}</ListBucketResult>".encode()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"still"')
        self.end_headers()
        self.wfile.write(body)


def _serve(root: Path, seconds: float) -> None:
    _Handler.root, _Handler.seconds = root, seconds
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), float(sys.argv[2]))
