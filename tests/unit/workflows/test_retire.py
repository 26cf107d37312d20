"""A checkpoint is deleted by whoever holds the run, or by taking the run for one entry; never the last whole one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dreambooth_resume.errors import BadInput, ComeBack, Fenced, RefusedToGoOn
from dreambooth_resume.runs.control import open_requests
from dreambooth_resume.runs.entries import Adopt, Stopped
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.workflows.holders import Waiting
from dreambooth_resume.workflows.retire import choose, retire
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import Attempt, begin, check_home, run_to_the_end
from tests.fakes.watched_run import beat, hold


class Told:
    """What the command said, on a clock that only its waiting moves."""

    def __init__(self, on_sleep: Callable[[], None] = lambda: None) -> None:
        self.lines: list[str] = []
        self._now = 0.0
        self._on_sleep = on_sleep

    def waiting(self) -> Waiting:
        return Waiting(tell=self.lines.append, answer_seconds=20.0, monotonic=lambda: self._now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self._now += seconds
        self._on_sleep()


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def left(storage: MemoryStorage) -> Attempt:
    """A run that stopped after committing steps 1, 2 and 3."""
    attempt = begin(storage)
    for step in (1, 2, 3):
        attempt.commit(step)
    attempt.stop()
    return attempt


def folders(storage: MemoryStorage) -> set[str]:
    return {key.partition("/")[0] for key in storage.objects if key.startswith("checkpoint-")}


def delete(storage: MemoryStorage, name: str) -> None:
    retire(storage, choose(storage, name), Told().waiting())


def test_a_free_run_is_taken_for_one_entry_that_retires(storage: MemoryStorage, left: Attempt) -> None:
    delete(storage, "2")
    log = check_home(storage)
    adopt, stop = log.entries[-2:]
    assert isinstance(adopt.body, Adopt)
    assert isinstance(stop.body, Stopped)
    assert (stop.body.retire, stop.body.exit_code) == ((3,), 0)
    assert folders(storage) == {"checkpoint-1", "checkpoint-3"}
    run_to_the_end(storage)


def test_deleting_the_newest_lets_the_run_go_on_from_the_one_before(storage: MemoryStorage, left: Attempt) -> None:
    delete(storage, "3")
    log = check_home(storage)
    assert log.entries[-1].state.step == 2
    summary = summarise(storage)
    assert summary is not None
    assert (summary.state, summary.durable_step) == ("interrupted", 2)
    assert begin(storage, "B").step == 2


def test_the_files_go_after_the_entry_so_that_a_kill_between_loses_nothing(
    storage: MemoryStorage, left: Attempt
) -> None:
    def die(call: str, key: str) -> None:
        if call == "delete" and key.startswith("checkpoint-"):
            raise KeyboardInterrupt

    storage.before = die
    with pytest.raises(KeyboardInterrupt):
        delete(storage, "2")
    storage.before = None
    assert 3 in read_log(storage).retired
    assert "checkpoint-2" in folders(storage)
    begin(storage, "B")
    assert "checkpoint-2" not in folders(storage)


def test_the_last_whole_checkpoint_is_never_deleted(storage: MemoryStorage, left: Attempt) -> None:
    delete(storage, "3")
    delete(storage, "2")
    before = dict(storage.objects)
    with pytest.raises(RefusedToGoOn, match="checkpoint-1 is the only whole checkpoint"):
        delete(storage, "1")
    assert storage.objects == before


def test_a_damaged_one_does_not_count_as_one_to_go_on_from(storage: MemoryStorage, left: Attempt) -> None:
    for folder in ("checkpoint-1", "checkpoint-2"):
        storage.objects[f"{folder}/trainer_state.json"] = b"torn"
    with pytest.raises(RefusedToGoOn, match="checkpoint-3 is the only"):
        delete(storage, "3")


def test_a_damaged_one_may_be_deleted(storage: MemoryStorage, left: Attempt) -> None:
    storage.objects["checkpoint-3/trainer_state.json"] = b"torn"
    delete(storage, "3")
    assert folders(storage) == {"checkpoint-1", "checkpoint-2"}
    assert begin(storage, "B").step == 2


def test_one_that_was_gone_back_over_may_be_deleted(storage: MemoryStorage, left: Attempt) -> None:
    begin(storage, "B", resume="1").stop()
    delete(storage, "checkpoint-3")
    delete(storage, "checkpoint-2")
    check_home(storage)
    assert folders(storage) == {"checkpoint-1"}


def test_nobody_adopts_behind_finished_so_a_finished_run_refuses(storage: MemoryStorage) -> None:
    begin(storage).train_to_the_end()
    before = dict(storage.objects)
    with pytest.raises(RefusedToGoOn, match="is finished"):
        choose(storage, "2")
    assert storage.objects == before


def test_what_is_not_there_is_bad_input(storage: MemoryStorage, left: Attempt) -> None:
    with pytest.raises(BadInput):
        choose(storage, "17")


def test_a_run_that_somebody_else_takes_meanwhile_is_left_to_them(storage: MemoryStorage, left: Attempt) -> None:
    ref = choose(storage, "2")

    def take(call: str, key: str) -> None:
        # The command has adopted and is about to write its entry.
        if call == "put_if_absent" and key == "log/00000007.json":
            storage.before = None
            hold(storage, this_process().model_copy(update={"host": "gpu-9", "pid_namespace": "another"}))

    storage.before = take
    with pytest.raises(Fenced):
        retire(storage, ref, Told().waiting())
    assert "checkpoint-2" in folders(storage)


def test_a_holder_is_asked_and_its_entry_is_waited_for(storage: MemoryStorage) -> None:
    attempt = begin(storage, "gpu-7")
    attempt.commit(1)
    attempt.commit(2)
    beat(storage, 1, step=2)

    def answer() -> None:
        for key, request in open_requests(storage):
            assert request.checkpoint == 2
            attempt.committer.also_retire({request.checkpoint})
            attempt.commit(3)
            beat(storage, 1, step=3, counter=2, answered=(request.nonce,))
            storage.delete(key)

    told = Told(on_sleep=answer)
    retire(storage, choose(storage, "1"), told.waiting())
    assert "Attempt 1 trains this run" in told.lines[0]
    assert folders(storage) == {"checkpoint-2", "checkpoint-3"}
    assert read_log(storage).highest_attempt == 1


def test_a_holder_that_does_not_answer_keeps_its_checkpoint_and_the_request_is_withdrawn(
    storage: MemoryStorage,
) -> None:
    attempt = begin(storage, "gpu-7")
    attempt.commit(1)
    attempt.commit(2)
    beat(storage, 1, step=2)
    with pytest.raises(ComeBack, match="did not answer within 20 s"):
        retire(storage, choose(storage, "1"), Told().waiting())
    assert open_requests(storage) == []
    assert folders(storage) == {"checkpoint-1", "checkpoint-2"}


def test_a_holder_that_ends_without_an_answer_is_followed_by_the_command_itself(storage: MemoryStorage) -> None:
    attempt = begin(storage, "gpu-7")
    attempt.commit(1)
    attempt.commit(2)
    beat(storage, 1, step=2)
    told = Told(on_sleep=lambda: None if read_log(storage).highest_attempt > 1 else end())

    def end() -> None:
        if len(read_log(storage).entries) == 3:
            attempt.stop()

    retire(storage, choose(storage, "1"), told.waiting())
    assert any("ended without an answer" in line for line in told.lines)
    assert open_requests(storage) == []
    assert folders(storage) == {"checkpoint-2"}


def test_two_commands_at_once_delete_their_own_and_the_run_goes_on(storage: MemoryStorage, left: Attempt) -> None:
    refs = [choose(storage, name) for name in ("1", "2")]
    failures: list[BaseException] = []

    def one(index: int) -> None:
        try:
            retire(storage, refs[index], Waiting(tell=lambda _text: None))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_home(storage)
    assert all(isinstance(error, Fenced) for error in failures)
    run_to_the_end(storage)
