"""How a run stands is derived from its newest entry and one heartbeat."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dreambooth_resume.errors import AccessDenied, RefusedToGoOn, StorageUnavailable
from dreambooth_resume.runs.entries import Finished, Stopped
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.home import log_key
from dreambooth_resume.runs.summary import RunSummary, summarise
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import beat, dead_process, hold, record_run


def summary_of(storage: MemoryStorage) -> RunSummary:
    summary = summarise(storage)
    assert summary is not None
    return summary


def test_an_empty_place_holds_no_run() -> None:
    assert summarise(MemoryStorage()) is None


@pytest.mark.parametrize("error", [AccessDenied, StorageUnavailable])
def test_a_storage_that_fails_is_never_an_empty_place(error: type[Exception]) -> None:
    def fail(_call: str, _key: str) -> None:
        raise error("no")

    with pytest.raises(error):
        summarise(MemoryStorage(before=fail))


def test_a_first_start_that_has_not_adopted_is_starting_and_later_vanished() -> None:
    storage = MemoryStorage()
    record_run(storage)
    assert summary_of(storage).state == "starting"
    later = summarise(storage, now=datetime.now(UTC) + timedelta(minutes=5))
    assert later is not None
    assert (later.state, later.max_train_steps, later.attempt) == ("vanished", 10, None)


def test_a_process_of_this_machine_is_seen_to_live_whatever_its_heartbeat_says() -> None:
    storage = MemoryStorage()
    hold(storage, this_process())
    assert summary_of(storage).state == "starting"
    beat(storage, 1, step=3, process=this_process())
    frozen = summarise(storage, now=datetime.now(UTC) + timedelta(seconds=600))
    assert frozen is not None
    assert (frozen.state, frozen.is_certain, frozen.step) == ("running", True, 3)
    assert "gave no sign for 60" in frozen.because


def test_a_process_of_this_machine_that_is_no_more_has_vanished_at_once() -> None:
    storage = MemoryStorage()
    gone = dead_process()
    hold(storage, gone)
    beat(storage, 1, step=3, process=gone)
    summary = summary_of(storage)
    assert (summary.state, summary.is_certain) == ("vanished", True)
    assert str(gone.pid) in summary.because


@pytest.mark.parametrize(("seconds_ago", "state"), [(5, "running"), (300, "vanished")])
def test_a_process_elsewhere_is_judged_by_its_newest_sign_of_life(seconds_ago: int, state: str) -> None:
    storage = MemoryStorage()
    begin(storage, "gpu-7").commit()
    beat(storage, 1, step=2, seconds_ago=seconds_ago)
    now = datetime.now(UTC) + timedelta(seconds=0 if state == "running" else 120)
    summary = summarise(storage, now=now)
    assert summary is not None
    assert (summary.state, summary.is_certain) == (state, False)


def test_a_heartbeat_that_cannot_be_read_costs_only_what_it_said() -> None:
    storage = MemoryStorage()
    hold(storage, this_process())
    storage.write("status/0001.json", [b'{"attempt": 1, "cou'])
    summary = summary_of(storage)
    assert (summary.state, summary.loss, summary.step) == ("starting", None, 0)


def test_the_holder_is_found_in_the_log_where_its_heartbeat_is_missing() -> None:
    storage = MemoryStorage()
    attempt = begin(storage, "gpu-7")
    attempt.commit()
    assert summary_of(storage).process == attempt.log.entries[0].body.process  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("exit_code", "state"), [(75, "interrupted"), (70, "interrupted"), (76, "stopped"), (78, "stopped")]
)
def test_a_goodbye_tells_by_its_exit_code_whether_the_run_waits_for_the_user(exit_code: int, state: str) -> None:
    storage = MemoryStorage()
    attempt = begin(storage)
    attempt.commit()
    attempt.committer.append(Stopped(reason="SIGTERM", exit_code=exit_code))
    summary = summary_of(storage)
    assert (summary.state, summary.because, summary.durable_step) == (state, "SIGTERM", 1)
    assert not summary.is_live


def test_an_end_that_could_not_be_logged_is_read_from_the_last_heartbeat() -> None:
    storage = MemoryStorage()
    begin(storage).commit()
    beat(storage, 1, step=1, phase="ended", exit_code=75)
    assert summary_of(storage).state == "interrupted"


def test_a_finished_run_needs_one_list_and_two_gets() -> None:
    storage = MemoryStorage()
    begin(storage).train_to_the_end()
    beat(storage, 1, step=4, phase="ended", exit_code=0)
    storage.calls.clear()
    summary = summary_of(storage)
    assert (summary.state, summary.step, summary.durable_step, summary.max_train_steps) == ("finished", 4, 4, 4)
    # The third GET is the entry of the checkpoint, for its age: `finished` itself isn't one.
    assert (storage.count("list"), storage.count("read")) == (1, 3)


def test_a_running_run_needs_one_list_and_two_gets() -> None:
    storage = MemoryStorage()
    begin(storage, "gpu-7").commit()
    beat(storage, 1, step=2)
    storage.calls.clear()
    summary = summary_of(storage)
    assert summary.durable_age_seconds is not None
    assert (storage.count("list"), storage.count("read")) == (1, 2)


def test_the_speed_of_a_run_that_nobody_trains_is_not_shown() -> None:
    storage = MemoryStorage()
    attempt = begin(storage)
    attempt.commit()
    beat(storage, 1, step=1)
    assert summary_of(storage).samples_per_second == 8.0
    attempt.stop()
    assert summary_of(storage).samples_per_second is None


def test_an_alarm_of_a_run_in_trouble_is_shown() -> None:
    storage = MemoryStorage()
    begin(storage, "gpu-7").commit()
    beat(storage, 1, step=2, alarm="disk full")
    assert summary_of(storage).alarm == "disk full"


def test_a_command_that_took_the_run_for_one_entry_does_not_hide_how_the_training_stands() -> None:
    storage = MemoryStorage()
    attempt = begin(storage)
    attempt.commit()
    attempt.committer.append(Stopped(reason="SIGTERM", exit_code=75))
    writer = hold(storage, this_process())
    writer.append(lambda log: (Stopped(reason="dbr checkpoints delete", exit_code=0), log.entries[-1].state))
    summary = summary_of(storage)
    assert (summary.state, summary.because, summary.attempt) == ("interrupted", "SIGTERM", 1)


def test_a_command_behind_a_training_that_was_lost_leaves_it_vanished() -> None:
    storage = MemoryStorage()
    begin(storage).commit()
    writer = hold(storage, this_process())
    writer.append(lambda log: (Stopped(reason="dbr checkpoints delete", exit_code=0), log.entries[-1].state))
    assert (summary_of(storage).state, summary_of(storage).attempt) == ("vanished", 1)


def test_a_damaged_newest_entry_is_refused_and_not_passed_over() -> None:
    storage = MemoryStorage()
    begin(storage).commit()
    storage.objects[log_key(2)] = b"{"
    with pytest.raises(RefusedToGoOn, match="00000002"):
        summarise(storage)


def test_finished_is_finished_without_any_heartbeat() -> None:
    storage = MemoryStorage()
    attempt = begin(storage)
    attempt.commit(4)
    attempt.committer.append(Finished(checkpoint=2))
    assert summary_of(storage).state == "finished"
