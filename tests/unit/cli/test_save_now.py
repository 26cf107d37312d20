"""`dbr save-now`: asks the holder, waits for its answer, and says what is durable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.cli.save_now import save_now
from dreambooth_resume.errors import ComeBack
from dreambooth_resume.runs.control import open_requests
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.holders import Waiting
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import Attempt, begin
from tests.fakes.watched_run import beat, record_run


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def attempt(storage: MemoryStorage) -> Attempt:
    """Trains on another machine, at step 2, with step 1 durable."""
    attempt = begin(storage, "gpu-7")
    attempt.commit(1)
    beat(storage, 1, step=2)
    return attempt


def wait(storage: MemoryStorage, on_sleep: Callable[[], None]) -> tuple[RunSummary, bool]:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        on_sleep()

    before = summarise(storage)
    assert before is not None
    waiting = Waiting(tell=lambda _text: None, answer_seconds=20.0, monotonic=lambda: now, sleep=sleep)
    return save_now(storage, before, waiting)


def test_the_answer_is_waited_for_and_the_durable_step_is_that_of_the_log(
    storage: MemoryStorage, attempt: Attempt
) -> None:
    def answer() -> None:
        for key, request in open_requests(storage):
            assert request.kind == "save"
            attempt.commit(3)
            beat(storage, 1, step=3, counter=2, answered=(request.nonce,))
            storage.delete(key)

    after, asked = wait(storage, answer)
    assert asked
    assert after.durable_step == 3
    assert open_requests(storage) == []


def test_without_an_answer_the_request_is_withdrawn(storage: MemoryStorage, attempt: Attempt) -> None:
    with pytest.raises(ComeBack, match="did not answer within 20 s"):
        wait(storage, lambda: None)
    assert open_requests(storage) == []


def test_a_holder_that_saves_and_ends_has_done_what_was_asked(storage: MemoryStorage, attempt: Attempt) -> None:
    def end() -> None:
        if attempt.step < 2:
            attempt.commit(2)
            attempt.stop()

    after, asked = wait(storage, end)
    assert asked
    assert (after.state, after.durable_step) == ("interrupted", 2)
    assert open_requests(storage) == []


def test_a_holder_that_ends_without_saving_is_told(storage: MemoryStorage, attempt: Attempt) -> None:
    with pytest.raises(ComeBack, match="ended before it saved; the last durable step is 1"):
        wait(storage, lambda: beat(storage, 1, step=2, phase="ended", exit_code=70))


def test_where_nobody_trains_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    left = begin(storage)
    left.commit(2)
    left.stop()
    before = storage.list()
    assert main(["save-now", str(storage.root)]) == 0
    assert storage.list() == before
    page = capsys.readouterr().out
    assert "Nobody trains the run" in page
    assert "Step 2 of 4 is durable, saved " in page
    assert main(["save-now", str(storage.root), "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert (page["asked"], page["durable_step"]) == (False, 2)
