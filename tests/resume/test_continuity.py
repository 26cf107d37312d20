"""Each kind of jump, made in a home that looks sound: the resume names it, and so does `dbr history HOME --check`."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load, save

from dreambooth_resume.cli.main import main
from dreambooth_resume.runs.entries import Commit, decode_entry, encode_entry, sealed, unsealed
from dreambooth_resume.runs.home import RUN, STATE_NAME, STATE_TENSORS_NAME, WEIGHTS_NAME, log_key
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, result_digests

Array = NDArray[np.generic]
SHORT = {"max_train_steps": 5}
JUMPED = 1


@pytest.fixture(scope="module")
def interrupted(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose checkpoint of step 2 is the last, and whose metrics know of step 3 and 4, too.

    As a kill in the save of step 4 leaves it: of that nothing is there but the metrics, which go before the commit.
    """
    home = tmp_path_factory.mktemp("continuity") / "home"
    crash = CrashPoint(call="link", path="log/00000003.json", when="after")
    assert bench.start(home, crash=crash, **SHORT).wait() == KILLED
    (home / log_key(3)).unlink()
    shutil.rmtree(home / "checkpoint-4")
    return home


def resumed(bench: Bench, interrupted: Path, home: Path, tamper: Callable[[Path], None], **changed: object) -> str:
    """What the resume of a copy says that `tamper` was let at; it is trained to its end."""
    shutil.copytree(interrupted, home)
    tamper(home)
    return bench.run(home, **SHORT, **changed).output()


def checked(home: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    return main(["history", str(home), "--check"]), capsys.readouterr().out


def status(home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["status", str(home)]) == 0
    return capsys.readouterr().out


def test_redone_steps_are_the_same_bits_and_it_is_said(
    bench: Bench, interrupted: Path, home: Path, undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]
) -> None:
    output = resumed(bench, interrupted, home, lambda _home: None)
    # Step 5, too, where the disk was slower than that step.
    same = r"Steps 3 to [45] were made before: samples, learning rate, loss and gradient norm are the same bits"
    assert re.search(same, output), output
    assert "JUMP" not in output
    code, page = checked(home, capsys)
    assert code == 0
    assert re.search(r"2        2          [23]                  the same bits as before", page), page
    assert "JUMP" not in status(home, capsys)
    assert result_digests(home) == undisturbed(**SHORT)


def test_steps_redone_up_to_the_last_one_are_told_at_the_end(
    bench: Bench, home: Path, undisturbed: Undisturbed
) -> None:
    crash = CrashPoint(call="link", path="log/00000004.json", when="before")
    assert bench.start(home, crash=crash, **SHORT).wait() == KILLED
    shutil.rmtree(home / "checkpoint-5")
    output = bench.run(home, **SHORT).output()
    assert "Step 5 was made before: samples, learning rate, loss and gradient norm are the same bits" in output, output
    assert result_digests(home) == undisturbed(**SHORT)


def test_a_changed_rate_is_explained_by_the_log(
    bench: Bench, interrupted: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = resumed(bench, interrupted, home, lambda _home: None, learning_rate=5e-4)
    assert "Step 3 is other than when it was made before, as it has to be: learning_rate was changed." in output
    code, page = checked(home, capsys)
    assert code == 0
    assert "learning_rate was changed" in page


def zero_the_moments(home: Path) -> None:
    rewrite(home, STATE_TENSORS_NAME, lambda name, value: value * 0 if "exp_avg" in name else value)


def another_adapter(home: Path) -> None:
    rewrite(home, WEIGHTS_NAME, lambda name, value: value + 0.05 if "lora" in name else value)


def another_rate(home: Path) -> None:
    facts = unsealed((home / RUN).read_bytes())
    options = facts["options"]
    assert isinstance(options, dict)
    options["learning_rate"] = 2e-3
    (home / RUN).write_bytes(sealed(facts))


def another_seed(home: Path) -> None:
    facts = unsealed((home / RUN).read_bytes())
    options = facts["options"]
    assert isinstance(options, dict)
    facts["seed"] = options["seed"] = 8
    (home / RUN).write_bytes(sealed(facts))


def rewrite(home: Path, name: str, change: Callable[[str, Array], Array]) -> None:
    """Change tensors of checkpoint-2, and make every digest right again."""
    file = home / "checkpoint-2" / name
    with safe_open(file, framework="np") as opened:
        metadata = opened.metadata()
    file.write_bytes(save({key: change(key, value) for key, value in load(file.read_bytes()).items()}, metadata))
    state = home / "checkpoint-2" / STATE_NAME
    facts = json.loads(state.read_text())
    del facts["sha256"]
    facts["files"][name] = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size_bytes": file.stat().st_size}
    seal = hashlib.sha256(json.dumps(facts, sort_keys=True, indent=1).encode()).hexdigest()
    state.write_text(json.dumps({**facts, "sha256": seal}, sort_keys=True, indent=1))
    entry = decode_entry((home / log_key(2)).read_bytes())
    assert isinstance(entry.body, Commit)
    files = tuple(
        one.model_copy(
            update={
                "sha256": hashlib.sha256((home / one.key).read_bytes()).hexdigest(),
                "size_bytes": (home / one.key).stat().st_size,
            }
        )
        for one in entry.body.files
    )
    changed = entry.model_copy(update={"body": entry.body.model_copy(update={"files": files})})
    (home / log_key(2)).write_bytes(encode_entry(changed))


@pytest.mark.parametrize(
    ("tamper", "kind", "said"),
    [
        (zero_the_moments, "update", "step 4: loss"),
        (another_adapter, "weights", "step 3: loss"),
        (another_rate, "learning rate", "step 3: learning rate 0.002, and 0.001 when it was made before"),
        (another_seed, "samples", "step 3: it trained on other samples than when it was made before"),
    ],
)
def test_a_jump_is_named_at_the_resume_and_afterwards(
    tamper: Callable[[Path], None],
    kind: str,
    said: str,
    bench: Bench,
    interrupted: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Not given, so they are those of the home.
    output = resumed(bench, interrupted, home, tamper, learning_rate=None, seed=None)
    assert f"A JUMP at this resume: {said}" in output
    assert "Likely cause: " in output
    assert f"JUMP     at the resume of attempt 2: {said}" in status(home, capsys)
    code, page = checked(home, capsys)
    assert code == JUMPED
    assert "JUMPED: " in page
    assert kind in page
    assert f"attempt 2, {said}" in page


def test_a_state_that_is_not_taken_back_whole_is_named_before_a_step_is_made(
    bench: Bench, interrupted: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(interrupted, home)
    process = bench.command(
        home, ["train", *bench.words(home, **SHORT)], prelude="tests.resume.inexact:lose_the_moments"
    )
    assert process.wait() == 0
    shown = process.output()
    before, _, _ = shown.partition("step 3/5")
    assert "A JUMP at this resume: step 2: the state that began to train is not the committed one" in before
    assert "exp_avg" in before
    code, page = checked(home, capsys)
    assert code == JUMPED
    assert "JUMPED: state, update" in page
    assert status(home, capsys).count("JUMP     at the resume of attempt 2: step ") == 2
