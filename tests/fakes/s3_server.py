"""An S3 service on this machine: moto's server in a process of its own, spoken to over real sockets.

It stores a checksum without looking at the body, knows no permissions, and takes any keys: `fault_proxy.py` stands for
what real services do differently.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import threading
import urllib.request
import uuid
from pathlib import Path

BUCKET = "dbr-test"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "canary-of-a-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "MOTO_S3_DEFAULT_MAX_KEYS": "7",  # so that listings have pages
    "NO_PROXY": "127.0.0.1,localhost",
}
"""What a process needs to speak to it, and to nobody else."""

_ROOT = Path(__file__).parents[2]


class S3Server:
    """A running server with one empty bucket. It ends with the process that started it, however that ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.s3_server"],
            cwd=_ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        self.make_bucket(BUCKET)

    def make_bucket(self, name: str) -> None:
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30):
            pass

    def new_home(self) -> str:
        """The address of a home that nobody has used."""
        return f"s3://{BUCKET}/runs/{uuid.uuid4().hex}"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@functools.cache
def shared_server() -> S3Server:
    """One server for all tests of this process: starting it takes about a second."""
    server, owner = S3Server(), os.getpid()

    def stop() -> None:
        # A forked child inherits this function, and the server isn't its own.
        if os.getpid() == owner:
            server.stop()

    atexit.register(stop)
    return server


def serve() -> None:
    """The server's process: prints its port, and ends when its parent does."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
