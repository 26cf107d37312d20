"""A web page in a process of its own, and a browser to look at it.

As a program: `python -m tests.browser.serving` serves as its one line of JSON says; for each further line on its input
it answers with what it has loaded and how much memory it has.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")
TIMEOUT_MS = 60_000


class ServedPage:
    """`dbr ui` on `places`, as a process that can be killed and started again on the same port."""

    def __init__(
        self, places: Sequence[Path | str], *, login: tuple[str, str] | None = None, cwd: Path, port: int | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.cwd = cwd
        self._wanted = json.dumps({"places": [str(place) for place in places], "port": self.port, "login": login})
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.browser.serving"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.cwd,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(self._wanted + "\n")
        assert self.facts()["url"]

    def facts(self) -> dict[str, Any]:
        """What it has loaded of HEAVY, and its resident memory."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        facts: dict[str, Any] = json.loads(self._process.stdout.readline())
        return facts

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=60)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def main() -> None:
    from dreambooth_resume.ui.app import Serving, serve

    wanted = json.loads(sys.stdin.readline())
    login = tuple(wanted["login"]) if wanted["login"] else None
    page = serve(Serving(places=tuple(wanted["places"]), port=wanted["port"], login=login))
    for _ in sys.stdin:
        loaded = [name for name in HEAVY if name in sys.modules]
        print(json.dumps({"url": page.url, "loaded": loaded, "memory": psutil.Process().memory_info().rss}), flush=True)
    page.close()


if __name__ == "__main__":
    main()
