"""What a machine is told before it goes: saved for at once, trained on while there is time, left before the end."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.metadata_server import running_metadata
from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, committed_steps, log_of, result_digests, shown_step

LENGTH = {"max_train_steps": 400, "checkpointing_steps": 1000}
SHORT = {"max_train_steps": 60, "checkpointing_steps": 1000}


def test_a_notice_with_time_is_saved_for_and_trained_on_and_its_withdrawal_costs_that_save(
    bench: Bench, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    notice = tmp_path / "notice"
    process = bench.start(home, notice_file=notice, **SHORT)
    process.wait_for_step(3)
    notice.write_text("seconds: 3600")
    process.wait_for(lambda: "training while there is time" in process.output(), "the save for the notice")
    told_at = shown_step(process.output())
    notice.unlink()
    process.wait_for(lambda: "withdrawn" in process.output(), "the withdrawal")
    assert process.wait() == 0, process.output()
    assert told_at < 60
    steps = committed_steps(home)
    assert len(steps) == 2, "one for the notice, and the last"
    assert steps[-1] == 60
    assert result_digests(home)["result"] == undisturbed(**SHORT)["result"]


def test_a_notice_whose_time_runs_out_ends_the_attempt_and_the_next_goes_on(
    bench: Bench, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    notice = tmp_path / "notice"
    process = bench.start(home, notice_file=notice, **SHORT)
    process.wait_for_step(3)
    notice.write_text("seconds: 15")
    assert process.wait() == 75, process.output()
    ending = log_of(home).last
    assert ending is not None
    assert (ending.body.kind, ending.body.exit_code) == ("stopped", 75)
    assert "the notice file" in ending.body.reason
    notice.unlink()
    bench.run(home, notice_file=notice, **SHORT)
    assert result_digests(home) == undisturbed(**SHORT)


def test_a_deadline_ends_the_attempt_before_it(bench: Bench, home: Path) -> None:
    process = bench.start(home, deadline="8s", max_train_steps=100_000, checkpointing_steps=100_000)
    assert process.wait() == 75, process.output()
    assert "the deadline of" in process.output()
    last = shown_step(process.output())
    assert committed_steps(home) == ([last] if last > 0 else []), "a slow machine is told before its first step"


def test_a_spot_interruption_of_aws_ends_the_process(bench: Bench, home: Path) -> None:
    with running_metadata(clouds=frozenset({"aws"}), date="Sat, 21 Nov 2026 08:00:00 GMT") as fake:
        environment = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": fake.url}
        process = bench.command(home, ["train", *bench.words(home, **LENGTH)], environment=environment)
        process.wait_for_step(3)
        fake.spot_action = {"action": "terminate", "time": "2026-11-21T08:00:10Z"}
        assert process.wait() == 75, process.output()
    output = process.output()
    assert "Watching for notices of aws." in output
    assert "AWS spot interruption (terminate at 08:00:10 UTC)" in output
    assert len(committed_steps(home)) >= 1
