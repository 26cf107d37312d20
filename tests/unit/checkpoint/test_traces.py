"""The shortest traces that broke near-by variants of the protocol when it was modelled, M1 to M21, as they were found.

M6 is about homes that create a key and fill it later: there are none here. A, B and C are machines.
"""

from __future__ import annotations

import pytest

from dreambooth_resume.errors import Fenced, HolderAlive, NothingValid, OutcomeUnknown, RefusedToGoOn
from dreambooth_resume.runs.entries import Commit
from dreambooth_resume.runs.holder import Patience
from dreambooth_resume.runs.home import log_key
from dreambooth_resume.runs.log import read_log
from tests.fakes.faulty_storage import Died, Fault, FaultyStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin, check_finished, check_home, run_to_the_end

pytestmark = pytest.mark.quick

CALLS_BEFORE_THE_ENTRY = 6
"""Three files, each written and verified."""
WEIGHTS = "pytorch_lora_weights.safetensors"


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


def folders(home: MemoryStorage) -> set[str]:
    return {key.partition("/")[0] for key in home.objects if key.startswith("checkpoint-")}


def test_m1_a_run_reclaimed_before_its_first_checkpoint_starts_again(home: MemoryStorage) -> None:
    begin(home, "A")
    assert begin(home, "B").step == 0
    run_to_the_end(home)
    check_finished(home)


def test_m2_machines_reclaimed_early_however_many_never_end_the_run(home: MemoryStorage) -> None:
    for _ in range(10):
        assert begin(home, "A").step == 0
    run_to_the_end(home)
    check_finished(home)


def test_m3_a_commit_between_reading_the_log_and_adopting_is_seen(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=1)
    first.commit()

    def commit_meanwhile(call: str, key: str) -> None:
        if call == "put_if_absent" and key == log_key(3):
            home.before = None
            first.commit()  # retires and deletes what B is about to adopt

    home.before = commit_meanwhile
    assert begin(home, "B", limit=1).step == 2


def test_m4_a_late_delete_of_an_orphan_hits_no_committed_key(home: MemoryStorage) -> None:
    storage = FaultyStorage(home, fault=Fault.DIES_BEFORE)
    first = begin(storage, "A")
    storage.at = storage.count + CALLS_BEFORE_THE_ENTRY + 1
    with pytest.raises(Died):
        first.commit()
    orphans = [key for key in home.objects if key.startswith("checkpoint-")]
    assert len(orphans) == 3
    begin(home, "B").commit()
    for key in orphans:
        home.delete(key)  # once more, late
    check_home(home)


def test_m5_resume_obeys_retire_lists_whose_files_are_still_there(home: MemoryStorage) -> None:
    storage = FaultyStorage(home, fault=Fault.DIES_BEFORE)
    first = begin(storage, "A", limit=1)
    first.commit()
    storage.at = storage.count + CALLS_BEFORE_THE_ENTRY + 3
    with pytest.raises(Died):
        first.commit()
    assert "checkpoint-1" in folders(home)
    with pytest.raises(RefusedToGoOn, match="retired"):
        begin(home, "B", resume="1")
    assert begin(home, "B").step == 2


def test_m7_a_result_is_never_replaced_by_an_older_one(home: MemoryStorage) -> None:
    first = begin(home, "A", steps=1)
    first.commit()

    def other_finishes_first(call: str, _key: str) -> None:
        if call == "put_if_absent":
            home.before = None
            begin(home, "B", steps=2).train_to_the_end()

    home.before = other_finishes_first
    with pytest.raises(Fenced):
        first.finish()
    check_finished(home, steps=2)


def test_m8_a_start_up_script_that_goes_back_does_so_once(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=1)
    first.commit()
    begin(home, "B", resume="1", request_id="r", limit=1).commit()
    again = begin(home, "C", resume="1", request_id="r", limit=1)
    assert again.step == 2
    again.train_to_the_end()
    check_finished(home)


def test_m9_retention_keeps_the_newest_of_the_line_and_not_the_highest_steps(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=2)
    first.commit()
    first.commit()
    second = begin(home, "B", resume="1", limit=2)
    second.commit()
    assert folders(home) == {"checkpoint-1", "checkpoint-2-a2"}


def test_m10_gone_back_over_checkpoints_count_as_long_as_there_is_room(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=3)
    first.commit()
    first.commit()
    begin(home, "B", resume="1", limit=3).commit()
    assert folders(home) == {"checkpoint-1", "checkpoint-2", "checkpoint-2-a2"}


def test_m11_data_stays_while_its_entrys_fate_is_unknown(home: MemoryStorage) -> None:
    storage = FaultyStorage(home, fault=Fault.DIES_AND_LANDS)
    first = begin(storage, "A")
    storage.at = storage.count + CALLS_BEFORE_THE_ENTRY + 1
    with pytest.raises(Died):
        first.commit()
    storage.land()
    assert check_home(home).line == (2,)
    assert begin(home, "B").step == 1


def test_m12_an_own_entry_in_the_expected_number_is_no_fence_and_no_bug(home: MemoryStorage) -> None:
    storage = FaultyStorage(home, fault=Fault.LANDS_LATE)
    first = begin(storage, "A")
    storage.at = storage.count + CALLS_BEFORE_THE_ENTRY + 1
    with pytest.raises(OutcomeUnknown):
        first.commit()
    assert first.commit().number == 3
    assert check_home(home).line == (2, 3)


def test_m13_orphans_go_only_when_no_entry_can_name_them_any_more(home: MemoryStorage) -> None:
    """A's entry lands while B starts: either B's adopt comes after it and keeps its data, or refuses it."""
    for landing in range(1, 12):
        home = MemoryStorage()
        late = FaultyStorage(home, fault=Fault.DIES_AND_LANDS)
        first = begin(late, "A")
        late.at = late.count + CALLS_BEFORE_THE_ENTRY + 1
        with pytest.raises(Died):
            first.commit()
        calls = 0

        def land(
            _call: str, _key: str, *, home: MemoryStorage = home, late: FaultyStorage = late, at: int = landing
        ) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                home.before = None
                late.land()

        home.before = land
        second = begin(home, "B")
        home.before = None
        check_home(home)
        assert second.step == len(read_log(home).line)
        assert ("checkpoint-1" in folders(home)) is (second.step == 1)


def test_m14_two_attempts_never_have_one_number(home: MemoryStorage) -> None:
    def other_is_faster(call: str, _key: str) -> None:
        if call == "put_if_absent":
            home.before = None
            begin(home, "B").commit()

    home.before = other_is_faster
    begin(home, "A").commit()
    assert [entry.attempt for entry in read_log(home).entries] == [1, 1, 2, 2]
    assert folders(home) == {"checkpoint-1", "checkpoint-2-a2"}


def test_m15_an_old_attempts_checkpoint_never_lands_behind_a_newer_adopt_or_the_end(home: MemoryStorage) -> None:
    old = begin(home, "A")
    old.commit()
    begin(home, "B")
    run_to_the_end(home, "C")
    before = read_log(home)
    for _ in range(3):
        with pytest.raises(Fenced):
            old.commit(2)
    assert read_log(home) == before
    check_finished(home)


def test_m16_a_refused_adopt_walks_again_and_never_takes_a_stale_base(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=1)
    first.commit()

    def commit_meanwhile(call: str, key: str) -> None:
        if call == "put_if_absent" and key == log_key(3):
            home.before = None
            first.commit()

    home.before = commit_meanwhile
    second = begin(home, "B", limit=1)
    assert [adopted.attempt for adopted in read_log(home).entries] == [1, 1, 1, 2]
    second.train_to_the_end()
    check_finished(home)


def test_m17_latest_is_the_newest_of_the_line_and_not_of_the_log(home: MemoryStorage) -> None:
    first = begin(home, "A")
    first.commit()
    first.commit()
    begin(home, "B", resume="1")
    assert begin(home, "C").step == 1


def test_m18_the_lost_answer_of_a_commit_is_no_fence(home: MemoryStorage) -> None:
    storage = FaultyStorage(home, fault=Fault.LOST_ANSWER)
    first = begin(storage, "A")
    storage.at = storage.count + CALLS_BEFORE_THE_ENTRY + 1
    entry = first.commit()
    assert isinstance(entry.body, Commit)
    assert storage.went_wrong == f"put {log_key(2)}"
    assert check_home(home).line == (2,)


def test_m19_an_own_adopt_that_landed_late_is_not_somebody_else_to_wait_for(home: MemoryStorage) -> None:
    never_waits = Patience(wait_seconds=0.0, sleep=lambda _seconds: pytest.fail("it waited for itself"))
    for fault in (Fault.LANDS_LATE, Fault.LOST_ANSWER):
        home = MemoryStorage()
        storage = FaultyStorage(home, at=3, fault=fault)
        attempt = begin(storage, "A", patience=never_waits)
        assert storage.went_wrong == f"put {log_key(1)}"
        assert len(read_log(home).entries) == 1
        attempt.train_to_the_end()
        check_finished(home)


def test_m20_of_two_adopters_one_trains_and_the_other_waits(home: MemoryStorage) -> None:
    def other_is_faster(call: str, _key: str) -> None:
        if call == "put_if_absent":
            home.before = None
            begin(home, "B")

    home.before = other_is_faster
    with pytest.raises(HolderAlive):
        begin(home, "A", patience=Patience(wait_seconds=0.0))
    assert [entry.attempt for entry in read_log(home).entries] == [1]


@pytest.mark.parametrize("died_at", range(1, 13))
def test_m21_a_kill_at_any_moment_of_a_save_leaves_a_checkpoint_even_with_limit_1(
    home: MemoryStorage, died_at: int
) -> None:
    storage = FaultyStorage(home, fault=Fault.DIES_BEFORE)
    first = begin(storage, "A", limit=1)
    first.commit()
    storage.at = storage.count + died_at
    try:
        first.commit()
    except Died:
        pass
    else:
        assert died_at == 12, "a save is eleven calls: six, the entry and its reading, three deletes"
    check_home(home)
    assert begin(home, "B", limit=1).step == (1 if died_at <= CALLS_BEFORE_THE_ENTRY + 1 else 2)


def test_nothing_valid_is_78_only_if_something_was_committed(home: MemoryStorage) -> None:
    first = begin(home, "A", limit=1)
    first.commit()
    home.objects[f"checkpoint-1/{WEIGHTS}"] = b""
    with pytest.raises(NothingValid, match="has 0 of"):
        begin(home, "B", limit=1)
