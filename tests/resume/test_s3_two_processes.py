"""Two real processes on one bucket: the newer wins, the older stops having overwritten and deleted nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.fault_proxy import FaultProxy, What
from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, Process, log_of, result_digests
from tests.resume.s3_home import S3Home

LONG = {"max_train_steps": 40, "checkpointing_steps": 4, "train_batch_size": 1}
HELD_SECONDS = 4.0
OF_THE_FIRST = ("status/0001", "metrics/0001")


def everything_but_the_firsts_hints(home: S3Home) -> dict[str, bytes]:
    return {key: body for key, body in home.bodies().items() if not key.startswith(OF_THE_FIRST)}


@pytest.mark.parametrize(
    "key", ["checkpoint-8/trainer_state.safetensors", "log/00000003.json", "metrics/0001-00001.jsonl"]
)
def test_frozen_in_the_middle_of_an_upload_it_is_fenced_and_spoils_nothing(
    key: str, bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The upload is held on its way, its sender is frozen, and both come to life when the run is long finished."""
    held = proxy.add(What.DELAY, verb="PUT", key=s3_home.pattern(key), at=1, seconds=HELD_SECONDS)
    first = bench.start(tmp_path / "first", **LONG, **s3_home.options(through=proxy.url))
    first.wait_for(lambda: held.acted == 1, "the upload that is held")
    first.send(signal.SIGSTOP)
    options = {**LONG, **s3_home.options(), "take_over": True}
    second = bench.run(tmp_path / "second", **options)
    assert "as attempt 2" in second.output() or "Attempt 2 begins" in second.output()
    finished = everything_but_the_firsts_hints(s3_home)
    asked_before = len(proxy.requests())
    time.sleep(HELD_SECONDS - min(HELD_SECONDS, 2.0))  # what was held lands while its sender sleeps
    first.send(signal.SIGCONT)
    assert first.wait() == 79, first.output()
    assert "attempt 2 has taken this run over" in first.output()
    now = everything_but_the_firsts_hints(s3_home)
    assert {name: now.get(name) for name in finished} == finished
    assert all(name.startswith("checkpoint-") and "-a" not in name for name in now.keys() - finished.keys())
    assert [one.key for one in proxy.requests("DELETE")[asked_before:] if "/control/" not in one.key] == []
    assert result_digests(s3_home.storage) == undisturbed(**LONG)


def test_second_start_waits_for_the_first_and_then_goes_on(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, tmp_path: Path
) -> None:
    options = {**LONG, **s3_home.options()}
    first = bench.start(tmp_path / "first", **options)
    first.wait_for_step(3)
    second = bench.start(tmp_path / "second", **options)
    second.wait_for(lambda: "trains this run. Waiting up to 600 s" in second.output(), "waiting")
    first.send(signal.SIGTERM)
    assert first.wait() == 75, first.output()
    assert second.wait() == 0, second.output()
    assert log_of(s3_home.storage).highest_attempt == 2
    assert result_digests(s3_home.storage) == undisturbed(**LONG)


@pytest.mark.parametrize("key", ["run.json", "log/00000001.json", "log/00000003.json", "log/00000005.json"])
def test_the_answer_to_a_conditional_put_is_lost_and_the_run_goes_on(
    key: str, bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The service has done it and says so to nobody; asked again, it would report our own success as a refusal."""
    changed = {"max_train_steps": 6, "checkpointing_steps": 2}
    lost = proxy.add(What.DROP_ANSWER, verb="PUT", key=s3_home.pattern(key), conditional=True)
    process = bench.run(tmp_path / "stage", **changed, **s3_home.options(through=proxy.url))
    is_reached = lost.acted == 1 or key == "log/00000005.json"  # a busy machine makes a save less
    assert is_reached, process.output()
    log = log_of(s3_home.storage)
    commits = [entry.body.step for entry in log.entries if entry.body.kind == "checkpoint"]
    assert commits == sorted(set(commits)), "committed once"
    assert log.highest_attempt == 1
    assert result_digests(s3_home.storage) == undisturbed(**changed)


def test_every_conditional_put_has_its_answer_lost_once(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    changed = {"max_train_steps": 4, "checkpointing_steps": 2}
    keys = ["run.json", *(f"log/{number:08d}.json" for number in range(1, 5)), "inputs.json", "inputs/*", "cache/*"]
    lost = [proxy.add(What.DROP_ANSWER, verb="PUT", key=s3_home.pattern(key), conditional=True) for key in keys]
    bench.run(tmp_path / "stage", **changed, **s3_home.options(through=proxy.url))
    assert [fault.acted for fault in lost] == [1] * len(keys)
    assert result_digests(s3_home.storage) == undisturbed(**changed)


class Supervisor:
    """Starts one side again for ever, by the restart rule; a side that was fenced comes back only to wait."""

    def __init__(self, start: Callable[[bool], Process]) -> None:
        self.codes: list[int] = []
        self.process = start(True)
        self._start = start
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        takes_over = True
        while not self._closing.is_set():
            code = self.process.poll()
            if code is None:
                time.sleep(0.02)
                continue
            self.codes.append(code)
            takes_over = takes_over and code != 79
            if code not in (70, 75, 79) and code >= 0:
                return
            self.process = self._start(takes_over)

    def is_waiting(self) -> bool:
        return "trains this run. Waiting up to" in self.process.output() and self.process.poll() is None

    def is_training(self) -> bool:
        return "step " in self.process.output() and self.process.poll() is None

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        if self.process.poll() is None:
            self.process.send(signal.SIGKILL)
            self.process.wait()


def test_two_restart_loops_end_with_one_running_and_one_waiting(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, tmp_path: Path
) -> None:
    endless = {"max_train_steps": 120, "checkpointing_steps": 5, "train_batch_size": 1}

    def side(name: str) -> Callable[[bool], Process]:
        return lambda takes_over: bench.start(
            tmp_path / name, **endless, **s3_home.options(), take_over=True if takes_over else None
        )

    one = Supervisor(side("one"))
    one.process.wait_for_step(2)
    other = Supervisor(side("other"))
    try:
        deadline = time.monotonic() + 60
        while not (one.is_waiting() and other.is_training()):
            assert time.monotonic() < deadline, (one.codes, other.codes, one.process.output(), other.process.output())
            time.sleep(0.02)
        assert (one.codes, other.codes) == ([79], [])
        attempts = log_of(s3_home.storage).highest_attempt
        time.sleep(1.0)
        assert one.is_waiting()
        assert other.is_training()
        assert log_of(s3_home.storage).highest_attempt == attempts == 2
        # The one that runs vanishes for good, and the one that waits goes on: nobody has to start anything.
        other.close()
        while one.codes != [79, 0]:
            assert time.monotonic() < deadline, (one.codes, one.process.output())
            time.sleep(0.02)
    finally:
        one.close()
        other.close()
    assert log_of(s3_home.storage).highest_attempt == 3
    assert result_digests(s3_home.storage) == undisturbed(**endless)
