"""DESIGN's rules of the commit protocol, 8 to 13, each on a run that is real but for its model."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dreambooth_resume.checkpoint.deletion import collect
from dreambooth_resume.checkpoint.reader import load_staged
from dreambooth_resume.errors import (
    AccessDenied,
    Fenced,
    KeyNotFound,
    OutcomeUnknown,
    RefusedToGoOn,
    StorageUnavailable,
)
from dreambooth_resume.runs.adoption import Adoption
from dreambooth_resume.runs.control import open_requests, post_request
from dreambooth_resume.runs.entries import Adopt
from dreambooth_resume.runs.home import RUN
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.record import Pins, RunRecord, new_record, read_record, write_record
from tests.fakes.faulty_storage import Died, Fault, FaultyStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import Attempt, adopt, begin, check_finished, check_home, run_to_the_end, same_state, state_of

pytestmark = pytest.mark.quick

WEIGHTS = "pytorch_lora_weights.safetensors"


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


def folders(home: MemoryStorage) -> set[str]:
    return {key.partition("/")[0] for key in home.objects if key.startswith("checkpoint-")}


def stage(home: MemoryStorage, attempt: Attempt, step: int) -> None:
    """Write the files of a checkpoint whose entry never comes."""
    storage = FaultyStorage(home, at=7, fault=Fault.DIES_BEFORE)
    committer, before = attempt.committer, (attempt.committer._storage, attempt.adopted.writer._storage)
    committer._storage = attempt.adopted.writer._storage = storage
    with pytest.raises(Died):
        attempt.commit(step)
    committer._storage, attempt.adopted.writer._storage = before


# Rule 8: who may collect what


def test_rule_8_orphans_of_lower_attempts_go_after_the_adopt_by_exact_key(home: MemoryStorage) -> None:
    first = begin(home, "A")
    first.commit(5)
    stage(home, first, 50)
    home.objects["checkpoint-50/notes.txt"] = home.objects["checkpoint-500.tmp/x"] = b"a stray file"
    home.calls.clear()
    begin(home, "B")
    assert folders(home) == {"checkpoint-5", "checkpoint-50", "checkpoint-500.tmp"}
    assert home.objects["checkpoint-50/notes.txt"] == b"a stray file"
    assert "checkpoint-50/trainer_state.json" not in home.objects
    adopted = home.calls.index(("put_if_absent", "log/00000003.json"))
    assert all(home.calls.index(call) > adopted for call in home.calls if call[0] == "delete")
    check_home(home)


def test_rule_8_an_attempt_never_deletes_its_own_uncommitted_data_nor_a_higher_ones(home: MemoryStorage) -> None:
    first = begin(home, "A")
    stage(home, first, 7)
    log = read_log(home)
    assert collect(home, log, attempt=1) == 0
    for attempt in (2, 3):
        home.objects[f"checkpoint-7-a{attempt}/trainer_state.json"] = b"x"
    assert collect(home, log, attempt=2) == 3
    assert folders(home) == {"checkpoint-7-a2", "checkpoint-7-a3"}


@pytest.mark.parametrize("deleted", [0, 1, 2])
def test_rule_8_a_retire_list_left_undone_is_done_by_the_next_attempt(home: MemoryStorage, deleted: int) -> None:
    storage = FaultyStorage(home, fault=Fault.DIES_BEFORE)
    first = begin(storage, "A", limit=1)
    first.commit()
    storage.at = storage.count + 9 + deleted  # six for the files, two for the entry
    with pytest.raises(Died):
        first.commit()
    assert "delete" in (storage.went_wrong or "")
    assert folders(home) == {"checkpoint-1", "checkpoint-2"}
    begin(home, "B", limit=1)
    assert folders(home) == {"checkpoint-2"}


def test_rule_8_set_aside_and_gone_back_over_checkpoints_are_no_orphans(home: MemoryStorage) -> None:
    first = begin(home, "A")
    for _ in range(3):
        first.commit()
    home.objects["checkpoint-3/trainer_state.json"] = b""
    begin(home, "B")
    begin(home, "C", resume="1").commit()
    begin(home, "D")
    assert folders(home) == {"checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-2-a4"}


# Rule 9: one attempt, one key; what was staged


def test_rule_9_no_two_attempts_write_the_same_key(home: MemoryStorage) -> None:
    written: dict[str, int] = {}
    for name in "ABCD":
        home.calls.clear()
        attempt = begin(home, name, limit=1)
        attempt.commit(1)
        for call, key in home.calls:
            if call == "write":
                assert written.setdefault(key, attempt.number) == attempt.number


def test_rule_9_what_the_attempt_before_had_staged_is_loaded_and_committed_under_the_own_name(
    home: MemoryStorage,
) -> None:
    first = begin(home, "A")
    first.commit(1)
    stage(home, first, 3)
    adopted = adopt(home, "B")
    assert isinstance(adopted, Adoption)
    assert adopted.may_use_staged
    staged = load_staged(home, attempt=adopted.writer.attempt - 1, above_step=1)
    assert staged is not None
    assert same_state(staged, state_of(3))


def test_rule_9_a_stage_written_in_part_or_damaged_is_passed_over(home: MemoryStorage) -> None:
    first = begin(home, "A")
    first.commit(1)
    for step in (2, 3, 4):
        stage(home, first, step)
    del home.objects["checkpoint-4/trainer_state.json"]
    body = home.objects["checkpoint-3/trainer_state.safetensors"]
    home.objects["checkpoint-3/trainer_state.safetensors"] = body[:-1] + b"\xff"
    staged = load_staged(home, attempt=1, above_step=1)
    assert staged is not None
    assert staged.step == 2
    assert load_staged(home, attempt=1, above_step=2) is None
    assert load_staged(home, attempt=2, above_step=0) is None


def test_rule_9_a_stage_does_not_count_when_going_back_was_asked_for(home: MemoryStorage) -> None:
    first = begin(home, "A")
    first.commit(1)
    first.commit(2)
    stage(home, first, 3)
    back = adopt(home, "B", resume="1")
    assert isinstance(back, Adoption)
    assert not back.may_use_staged


def test_rule_9_a_stage_does_not_count_behind_a_damaged_checkpoint(home: MemoryStorage) -> None:
    first = begin(home, "A")
    first.commit(1)
    first.commit(2)
    stage(home, first, 3)
    home.objects["checkpoint-2/trainer_state.json"] = b""
    adopted = adopt(home, "B")
    assert isinstance(adopted, Adoption)
    assert not adopted.may_use_staged


@pytest.mark.parametrize("error", [AccessDenied("403"), StorageUnavailable("503")])
def test_rule_9_a_stage_that_cannot_be_read_is_not_taken_for_none(home: MemoryStorage, error: Exception) -> None:
    first = begin(home, "A")
    stage(home, first, 3)

    def answer(call: str, _key: str) -> None:
        if call == "read":
            raise error

    home.before = answer
    with pytest.raises(type(error)):
        load_staged(home, attempt=1, above_step=0)


# Rule 10: going back, once


def test_rule_10_a_request_goes_back_once_and_a_later_crash_never_undoes_it(home: MemoryStorage) -> None:
    first = begin(home, "A")
    for _ in range(3):
        first.commit()
    assert begin(home, "B", resume="1", request_id="r1").step == 1
    # Killed before its first commit: the same command does not go back again, and does not take what was left behind.
    again = begin(home, "C", resume="1", request_id="r1")
    assert again.step == 1
    again.commit()
    assert begin(home, "D", resume="1", request_id="r1").step == 2
    assert begin(home, "E").step == 2
    assert begin(home, "F", resume="1", request_id="r2").step == 1
    assert [entry.body.going_back for entry in read_log(home).entries if isinstance(entry.body, Adopt)] == [
        None,
        "r1",
        None,
        None,
        None,
        "r2",
    ]


def test_rule_10_without_an_id_the_same_command_goes_back_once(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=1)
    first.commit()
    assert begin(home, "B", resume="1", limit=1).step == 1
    begin(home, "C", resume="1", limit=1).commit()  # retires 1
    assert begin(home, "D", resume="1", limit=1).step == 2


@pytest.mark.parametrize("resume", ["2", "checkpoint-7", "checkpoint-1-a9", "99"])
def test_rule_10_what_is_not_there_is_78(home: MemoryStorage, resume: str) -> None:
    begin(home, "A").commit()
    with pytest.raises(RefusedToGoOn, match="no such checkpoint") as refused:
        begin(home, "B", resume=resume)
    assert "There are: 1" in str(refused.value)
    assert read_log(home).highest_attempt == 1, "it is verified before the adopt"


def test_rule_10_a_step_is_looked_up_in_the_line_and_elsewhere_by_full_name(home: MemoryStorage) -> None:
    first = begin(home, "A")
    for _ in range(3):
        first.commit()
    begin(home, "B", resume="1").commit()
    with pytest.raises(RefusedToGoOn):
        begin(home, "C", resume="3")
    assert begin(home, "C", resume="checkpoint-3").step == 3
    assert read_log(home).line == (2, 3, 4)


def test_rule_10_a_damaged_one_is_78_and_not_set_aside(home: MemoryStorage) -> None:
    first = begin(home, "A")
    first.commit()
    first.commit()
    home.objects["checkpoint-1/trainer_state.json"] += b" "
    with pytest.raises(RefusedToGoOn, match=r"--resume 1: trainer_state\.json has"):
        begin(home, "B", resume="1")
    assert begin(home, "C").step == 2


def test_rule_10_a_set_aside_one_is_78_with_its_reason(home: MemoryStorage) -> None:
    first = begin(home, "A")
    first.commit()
    first.commit()
    home.objects["checkpoint-2/trainer_state.json"] = b""
    begin(home, "B")
    with pytest.raises(RefusedToGoOn, match=r"set aside \(trainer_state.json has 0 of"):
        begin(home, "C", resume="checkpoint-2")


# Rule 11: finished


def test_rule_11_finished_ends_the_log_and_nobody_adopts_behind_it(home: MemoryStorage) -> None:
    run_to_the_end(home)
    before = dict(home.objects)
    assert isinstance(adopt(home, "B"), Log)
    assert isinstance(adopt(home, "B", resume="1"), Log)
    assert home.objects == before


def test_rule_11_the_result_is_copied_after_finished_and_by_whoever_starts_next(home: MemoryStorage) -> None:
    home.calls.clear()
    run_to_the_end(home)
    entry, result = ("put_if_absent", "log/00000006.json"), ("write", WEIGHTS)
    assert home.calls.index(entry) < home.calls.index(result)
    del home.objects[WEIGHTS]
    run_to_the_end(home, "B")
    check_finished(home)
    home.objects[WEIGHTS] = b"torn"
    run_to_the_end(home, "C")
    check_finished(home)


def test_rule_11_an_attempt_that_resumes_at_the_last_step_trains_nothing(home: MemoryStorage) -> None:
    first = begin(home, "A")
    for _ in range(4):
        first.commit()
    run_to_the_end(home, "B")
    assert folders(home) == {f"checkpoint-{step}" for step in (1, 2, 3, 4)}
    check_finished(home)


def test_rule_11_finished_with_a_lost_answer_is_said_once(home: MemoryStorage) -> None:
    storage = FaultyStorage(home, fault=Fault.LANDS_LATE)
    attempt = begin(storage, steps=1)
    attempt.commit()
    storage.at = storage.count + 1
    with pytest.raises(OutcomeUnknown):
        attempt.finish()
    attempt.finish()
    check_finished(home, steps=1)


def test_rule_11_more_steps_reopen_the_run_by_an_adopt_that_says_so(home: MemoryStorage) -> None:
    run_to_the_end(home)
    more = begin(home, "B", steps=6, reopen=True)
    assert more.step == 4
    body = more.log.entries[-1].body
    assert isinstance(body, Adopt)
    assert body.reopened
    more.train_to_the_end()
    check_finished_after_reopening(home)


def check_finished_after_reopening(home: MemoryStorage) -> None:
    log = read_log(home)
    assert log.finished is not None
    assert log.commit(log.finished.checkpoint).step == 6


# Rule 12: reading


@pytest.mark.parametrize("error", [AccessDenied("403"), StorageUnavailable("503"), StorageUnavailable("time-out")])
def test_rule_12_no_failed_read_at_any_moment_becomes_step_0(error: Exception) -> None:
    failing, calls = 0, 0
    while calls >= failing:  # until a start needs fewer calls than that
        failing, calls, home = failing + 1, 0, MemoryStorage()
        begin(home, "A").commit()

        def answer(call: str, _key: str) -> None:
            nonlocal calls
            calls += 1
            if calls == failing and call in ("read", "list"):  # noqa: B023
                raise error

        home.before = answer
        # Whoever asks again, or starts again, meets a log that may hold our adopt already.
        with contextlib.suppress(AccessDenied, StorageUnavailable):
            assert begin(home, "B").step == 1
        home.before = None
        assert begin(home, "B").step == 1
    assert failing > 10


def test_rule_12_absent_is_404_and_nothing_else(home: MemoryStorage) -> None:
    assert read_record(home) is None

    def answer(_call: str, key: str) -> None:
        raise StorageUnavailable("503")

    home.before = answer
    with pytest.raises(StorageUnavailable):
        read_record(home)


# Rule 13: others


def test_rule_13_a_request_writes_only_control_and_changes_no_log(home: MemoryStorage) -> None:
    begin(home, "A").commit()
    before = dict(home.objects)
    request = post_request(home, "stop")
    new = home.objects.keys() - before.keys()
    assert all(key.startswith("control/") for key in new)
    assert {key: home.objects[key] for key in before} == before
    assert [found for _, found in open_requests(home)] == [request]


def test_rule_13_run_json_is_put_if_absent_and_the_loser_uses_the_winners() -> None:
    home, start = MemoryStorage(), threading.Barrier(8)

    def first_start(seed: int) -> RunRecord:
        pins = Pins(base_model={}, dataset="d")
        mine = new_record(options={}, seed=seed, effective_batch=1, block_size=1, pins=pins, numerics={})
        start.wait()
        return write_record(home, mine)

    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(first_start, range(8)))
    assert len({record.run_id for record in records}) == 1
    assert read_record(home) == records[0]


def test_rule_13_a_damaged_run_json_is_refused_and_never_written_anew(home: MemoryStorage) -> None:
    home.objects[RUN] = b"{"
    with pytest.raises(RefusedToGoOn):
        read_record(home)
    with pytest.raises(KeyNotFound):
        home.read("log/00000001.json")


@pytest.mark.parametrize("frozen_at", range(1, 12))
def test_rule_13_a_frozen_attempt_that_wakes_changes_nothing_of_the_newer_one(
    home: MemoryStorage, frozen_at: int
) -> None:
    """SIGSTOP A, start B, commit, SIGCONT A: before each call of a save of A's."""
    old, seen, calls = begin(home, "A", limit=1), dict[str, bytes](), 0
    old.commit()

    def freeze(_call: str, _key: str) -> None:
        nonlocal calls
        calls += 1
        if calls == frozen_at:
            home.before = None
            begin(home, "B", limit=1).commit()
            seen.update({key: body for key, body in home.objects.items() if "-a2/" in key or key.startswith("log/")})

    home.before = freeze
    try:
        old.commit()
        committed = True
    except (Fenced, StorageUnavailable):
        committed = False
    assert committed is (frozen_at > 7), "three files written and verified, then the entry: the seventh call"
    assert seen
    assert {key: home.objects[key] for key in seen} == seen
    run_to_the_end(home, "C", limit=1)
    check_finished(home)
