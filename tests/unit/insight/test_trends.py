"""What is said of a curve is more than chance, and nothing is said of a run that is fine."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.insight.trends import (
    RateSetting,
    loss_that_does_not_fall,
    over_fitting,
    rate_setting,
    rate_that_cannot_train,
    rate_that_is_zero,
    remarks_on,
)
from dreambooth_resume.runs.curves import CurvePoint, read_curve
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import measure, record_run

pytestmark = pytest.mark.quick

USUAL = RateSetting(optimizer="AdamW", learning_rate=1e-4, max_train_steps=500)


def curve(losses: list[float], *, rate: float = 1e-4) -> list[CurvePoint]:
    return [CurvePoint(step=n, attempt=1, loss=loss, learning_rate=rate) for n, loss in enumerate(losses, 1)]


def noisy(first: float, last: float, *, steps: int = 600, noise: float = 0.03, seed: int = 0) -> list[float]:
    generator = np.random.default_rng(seed)
    return [float(value) for value in np.linspace(first, last, steps) + noise * generator.standard_normal(steps)]


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_that_falls_is_fine(seed: int) -> None:
    assert remarks_on(curve(noisy(0.20, 0.12, seed=seed)), USUAL) == ()


def test_a_flat_loss_is_said_with_its_chance_and_what_to_try() -> None:
    remarks = [loss_that_does_not_fall(curve(noisy(0.15, 0.15, steps=1000, seed=seed))) for seed in range(40)]
    found = [remark for remark in remarks if remark is not None]
    assert len(found) >= 36  # one in forty falls by chance
    assert all("the loss has not fallen" in remark.told and "chance alone" in remark.told for remark in found)
    assert "dbr samples" in found[0].to_try


def test_a_loss_that_climbs_is_not_called_flat() -> None:
    remark = loss_that_does_not_fall(curve(noisy(0.10, 0.30)))
    assert remark is not None
    assert remark.told.startswith("the loss rises: 0.1")
    assert "lower --learning_rate" in remark.to_try


def test_few_steps_a_nan_and_a_constant_are_no_reason_to_speak_of_a_trend() -> None:
    assert loss_that_does_not_fall(curve([0.1] * 199)) is None
    assert loss_that_does_not_fall(curve([math.nan] * 500)) is None
    constant = loss_that_does_not_fall(curve([0.1] * 500))
    assert constant is not None
    assert "has not fallen" in constant.told


@pytest.mark.parametrize(
    ("optimizer", "rate", "steps", "told"),
    [
        ("AdamW", 1e-4, 500, None),
        ("AdamW", 1e-6, 1000, None),
        ("AdamW", 1e-7, 1000, "can't train"),
        ("Lion", 1e-9, 100_000, "can't train"),
        ("AdamW", 5e-2, 500, "a hundred times"),
        ("prodigy", 1.0, 500, None),
        ("Adafactor", 1e-8, 500, None),
    ],
)
def test_a_rate_is_judged_by_how_far_it_can_move_a_weight(
    optimizer: str, rate: float, steps: int, told: str | None
) -> None:
    found = rate_that_cannot_train(RateSetting(optimizer=optimizer, learning_rate=rate, max_train_steps=steps))
    assert (told is None) == (found is None)
    assert told is None or (found is not None and told in found.told)


def test_the_bound_on_a_weights_way_is_that_of_the_real_optimizer() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(100))
    optimizer = torch.optim.AdamW([weight], lr=1e-5, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        weight.grad = torch.randn(100, generator=generator).abs()
        optimizer.step()
    assert 0.5 * 100 * 1e-5 < float(weight.detach().abs().max()) < 1.2 * 100 * 1e-5


def test_a_schedule_that_ended_before_the_run_is_said_with_its_step() -> None:
    points = [
        *curve([0.1] * 100),
        *(CurvePoint(step=n, attempt=1, loss=0.1, learning_rate=0.0) for n in range(101, 141)),
    ]
    remark = rate_that_is_zero(points, max_train_steps=500)
    assert remark is not None
    assert "is 0 since step 101" in remark.told
    assert rate_that_is_zero(points, max_train_steps=140) is None  # a cosine ends so
    assert rate_that_is_zero(points[:-25], max_train_steps=500) is None


def test_over_fitting_is_said_once_the_held_out_loss_has_turned_for_good() -> None:
    def with_validation(values: list[float]) -> list[CurvePoint]:
        return [CurvePoint(step=50 * n, attempt=1, loss=0.1, val_loss=v) for n, v in enumerate(values, 1)]

    remark = over_fitting(with_validation([0.3, 0.2, 0.15, 0.14, 0.16, 0.17, 0.18, 0.19]))
    assert remark is not None
    assert "lowest at step 200 (0.1400) and is 0.1900 at step 400" in remark.told
    assert over_fitting(with_validation([0.3, 0.2, 0.15, 0.14, 0.16, 0.17, 0.14, 0.1401])) is None
    assert over_fitting(with_validation([0.3, 0.1, 0.2])) is None


def test_options_of_another_release_are_not_judged() -> None:
    assert rate_setting({"optimizer": "AdamW", "learning_rate": 1e-4, "max_train_steps": 5}) is not None
    assert rate_setting({"max_train_steps": 5}) is None


def flat_run(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    attempt = begin(storage, steps=5000)
    attempt.commit(4200)
    attempt.stop()
    measure(storage, 1, dict(enumerate(noisy(0.15, 0.15, steps=4200), 1)))
    return storage


def test_status_names_a_flat_loss_for_people_and_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = flat_run(tmp_path)
    assert main(["status", str(storage.root)]) == 0
    page = capsys.readouterr().out
    assert "look" in page
    assert "the loss has not fallen" in page
    assert f"dbr samples {storage.root}" in page
    assert "more: dbr help loss-flat-or-rising" in page
    assert main(["status", str(storage.root), "--json"]) == 0
    (remark,) = json.loads(capsys.readouterr().out)["remarks"]
    assert remark["anchor"] == "loss-flat-or-rising"


def test_only_the_ends_of_a_long_curve_are_read(tmp_path: Path) -> None:
    steps = [point.step for point in read_curve(flat_run(tmp_path), ends_only=True).points]
    assert steps == [*range(1, 1001), *range(3001, 4201)]
