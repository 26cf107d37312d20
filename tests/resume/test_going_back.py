"""`--resume 20` goes back once; a crash right after it does not undo it, and does not do it twice (rules 10 and 11)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests


@pytest.fixture(scope="session")
def killed_at_eight(bench: Bench) -> Path:
    """A run of 10 steps that was killed with checkpoints of steps 2, 4, 6 and 8."""
    home = bench.folder / "killed-at-eight"
    crash = CrashPoint(call="link", path="log/00000006.json")
    assert bench.start(home, crash=crash, max_train_steps=10).wait() == KILLED
    assert committed_steps(home) == [2, 4, 6, 8]
    return home


def test_going_back_trains_on_from_there_to_the_same_bytes(
    bench: Bench, killed_at_eight: Path, undisturbed: Undisturbed, home: Path
) -> None:
    shutil.copytree(killed_at_eight, home)
    process = bench.run(home, resume=4, max_train_steps=10)
    assert "Resuming from checkpoint-4 (attempt 1, 3 files verified) as attempt 2: step 4 of 10." in process.output()
    assert committed_steps(home) == [2, 4, 6, 8, 10]
    assert [entry.attempt for entry in log_of(home).entries if entry.body.kind == "checkpoint"][-3:] == [2, 2, 2]
    assert result_digests(home) == undisturbed(max_train_steps=10)


@pytest.mark.parametrize("command", ["latest", 4])
def test_a_crash_right_after_going_back_does_not_undo_it(
    command: object, bench: Bench, killed_at_eight: Path, undisturbed: Undisturbed, home: Path
) -> None:
    """Killed after the adopt, before its first commit: both the same command and `latest` go on from step 4."""
    shutil.copytree(killed_at_eight, home)
    crash = CrashPoint(call="link", path="log/00000007.json")
    assert bench.start(home, crash=crash, resume=4, max_train_steps=10).wait() == KILLED
    process = bench.run(home, resume=command, max_train_steps=10)
    # What the killed attempt had written of step 6 may stand in for training it; the abandoned step 8 may not.
    assert "step 8 of 10" not in process.output()
    assert committed_steps(home) == [2, 4, 6, 8, 10]
    assert all(log_of(home).entries[number - 1].attempt > 1 for number in log_of(home).line[2:])
    assert result_digests(home) == undisturbed(max_train_steps=10)


def test_the_same_request_goes_back_once_however_often_it_is_started(
    bench: Bench, killed_at_eight: Path, home: Path
) -> None:
    shutil.copytree(killed_at_eight, home)
    crash = CrashPoint(call="link", path="log/00000008.json")
    request = {"resume": 4, "resume_request_id": "night-shift", "max_train_steps": 10}
    assert bench.start(home, crash=crash, **request).wait() == KILLED
    assert committed_steps(home) == [2, 4, 6]
    bench.run(home, **request)
    returns = [entry.body.going_back for entry in log_of(home).entries if entry.body.kind == "adopt"]
    assert returns == [None, "night-shift", None]


def test_the_same_step_without_a_name_goes_back_once_and_says_how_to_do_it_again(
    bench: Bench, killed_at_eight: Path, home: Path
) -> None:
    shutil.copytree(killed_at_eight, home)
    crash = CrashPoint(call="link", path="log/00000008.json")
    assert bench.start(home, crash=crash, resume=4, max_train_steps=10).wait() == KILLED
    process = bench.run(home, resume=4, max_train_steps=10)
    assert "--resume 4 was carried out by attempt 2 already; going on from the latest." in process.output()
    assert "To go back again: --resume 4 --resume-request-id again-3" in process.output()
    assert "step 5/10" not in process.output()


def test_a_finished_run_is_not_gone_back_behind(bench: Bench, home: Path) -> None:
    bench.run(home)
    process = bench.start(home, resume=4)
    assert process.wait() == 2
    assert "the run is finished, and nobody goes back behind its end" in process.output()
    assert "dbr fork HOME --step 4 --to NEW" in process.output()


def test_more_steps_reopen_a_finished_run_at_an_earlier_one(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    bench.run(home)
    process = bench.run(home, resume=4, max_train_steps=8)
    assert "Resuming from checkpoint-4 (attempt 1, 3 files verified) as attempt 2: step 4 of 8." in process.output()
    assert result_digests(home) == undisturbed(max_train_steps=8)


def test_what_was_staged_beyond_a_shorter_end_is_not_taken(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    crash = CrashPoint(call="link", path="log/00000003.json")
    assert bench.start(home, crash=crash).wait() == KILLED
    process = bench.run(home, max_train_steps=3)
    assert "Resuming from checkpoint-2 " in process.output()
    assert result_digests(home)["result"] == undisturbed(max_train_steps=3)["result"]


def test_another_request_id_goes_back_again(bench: Bench, killed_at_eight: Path, home: Path) -> None:
    shutil.copytree(killed_at_eight, home)
    for name in ("one", "two"):
        crash = CrashPoint(call="replace", path=f"checkpoint-8-a{2 if name == 'one' else 3}/trainer_state.json")
        process = bench.start(home, crash=crash, resume=4, resume_request_id=name, max_train_steps=10)
        assert process.wait() == KILLED
    returns = [entry.body.going_back for entry in log_of(home).entries if entry.body.kind == "adopt"]
    assert returns == [None, "one", "two"]


def test_a_step_that_is_not_there_is_refused_with_those_that_are(
    bench: Bench, killed_at_eight: Path, home: Path
) -> None:
    shutil.copytree(killed_at_eight, home)
    entries = len(log_of(home).entries)
    process = bench.start(home, resume=5, max_train_steps=10)
    assert process.wait() == 78
    assert "--resume 5: no such checkpoint in this run's line. There are: 2, 4, 6, 8." in process.output()
    assert len(log_of(home).entries) == entries


def test_a_damaged_target_is_refused_and_not_set_aside(bench: Bench, killed_at_eight: Path, home: Path) -> None:
    shutil.copytree(killed_at_eight, home)
    (home / "checkpoint-4/trainer_state.json").write_bytes(b"{}")
    entries = len(log_of(home).entries)
    process = bench.start(home, resume=4, max_train_steps=10)
    assert process.wait() == 78
    assert "--resume 4: trainer_state.json has 2 of" in process.output()
    assert len(log_of(home).entries) == entries


def test_more_steps_reopen_a_finished_run(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    bench.run(home)
    process = bench.run(home, max_train_steps=8)
    assert "Resuming from checkpoint-6 (attempt 1, 3 files verified) as attempt 2: step 6 of 8." in process.output()
    assert "Changed from step 6 on: max_train_steps 8 (was 6).\nThe constant schedule has no end" in process.output()
    assert [entry.body.kind for entry in log_of(home).entries][-4:] == ["finished", "adopt", "checkpoint", "finished"]
    # With a constant rate a longer run is the shorter one, trained on.
    assert result_digests(home) == undisturbed(max_train_steps=8)
    again = bench.run(home, max_train_steps=None)
    assert "Finished: step 8 of 8" in again.output()


def test_fewer_steps_than_were_made_are_refused(bench: Bench, killed_at_eight: Path, home: Path) -> None:
    shutil.copytree(killed_at_eight, home)
    process = bench.start(home, max_train_steps=6)
    assert process.wait() == 2
    assert "the run has made 8 steps already" in process.output()
