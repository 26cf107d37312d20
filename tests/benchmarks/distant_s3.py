"""An S3 service that is a round trip away: moto and the fault proxy, in processes of their own.

In the benchmark's own process the proxy would take the interpreter's lock from what is measured. It checks SHA-256
checksums as S3 does. Everything is on this machine, so only the round trip is far: the bytes pass as fast as the two
processes can copy them, on cores that training wants too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Self

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT))

from tests.fakes.fault_proxy import FaultProxy, What  # noqa: E402
from tests.fakes.s3_server import BUCKET, ENVIRONMENT, S3Server  # noqa: E402

ROUND_TRIP_SECONDS = 0.1


class DistantS3:
    """A running service with an empty bucket; `url` is its address. This process gets the environment it needs."""

    def __init__(self) -> None:
        os.environ.update(ENVIRONMENT)
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    @staticmethod
    def new_home() -> str:
        """The address of a home that nobody has used."""
        return f"s3://{BUCKET}/runs/{uuid.uuid4().hex}"


def _serve() -> None:
    """Prints the address, and ends when the parent does."""
    server = S3Server()
    with FaultProxy(server.port, checksums="verified") as proxy:
        proxy.add(What.DELAY, times=None, seconds=ROUND_TRIP_SECONDS)
        print(proxy.url, flush=True)
        sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    _serve()
