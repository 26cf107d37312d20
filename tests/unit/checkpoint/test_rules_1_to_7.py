"""DESIGN's rules of the commit protocol, 1 to 7, each on a run that is real but for its model."""

from __future__ import annotations

import hashlib

import pytest

from dreambooth_resume.errors import (
    AccessDenied,
    Fenced,
    HolderAlive,
    NothingValid,
    OutcomeUnknown,
    RefusedToGoOn,
    StorageUnavailable,
)
from dreambooth_resume.runs.entries import Adopt, Commit, Stopped
from dreambooth_resume.runs.holder import SILENCE_SECONDS, Patience
from dreambooth_resume.runs.home import CHECKPOINT_FILES, log_key, log_number, status_key
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.status import Status
from tests.fakes.faulty_storage import Fault, FaultyStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import STEPS, Attempt, begin, check_finished, check_home, machine, run_to_the_end

pytestmark = pytest.mark.quick


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


def damage(home: MemoryStorage, folder: str, name: str = "trainer_state.safetensors") -> None:
    body = home.objects[f"{folder}/{name}"]
    home.objects[f"{folder}/{name}"] = body[:-1] + bytes([body[-1] ^ 1])


def folders(home: MemoryStorage) -> set[str]:
    return {key.partition("/")[0] for key in home.objects if key.startswith("checkpoint-")}


def adopts(home: MemoryStorage) -> list[Adopt]:
    return [entry.body for entry in read_log(home).entries if isinstance(entry.body, Adopt)]


# Rule 1: what an entry says


def test_rule_1_the_newest_entry_alone_tells_the_runs_state(home: MemoryStorage) -> None:
    begin(home, "A", limit=2).commit()
    second = begin(home, "B", limit=2)
    second.commit()
    entry = second.commit()
    assert entry == read_log(home).last
    assert (entry.number, entry.attempt, entry.state.step, entry.state.max_train_steps) == (5, 2, 3, STEPS)
    assert isinstance(entry.body, Commit)
    assert entry.body.retire == (2,)
    assert [(ref.number, ref.step, ref.folder) for ref in entry.state.live] == [
        (4, 2, "checkpoint-2-a2"),
        (5, 3, "checkpoint-3-a2"),
    ]
    assert [(link.attempt, link.base, link.base_step) for link in entry.state.lineage] == [(1, None, 0), (2, 2, 1)]
    assert entry.state.totals.steps == 3
    assert entry.state.totals.redone_steps == 0


def test_rule_1_every_file_is_named_with_its_size_and_sha256(home: MemoryStorage) -> None:
    entry = begin(home).commit()
    assert isinstance(entry.body, Commit)
    assert {file.key for file in entry.body.files} == {f"checkpoint-1/{name}" for name in CHECKPOINT_FILES}
    for file in entry.body.files:
        stored = home.objects[file.key]
        assert (file.size_bytes, file.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())


def test_rule_1_steps_made_again_are_counted(home: MemoryStorage) -> None:
    begin(home, "A").commit()
    first = begin(home, "B")
    first.commit()
    home.write(status_key(2), [_status_of(first, step=4)])
    third = begin(home, "C")
    assert third.log.entries[-1].state.totals.model_dump(include={"steps", "redone_steps"}) == {
        "steps": 4,
        "redone_steps": 2,
    }


def _status_of(attempt: Attempt, *, step: int) -> bytes:
    status = Status(
        attempt=attempt.number,
        counter=1,
        updated_at="",
        phase="training",
        step=step,
        max_train_steps=STEPS,
        process=machine("B"),
    )
    return status.model_dump_json().encode()


# Rule 2: put if absent, known by the nonce


def test_rule_2_a_lost_response_is_known_by_its_nonce_and_not_taken_for_a_refusal(home: MemoryStorage) -> None:
    class AnswersNoToItsOwn(MemoryStorage):
        def put_if_absent(self, key: str, body: bytes) -> bool:
            super().put_if_absent(key, body)
            return False

    storage = AnswersNoToItsOwn()
    begin(storage).train_to_the_end()
    check_finished(storage)


def test_rule_2_a_store_that_lets_everybody_win_is_read_back(home: MemoryStorage) -> None:
    """Swift's answer to both is 200; what lies there is one of them."""

    class EverybodyWins(MemoryStorage):
        def put_if_absent(self, key: str, body: bytes) -> bool:
            super().put_if_absent(key, body)
            return True

    storage = EverybodyWins()
    old = begin(storage, "A")
    begin(storage, "B")
    with pytest.raises(Fenced):
        old.commit()


# Rule 3: where a commit goes


def test_rule_3_commit_goes_only_to_the_number_after_the_last_seen(home: MemoryStorage) -> None:
    old = begin(home, "A")
    old.commit()
    begin(home, "B").commit()
    before = dict(home.objects)
    home.calls.clear()
    with pytest.raises(Fenced, match="attempt 2"):
        old.commit()
    assert [log_number(key) for call, key in home.calls if call == "put_if_absent"] == [3]
    assert home.count("list") == 0, "it never lists the log again"
    assert home.count("delete") == 0
    assert {key: home.objects[key] for key in before} == before, "and overwrites nothing"


def test_rule_3_an_own_entry_that_landed_late_is_taken_in_and_the_retire_list_made_anew(home: MemoryStorage) -> None:
    storage = FaultyStorage(home, fault=Fault.LANDS_LATE)
    attempt = begin(storage, limit=1)
    attempt.commit()
    storage.at = storage.count + 7  # three files written and verified, then the entry
    with pytest.raises(OutcomeUnknown):
        attempt.commit()
    assert storage.went_wrong == f"put {log_key(3)}"
    entry = attempt.commit()
    assert entry.number == 4
    assert isinstance(entry.body, Commit)
    assert entry.body.retire == (3,), "2 was retired by the late entry, 3 is retired by this one"
    check_home(home)
    run_to_the_end(home, "B", limit=1)
    check_finished(home)
    assert folders(home) == {"checkpoint-4-a2"}


def test_rule_3_the_same_save_tried_again_is_committed_once(home: MemoryStorage) -> None:
    storage = FaultyStorage(home, fault=Fault.LANDS_LATE)
    attempt = begin(storage, limit=1)
    storage.at = storage.count + 7
    with pytest.raises(OutcomeUnknown):
        attempt.commit(1)
    assert attempt.commit(1).number == 2
    assert attempt.commit(1).number == 2, "and a save of the same step asked for twice changes nothing"
    check_home(home)
    assert folders(home) == {"checkpoint-1"}


def test_rule_3_an_unknown_outcome_keeps_the_data_and_the_next_save_tries_the_same_number(home: MemoryStorage) -> None:
    storage = FaultyStorage(home, fault=Fault.FAILS)
    attempt = begin(storage)
    storage.at = storage.count + 7
    with pytest.raises(OutcomeUnknown):
        attempt.commit()
    assert folders(home) == {"checkpoint-1"}
    assert attempt.commit().number == 2
    assert check_home(home).line == (2,)


def test_rule_3_a_fenced_attempt_writes_no_result(home: MemoryStorage) -> None:
    old = begin(home, "A", steps=1)
    old.commit()
    begin(home, "B", steps=2)
    with pytest.raises(Fenced):
        old.finish()
    assert "pytorch_lora_weights.safetensors" not in home.objects


def test_rule_3_data_that_a_newer_attempt_cleared_away_fences_and_is_no_bug(home: MemoryStorage) -> None:
    """A zombie writes a file, and the newer attempt collects it before the zombie has verified it."""
    old = begin(home, "A")

    def clear(call: str, key: str) -> None:
        if call == "holds" and key == "checkpoint-1/trainer_state.json":
            home.before = None
            begin(home, "B")

    home.before = clear
    with pytest.raises(StorageUnavailable):
        old.commit(1)
    with pytest.raises(Fenced):
        old.commit(1)


# Rule 4: taking over


def test_rule_4_data_is_written_only_after_the_adopt_and_the_number_is_one_higher(home: MemoryStorage) -> None:
    begin(home, "A")
    home.calls.clear()
    attempt = begin(home, "B")
    attempt.commit()
    assert attempt.number == 2
    changes = [key for call, key in home.calls if call in ("write", "put_if_absent", "delete")]
    assert changes[0] == log_key(2)


def test_rule_4_a_refused_adopt_waits_for_the_new_holder_and_walks_again(home: MemoryStorage) -> None:
    """Both found the holder gone; the one who comes second must not take the run from the first."""
    begin(home, "A").commit()
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        home.write(status_key(2), [f"{clock[0]}".encode()])

    def other_is_faster(call: str, key: str) -> None:
        if call == "put_if_absent" and key == log_key(3):
            home.before = None
            begin(home, "B").commit()

    home.before = other_is_faster
    silent_for_60_s = Patience(wait_seconds=200.0, monotonic=lambda: clock[0], sleep=sleep)
    home.write(status_key(1), [b"the last beat of attempt 1"])
    with pytest.raises(HolderAlive):
        begin(home, "C", patience=silent_for_60_s)
    assert [entry.attempt for entry in read_log(home).entries] == [1, 1, 2, 2]


def test_rule_4_an_adopt_goes_behind_the_log_by_which_the_holder_was_judged(home: MemoryStorage) -> None:
    """Somebody adopts between the verdict and the adopt: of him nothing is known, so his number refuses us."""
    begin(home, "A").commit()
    clock, has_judged = [0.0], False

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def slip_in(_call: str, key: str) -> None:
        nonlocal has_judged
        if has_judged:
            home.before = None
            begin(home, "B")
        has_judged = clock[0] >= SILENCE_SECONDS and key == status_key(1)

    home.before = slip_in
    begin(home, "C", patience=Patience(wait_seconds=600.0, monotonic=lambda: clock[0], sleep=sleep))
    assert clock[0] >= 2 * SILENCE_SECONDS, "B was given its own 60 s"
    assert [entry.attempt for entry in read_log(home).entries] == [1, 1, 2, 3]


# Rule 5: adopt first, then look


def test_rule_5_a_damaged_checkpoint_is_set_aside_by_a_further_adopt_one_back(home: MemoryStorage) -> None:
    first = begin(home, "A")
    for _ in range(3):
        first.commit()
    damage(home, "checkpoint-3")
    damage(home, "checkpoint-2", "trainer_state.json")
    second = begin(home, "B")
    assert second.step == 1
    assert [adopt.base for adopt in adopts(home)] == [None, 4, 3, 2]
    assert [aside.number for aside in second.adopted.set_aside] == [4, 3]
    assert "SHA-256" in second.adopted.set_aside[0].reason
    assert {"checkpoint-3", "checkpoint-2"} <= folders(home), "never deleted"
    second.train_to_the_end()
    check_finished(home)


def test_rule_5_nothing_is_verified_before_the_adopt(home: MemoryStorage) -> None:
    begin(home, "A").commit()
    home.calls.clear()
    begin(home, "B")
    adopted = home.calls.index(("put_if_absent", log_key(3)))
    assert not [key for call, key in home.calls[:adopted] if key.startswith("checkpoint-")]


def test_rule_5_a_set_aside_checkpoint_is_never_loaded_even_if_its_files_come_back(home: MemoryStorage) -> None:
    first = begin(home, "A")
    first.commit()
    first.commit()
    damage(home, "checkpoint-2")
    assert begin(home, "B").step == 1
    damage(home, "checkpoint-2")  # the same bit again: whole
    assert begin(home, "C").step == 1


@pytest.mark.parametrize("error", [AccessDenied("403"), StorageUnavailable("503")])
def test_rule_5_a_store_that_does_not_answer_sets_nothing_aside(home: MemoryStorage, error: Exception) -> None:
    begin(home, "A").commit()

    def answer(call: str, key: str) -> None:
        if call == "read" and key.startswith("checkpoint-"):
            raise error

    home.before = answer
    with pytest.raises(type(error)):
        begin(home, "B")
    home.before = None
    assert begin(home, "B").step == 1


# Rule 6: the line


def test_rule_6_nothing_committed_is_a_fresh_start(home: MemoryStorage) -> None:
    for name in "ABC":
        assert begin(home, name).step == 0
    run_to_the_end(home)
    check_finished(home)


def test_rule_6_all_damaged_is_78_and_names_valid_ones_outside_the_line_without_taking_them(
    home: MemoryStorage,
) -> None:
    first = begin(home, "A")
    for _ in range(3):
        first.commit()
    begin(home, "B", resume="1").commit()
    damage(home, "checkpoint-1")
    damage(home, "checkpoint-2-a2")
    with pytest.raises(NothingValid, match="checkpoint-3") as refused:
        begin(home, "C")
    assert "SHA-256" in str(refused.value)
    assert "--resume" in str(refused.value)
    with pytest.raises(NothingValid):
        begin(home, "D")
    assert begin(home, "E", resume="checkpoint-3").step == 3


def test_rule_6_before_a_78_the_log_is_read_again(home: MemoryStorage) -> None:
    """The verdict on a log that has grown since is void: a healthy run would be dead for ever."""
    begin(home, "A").commit()
    damage(home, "checkpoint-1")
    looks = [0]

    def mended_meanwhile(call: str, key: str) -> None:
        looks[0] += call == "list" and key == "log/"
        if looks[0] == 3:  # 1: before its adopt; 2: nothing is left to adopt; 3: before it says so
            home.before = None
            damage(home, "checkpoint-1")  # the same bit again: whole
            begin(home, "B").commit()

    home.before = mended_meanwhile
    assert begin(home, "C").step == 2


def test_rule_6_a_gap_is_78(home: MemoryStorage) -> None:
    begin(home, "A").commit()
    del home.objects[log_key(1)]
    with pytest.raises(RefusedToGoOn):
        begin(home, "B")


# Rule 7: retired


def test_rule_7_retired_is_retired_though_its_files_are_there(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=1)
    first.commit()
    kept = {key: body for key, body in home.objects.items() if key.startswith("checkpoint-")}
    first.commit()
    home.objects.update(kept)
    with pytest.raises(RefusedToGoOn, match="retired"):
        begin(home, "B", resume="1")
    with pytest.raises(RefusedToGoOn, match="retired"):
        begin(home, "B", resume="checkpoint-1")
    damage(home, "checkpoint-2")
    with pytest.raises(NothingValid):
        begin(home, "B")


def test_rule_7_nothing_is_deleted_before_the_commit(home: MemoryStorage) -> None:
    attempt = begin(home, limit=1)
    attempt.commit()
    home.calls.clear()
    attempt.commit()
    calls = [call for call, key in home.calls if call == "delete" or key == log_key(3)]
    assert calls == ["put_if_absent", "read", "delete", "delete", "delete"]


def test_rule_7_those_gone_back_over_fill_up_and_go_next(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=3)
    first.commit()
    first.commit()
    second = begin(home, "B", resume="1", limit=3)
    second.commit()
    assert folders(home) == {"checkpoint-1", "checkpoint-2", "checkpoint-2-a2"}
    second.commit()
    assert folders(home) == {"checkpoint-1", "checkpoint-2-a2", "checkpoint-3-a2"}


def test_rule_7_a_stopped_entry_retires_what_a_user_deletes(home: MemoryStorage) -> None:
    first = begin(home, "A")
    first.commit()
    first.commit()
    command = begin(home, "B")
    command.committer.append(Stopped(reason="checkpoints delete 1", exit_code=0, retire=(2,)))
    assert begin(home, "C").step == 2
    assert folders(home) == {"checkpoint-2"}


def test_rule_7_set_aside_ones_neither_count_nor_are_deleted(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=2)
    first.commit()
    first.commit()
    damage(home, "checkpoint-2")
    second = begin(home, "B", limit=2)
    second.commit()
    assert folders(home) == {"checkpoint-1", "checkpoint-2", "checkpoint-2-a3"}
    second.commit()
    assert folders(home) == {"checkpoint-2", "checkpoint-2-a3", "checkpoint-3-a3"}
