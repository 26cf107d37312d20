"""Redone steps held against what they were, while they are made."""

from __future__ import annotations

import pytest

from dreambooth_resume.runs.log import read_log
from dreambooth_resume.training.metrics import MetricsSink
from dreambooth_resume.workflows.continuity import RedoneSteps
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin

pytestmark = pytest.mark.quick

MEASURED = {"loss": 0.5, "learning_rate": 1e-4, "grad_norm": 1.0, "samples": 7}


@pytest.fixture
def home() -> MemoryStorage:
    """An attempt has measured steps 3 and 4 behind its checkpoint of step 2, and a second one begins."""
    home = MemoryStorage()
    begin(home, "A").commit(2)
    sink = MetricsSink(home, attempt=1)
    for step in (3, 4):
        sink.log(step, dict(MEASURED))
    sink.flush(durable=True)
    begin(home, "B")
    return home


@pytest.mark.parametrize(("halves", "jumps"), [(True, False), (False, True)])
def test_memory_that_runs_out_in_a_redone_step_explains_its_rounding(
    home: MemoryStorage, halves: bool, jumps: bool
) -> None:
    said: list[str] = []
    found: list[str] = []
    redone = RedoneSteps(home, read_log(home), attempt=2, tell=said.append, found=found.append)
    redone.start()
    at_once = 4
    redone.begins_at(2, at_once=lambda: at_once)
    redone.on_step(3, MEASURED)
    if halves:
        at_once = 2
    redone.on_step(4, {**MEASURED, "loss": 0.50001})
    redone.on_step(5, MEASURED)
    assert bool(found) is jumps
    assert ("JUMP" in " ".join(said)) is jumps
    if halves:
        assert said == [
            "Steps 3 to 4 were made before: samples, learning rate, loss and gradient norm are as then, "
            "but for rounding."
        ]


def test_what_was_redone_up_to_the_last_step_is_told_at_the_end(home: MemoryStorage) -> None:
    said: list[str] = []
    redone = RedoneSteps(home, read_log(home), attempt=2, tell=said.append, found=said.append)
    redone.start()
    redone.begins_at(2, at_once=lambda: 4)
    redone.on_step(3, MEASURED)
    redone.on_step(4, MEASURED)
    redone.end()
    redone.end()
    assert said == [
        "Steps 3 to 4 were made before: samples, learning rate, loss and gradient norm are the same bits as then."
    ]
