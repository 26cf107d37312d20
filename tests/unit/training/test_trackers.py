"""Trackers: one series a run, each step once, and whatever they do the training neither waits nor ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreambooth_resume.runs.log import read_log
from dreambooth_resume.training.trackers.base import Series, Tracker
from dreambooth_resume.training.trackers.feed import Feed, Trackers, Values
from dreambooth_resume.training.trackers.series import SentRecord, series_of
from dreambooth_resume.training.trackers.tensorboard import TensorBoardTracker
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin

SERIES = Series(id="a" * 32, name="dog-aaaaaa", run_id="a" * 32, after_step=0, linked_to=None, options={"rank": 4})


class Book:
    """A tracker that writes down what it is told."""

    def __init__(self, *, known: int | None = None) -> None:
        self.known = known
        self.steps: list[int] = []
        self.pictures_of: list[tuple[int, str]] = []
        self.closed = False

    def last_step(self) -> int | None:
        return self.known

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append(step)

    def pictures(self, step: int, phase: str, prompt: str, pictures: Sequence[Any]) -> None:
        self.pictures_of.append((step, phase))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def no_backlog(after_step: int) -> Iterator[tuple[int, Values]]:
    return iter(())


def fed(
    tracker: Callable[[], Tracker],
    home: MemoryStorage,
    steps: range,
    *,
    attempt: int = 1,
    backlog: Callable[[int], Any] = no_backlog,
    wait: float = 10.0,
    **limits: Any,
) -> list[str]:
    """Feed these steps to a tracker and end; returns what was said."""
    said: list[str] = []
    feed = Feed(
        "book",
        tracker,
        record=SentRecord(home, SERIES, attempt=attempt),
        backlog=backlog,
        tell=said.append,
        batch_seconds=0.01,
        **limits,
    )
    trackers = Trackers([feed])
    trackers.start()
    for step in steps:
        trackers.log(step, {"loss": 1.0 / step})
    trackers.close(timeout_seconds=wait)
    return said


def test_a_step_that_an_earlier_attempt_sent_is_not_sent_again() -> None:
    home, first, second = MemoryStorage(), Book(), Book()
    assert fed(lambda: first, home, range(1, 8)) == []
    fed(lambda: second, home, range(5, 11), attempt=2)  # killed at 7, and went on from the checkpoint of step 4
    assert first.steps == [1, 2, 3, 4, 5, 6, 7]
    assert second.steps == [8, 9, 10]
    assert second.closed
    assert [found.key for found in home.list("trackers/")] == ["trackers/0001.json", "trackers/0002.json"]


def test_a_tracker_that_knows_what_it_has_is_believed_and_gets_what_it_lacks_from_the_home() -> None:
    home, book = MemoryStorage(), Book(known=2)
    fed(lambda: Book(), home, range(1, 8))
    made = [(step, {"loss": 1.0}) for step in range(1, 6)]
    fed(lambda: book, home, range(6, 9), attempt=2, backlog=lambda after: [one for one in made if one[0] > after])
    assert book.steps == [3, 4, 5, 6, 7, 8]


def test_pictures_come_in_their_order() -> None:
    book, home = Book(), MemoryStorage()
    trackers = Trackers(
        [Feed("book", lambda: book, record=SentRecord(home, SERIES, attempt=1), backlog=no_backlog, tell=print)]
    )
    trackers.start()
    trackers.log(2, {"loss": 1.0})
    trackers.show(2, "validation", "a dog", [np.zeros((8, 8, 3), np.uint8)])
    trackers.close(timeout_seconds=10)
    assert (book.steps, book.pictures_of) == ([2], [(2, "validation")])


class Broken(Book):
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        raise SystemExit("wandb: 403 from the server")


@pytest.mark.parametrize("when", ["at the start", "in the middle"])
def test_a_tracker_that_fails_is_said_once_and_gets_no_more(when: str) -> None:
    def cannot_open() -> Tracker:
        raise OSError("no route to the server")

    said = fed(cannot_open if when == "at the start" else Broken, MemoryStorage(), range(1, 50))
    assert len(said) == 1
    assert "book gets no more steps" in said[0]
    assert "Training goes on" in said[0]


class Hanging(Book):
    def __init__(self, let_go: threading.Event) -> None:
        super().__init__()
        self._let_go = let_go

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._let_go.wait(60)


def test_a_tracker_that_hangs_is_left_behind_at_the_end_and_nobody_waited_for_it() -> None:
    let_go = threading.Event()
    try:
        began = time.monotonic()
        said = fed(lambda: Hanging(let_go), MemoryStorage(), range(1, 500), wait=0.2, queue_limit=10)
        assert time.monotonic() - began < 30
        assert any("left behind" in line for line in said)
        assert sum("10 steps behind" in line for line in said) == 1
    finally:
        let_go.set()


def test_after_going_back_a_new_series_begins_that_names_the_one_before() -> None:
    home = MemoryStorage()
    attempt = begin(home, steps=6)
    for _ in range(4):
        attempt.commit()
    first = series_of(read_log(home), run_id="f" * 32, name="dog", options={})
    begin(home, steps=6, resume="2")
    back = series_of(read_log(home), run_id="f" * 32, name="dog", options={})
    begin(home, steps=6)
    later = series_of(read_log(home), run_id="f" * 32, name="dog", options={})
    assert (first.id, first.name, first.after_step) == ("f" * 32, "dog-ffffff", 0)
    assert (back.linked_to, back.after_step, back.name) == (first.id, 2, "dog-ffffff-from-2-a2")
    assert back.id != first.id
    assert len(back.id) == 32
    assert later == back, "an attempt that only goes on keeps the series"


def scalars_in(folder: Path) -> dict[str, list[int]]:
    """What TensorBoard itself reads there: tag -> steps, in their order."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    found = {tag: [point.step for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found | {tag: [point.step for point in events.Images(tag)] for tag in events.Tags()["images"]}


def test_tensorboard_reads_back_what_was_sent_and_a_torn_end_costs_only_its_step(tmp_path: Path) -> None:
    first = TensorBoardTracker(SERIES, tmp_path)
    assert first.last_step() == 0
    for step in (1, 2, 3):
        first.scalars(step, {"loss": 0.5, "lr": 1e-4})
    first.pictures(3, "validation", "a dog", [np.full((8, 16, 3), 200, np.uint8)])
    first.close()
    (path,) = (tmp_path / SERIES.name).iterdir()
    first_events = path.read_bytes()
    second = TensorBoardTracker(SERIES, tmp_path)
    assert second.last_step() == 3
    second.close()
    assert scalars_in(tmp_path / SERIES.name) == {"loss": [1, 2, 3], "lr": [1, 2, 3], "validation/0": [3]}

    torn = tmp_path / "torn" / SERIES.name
    torn.mkdir(parents=True)
    cut = first_events.rindex(b"validation/0")
    (torn / path.name).write_bytes(first_events[:cut])
    third = TensorBoardTracker(SERIES, torn.parent)
    assert third.last_step() == 3
    third.scalars(4, {"loss": 0.1})
    third.close()
    assert scalars_in(torn)["loss"] == [1, 2, 3, 4]


def test_wandb_offline_is_a_run_of_the_series_id_whatever_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    from dreambooth_resume.training.trackers.wandb import WandbTracker

    for steps in (range(1, 4), range(4, 6)):
        tracker = WandbTracker(SERIES, tmp_path)
        assert tracker.last_step() is None, "offline only the home knows"
        for step in steps:
            tracker.scalars(step, {"loss": 1.0})
        tracker.pictures(steps[-1], "validation", "a dog", [np.zeros((8, 8, 3), np.uint8)])
        tracker.close()
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{SERIES.id}.wandb"))
    assert files, "`wandb sync` joins them by that id"
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/images/*.png"))
    wandb.teardown()


def test_trackio_goes_on_behind_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path)
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path)
    from dreambooth_resume.training.trackers.trackio import TrackioTracker

    for steps in ((1, 2, 3), (4, 5)):
        tracker = TrackioTracker(SERIES, tmp_path)
        assert tracker.last_step() == steps[0] - 1
        for step in steps:
            tracker.scalars(step, {"loss": 1.0})
        tracker.close()
    logs = sqlite_storage.SQLiteStorage.get_logs("dreambooth-lora-sd-xl", SERIES.name)
    assert [line["step"] for line in logs] == [1, 2, 3, 4, 5]
