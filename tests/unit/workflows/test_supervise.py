"""How many GPUs a training waits for, and what becomes of a machine at the end, by how it ended and what is wanted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import JsonValue

from dreambooth_resume.launch.launchers import LAUNCHERS
from dreambooth_resume.launch.record import write_launch
from dreambooth_resume.runs.notes import read_notes
from dreambooth_resume.runs.record import Pins, new_record, write_record
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.supervise import Order, supervise
from tests.fakes.far_launcher import ENTRY, FarLauncher

ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FarLauncher]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setitem(LAUNCHERS, "far", ENTRY)
    FarLauncher.reset()
    return FarLauncher


@pytest.mark.parametrize(
    ("recorded", "words", "seen"),
    [
        ({}, (), "0"),
        ({"num_processes": 2}, (), "0,1"),
        ({"num_processes": 2}, ("--num_processes", "1"), "0"),
    ],
)
def test_it_queues_for_as_many_gpus_as_the_run_was_begun_with_unless_its_words_say_otherwise(
    recorded: dict[str, JsonValue],
    words: tuple[str, ...],
    seen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    write_record(
        LocalStorage(tmp_path / "dog"),
        new_record(
            options={"max_train_steps": 10, **recorded},
            seed=0,
            effective_batch=4,
            block_size=4,
            pins=Pins(base_model={}, dataset="0" * 64),
            numerics={},
        ),
    )
    (tmp_path / "train.py").write_text(
        f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    order = Order(
        home=str(tmp_path / "dog"),
        launch_id=None,
        queue=True,
        words=words,
        tell=lambda _text: None,
        program=(sys.executable, str(tmp_path / "train.py")),
    )
    assert supervise(order) == 0
    assert (tmp_path / "seen").read_text() == seen


def ends_with(code: int, tmp_path: Path, *words: str) -> list[str]:
    """Supervise a training that ends with `code`; what was told."""
    told: list[str] = []
    (tmp_path / "train.py").write_text(f"raise SystemExit({code})")
    write_launch(LocalStorage(tmp_path / "dog"), ID, launcher="far", settings={}, words=words, version="0.1.0")
    order = Order(
        home=str(tmp_path / "dog"),
        launch_id=ID,
        queue=False,
        words=(),
        tell=told.append,
        program=(sys.executable, str(tmp_path / "train.py")),
    )
    assert supervise(order) == code
    return told


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        (0, (), [(ID, "terminate")]),
        (76, ("--on_finish", "stop"), [(ID, "stop")]),
        (78, ("--on_finish", "stop"), [(ID, "terminate")]),
        (2, ("--on_failure", "keep"), [(ID, "keep")]),
    ],
)
def test_the_machine_ends_as_the_user_wants_it(
    code: int,
    words: tuple[str, ...],
    expected: list[tuple[str, str]],
    tmp_path: Path,
    far: type[FarLauncher],
) -> None:
    ends_with(code, tmp_path, *words)
    assert far.ended == expected


def test_after_the_platforms_own_time_limit_the_machine_is_left_to_the_platform(
    tmp_path: Path, far: type[FarLauncher]
) -> None:
    ends_with(75, tmp_path, "--deadline", "0.9s")
    assert far.ended == []


def test_a_machine_that_can_not_be_given_back_is_said_loudly_and_changes_no_exit_code(
    tmp_path: Path, far: type[FarLauncher]
) -> None:
    far.fails = True
    told = ends_with(0, tmp_path)
    assert "could not be given back and is still paid for: autoscaling:UpdateAutoScalingGroup" in told[-1]
    (note,) = read_notes(LocalStorage(tmp_path / "dog"), "exit")
    assert "still paid for" in note.text
