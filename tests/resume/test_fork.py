"""A fork that goes on with the options of the original ends in the original's bytes."""

from __future__ import annotations

from pathlib import Path

from dreambooth_resume.data.plan import SKIP_STRIDE
from tests.resume.conftest import Undisturbed
from tests.resume.faults import fault
from tests.resume.harness import Bench, committed_steps, result_digests
from tests.resume.s3_home import S3Home


def test_a_fork_in_a_bucket_trained_with_the_same_options_ends_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, home: Path, s3_home: S3Home
) -> None:
    bench.run(home, max_train_steps=4)
    words = ["fork", str(home), "--step", "4", "--to", s3_home.uri, "--set", "max_train_steps=6"]
    words += ["--s3-endpoint-url", s3_home.server_url]
    process = bench.command(home, words)
    assert process.wait() == 0, process.output()
    words = ["train", "--output_dir", s3_home.uri, "--resume", "latest", "--instance_data_dir", "/nowhere"]
    words += ["--s3_endpoint_url", s3_home.server_url, "--stage_dir", str(home.with_name("stage"))]
    process = bench.command(home, words)
    assert process.wait() == 0, process.output()
    assert "Resuming from checkpoint-4 (attempt 1, 3 files verified) as attempt 2: step 4 of 6." in process.output()
    assert "encoding pictures 1/" not in process.output(), "what was computed from the pictures was copied too"
    assert result_digests(s3_home.storage) == undisturbed()
    assert committed_steps(home) == [4] or committed_steps(home) == [2, 4]


def test_a_fork_from_among_steps_that_train_on_other_samples_ends_in_the_same_bytes(bench: Bench, home: Path) -> None:
    # Back twice: the second time to the start, and steps 1 to 5 are trained on other samples from then on.
    faults = [fault("nan", step=4), fault("nan", step=4 + SKIP_STRIDE)]
    bench.run(home, faults=faults)
    new = home.with_name("new")
    process = bench.command(home, ["fork", str(home), "--step", "2", "--to", str(new)])
    assert process.wait() == 0, process.output()
    process = bench.command(new, ["train", "--output_dir", str(new), "--resume", "latest"], faults=faults)
    assert process.wait() == 0, process.output()
    assert "Going back" not in process.output()
    assert result_digests(new) == result_digests(home)
