"""One series a run in every tracker, over kills and going back, and the bytes of a run without any."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from dreambooth_resume.runs.record import read_record
from dreambooth_resume.storage.local import LocalStorage
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, result_digests

STEPS: dict[str, object] = {"max_train_steps": 12}
# So that a kill comes while much is on its way, and while nothing is.
SLOWLY: Mapping[str, float] = {"dreambooth_resume.training.trackers.feed:Feed.batch_seconds": 0.3}


def series(folder: Path) -> dict[str, list[int]]:
    """What TensorBoard itself reads: tag -> steps."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [point.step for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def name_of(home: Path) -> str:
    record = read_record(LocalStorage(home))
    assert record is not None
    return f"{home.name}-{record.run_id[:6]}"


def test_tensorboard_has_every_step_once_over_three_attempts(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    tracked = {**STEPS, "report_to": "tensorboard"}
    for step in (5, 9):
        process = bench.start(home, limits=SLOWLY, **tracked)
        process.wait_for_step(step)
        process.send(signal.SIGKILL)
        assert process.wait() == KILLED
    bench.run(home, limits=SLOWLY, **tracked)
    found = series(home / "logs" / name_of(home))
    assert found["loss"] == found["lr"] == found["grad_norm"] == list(range(1, 13))
    assert result_digests(home) == undisturbed(**STEPS)
    sent = [json.loads(path.read_text())["sent"] for path in sorted((home / "trackers").iterdir())]
    assert sent[-1] == {"tensorboard": 12}


def test_after_going_back_a_second_series_begins_and_an_empty_disk_shows_the_whole_of_it(
    bench: Bench, home: Path
) -> None:
    tracked = {**STEPS, "report_to": "tensorboard"}
    process = bench.start(home, **tracked)
    process.wait_for_step(7)
    process.send(signal.SIGTERM)
    assert process.wait() == 75, process.output()
    elsewhere = home.parent / "logs-of-another-machine"
    bench.run(home, **tracked, resume="4", logging_dir=elsewhere)
    name = name_of(home)
    assert series(home / "logs" / name)["loss"][-1] >= 7
    assert series(elsewhere / f"{name}-from-4-a2")["loss"] == list(range(5, 13))
    bench.run(home, max_train_steps=13, report_to="tensorboard", logging_dir=home.parent / "a-third")
    assert series(home.parent / "a-third" / f"{name}-from-4-a2")["loss"] == list(range(5, 14))
