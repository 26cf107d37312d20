"""Runs, kills and compares `dbr train` processes on the tiny SDXL. The oracle is the SHA-256 of what a run leaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.s3_server import ENVIRONMENT

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 90.0
KILLED = -signal.SIGKILL

Options = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashPoint:
    """The nth time that a process makes `call` on `path` (below the home), before or after its effect.

    In a bucket the calls are GET, PUT, HEAD, DELETE, LIST, and for what is written in parts `POST begin`, `PUT part`,
    `POST complete` and `LIST uploads`.
    """

    call: str
    path: str
    nth: int = 1
    when: str = "before"

    def __str__(self) -> str:
        return f"{self.when} {self.call} {self.path} #{self.nth}"


class ForkServer:
    """The parent of all `dbr` processes of one test worker."""

    def __init__(self, s3_environment: Mapping[str, str] = ENVIRONMENT) -> None:
        environment = {**os.environ, **s3_environment, "PYTHONUNBUFFERED": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.resume.fork_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._lock = threading.Lock()
        assert json.loads(self._read()) == {"ready": True}

    def ask(self, command: Mapping[str, object]) -> dict[str, int]:
        assert self._server.stdin is not None
        with self._lock:
            self._server.stdin.write(json.dumps(command) + "\n")
            self._server.stdin.flush()
            answer: dict[str, int] = json.loads(self._read())
        return answer

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=TIMEOUT_SECONDS)

    def _read(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


@dataclass(slots=True)
class Process:
    """A running `dbr`."""

    server: ForkServer
    pid: int
    log: Path

    def poll(self) -> int | None:
        return self.server.ask({"poll": self.pid})["code"]

    def wait(self, timeout_seconds: float = TIMEOUT_SECONDS) -> int:
        """The exit code, minus the signal's number if one ended it."""
        deadline = time.monotonic() + timeout_seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"still running after {timeout_seconds} s:\n{self.output()[-3000:]}")
            time.sleep(0.01)
        return code

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, reached: Callable[[], bool], what: str) -> None:
        """Wait until `reached`, while the process lives."""
        looked = time.monotonic()
        deadline = looked + TIMEOUT_SECONDS
        while not reached():
            assert self.poll() is None, f"ended before {what}:\n{self.output()[-3000:]}"
            assert looked < deadline, f"never came to {what}:\n{self.output()[-3000:]}"
            # Not more often than looking takes, which would keep the processor from the one that is waited for.
            time.sleep(max(0.005, time.monotonic() - looked))
            looked = time.monotonic()

    def wait_for_step(self, step: int) -> None:
        """Wait until the process has shown that it made `step` (it prints every step)."""
        self.wait_for(lambda: shown_step(self.output()) >= step, f"step {step}")

    def wait_until_durable(self, home: Home) -> None:
        """Wait until a checkpoint is committed: killed now, it is resumed, however slow the disk is."""
        self.wait_for(lambda: bool(committed_steps(home)), "a checkpoint")


def shown_step(output: str) -> int:
    """The last step that the progress lines show, -1 before the first."""
    steps = [line.split()[1].partition("/")[0] for line in output.splitlines() if line.startswith("step ")]
    return int(steps[-1]) if steps else -1


@dataclass(slots=True)
class Bench:
    """The tiny model and the pictures, and a way to run `dbr train` on them."""

    server: ForkServer
    model: Path
    pictures: Path
    folder: Path

    def options(self, home: Path, **changed: object) -> dict[str, object]:
        """The options that the tests run with; None leaves one out."""
        chosen = {
            "pretrained_model_name_or_path": self.model,
            "instance_data_dir": self.pictures,
            "instance_prompt": "a photo of sks robot",
            "resolution": 32,
            "center_crop": True,
            "use_aspect_ratio_buckets": False,
            "train_batch_size": 2,
            "max_train_steps": 6,
            "checkpointing_steps": 2,
            "seed": 7,
            "learning_rate": 1e-3,
            "progress_seconds": 1e-9,
            "resume": "latest",
            "report_to": "none",
            "output_dir": home,
            **changed,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def start(
        self,
        home: Path,
        *,
        crash: CrashPoint | None = None,
        record: Path | None = None,
        limits: Mapping[str, float] | None = None,
        clock_off: float = 0.0,
        faults: Sequence[Mapping[str, object]] = (),
        slow_copies: float = 0.0,
        **changed: object,
    ) -> Process:
        """`dbr train`, with `home` as its output folder: with a `storage_uri` that is only the stage."""
        words = ["train", *self.words(home, **changed)]
        uri = changed.get("storage_uri")
        return self.command(
            home,
            words,
            crash=crash,
            record=record,
            limits=limits,
            clock_off=clock_off,
            uri=str(uri) if uri else None,
            faults=faults,
            slow_copies=slow_copies,
        )

    def words(self, home: Path, **changed: object) -> list[str]:
        """The options as they are typed."""
        words: list[str] = []
        for name, value in self.options(home, **changed).items():
            words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        return words

    def command(
        self,
        home: Path,
        words: list[str],
        *,
        crash: CrashPoint | None = None,
        record: Path | None = None,
        limits: Mapping[str, float] | None = None,
        clock_off: float = 0.0,
        slow_copies: float = 0.0,
        uri: str | None = None,
        faults: Sequence[Mapping[str, object]] = (),
        prelude: str | None = None,
        program: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Any `dbr` command in a forked process, or `program`; each has a log file of its own beside the home."""
        number = len(list(home.parent.glob(f"{home.name}.*.log")))
        log = home.parent / f"{home.name}.{number:03d}.log"
        log.touch()
        answer = self.server.ask(
            {
                "argv": words,
                "log": str(log),
                "cwd": str(home.parent),
                "home": str(home),
                "crash": None
                if crash is None
                else {"call": crash.call, "path": crash.path, "nth": crash.nth, "when": crash.when},
                "record": str(record) if record else None,
                "limits": dict(limits or {}),
                "clock_off": clock_off,
                "faults": list(faults),
                "prelude": prelude,
                "program": program,
                "environment": dict(environment or {}),
                "slow_copies": slow_copies,
                "bucket_home": uri.removeprefix("s3://") if uri else None,
            }
        )
        return Process(self.server, answer["pid"], log)

    def run(self, home: Path, **changed: object) -> Process:
        """Train to the end; fails with the output if that isn't exit code 0."""
        process = self.start(home, **changed)  # type: ignore[arg-type]
        code = process.wait()
        assert code == 0, f"exit code {code}:\n{process.output()[-4000:]}"
        return process


Home = Path | Storage
"""A home in a folder, or any other."""


def storage_of(home: Home) -> Storage:
    return LocalStorage(home) if isinstance(home, Path) else home


def log_of(home: Home) -> Log:
    return read_log(storage_of(home))


def result_digests(home: Home) -> dict[str, str]:
    """SHA-256 of the result and of every file of the last checkpoint, whatever attempt wrote it."""
    log, storage = log_of(home), storage_of(home)
    assert log.finished is not None, f"{storage.describe()} is not finished"
    last = ref_of(log, log.finished.checkpoint)
    keys = {file.key.rpartition("/")[2]: file.key for file in last.files} | {"result": WEIGHTS_NAME}
    return {name: hashlib.sha256(storage.read(key)).hexdigest() for name, key in keys.items()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def committed_steps(home: Home) -> list[int]:
    """Steps of the usable checkpoints in the run's line, oldest first."""
    log = log_of(home)
    return [log.commit(number).step for number in log.usable_line()]
