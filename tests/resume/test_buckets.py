"""Aspect-ratio buckets: killed and resumed, every byte is an undisturbed run's."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, log_of, result_digests

BUCKETS: dict[str, object] = {
    "use_aspect_ratio_buckets": None,  # decided at the first start
    "center_crop": False,
    "random_flip": True,
}
VARIANTS: dict[str, dict[str, object]] = {
    "repeats_accumulation_prior_own_list": {
        **BUCKETS,
        "aspect_ratio_buckets": "32,32;32,40;48,32",
        "repeats": 3,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "with_prior_preservation": True,
        "class_prompt": "a photo of a robot",
        "num_class_images": 2,
        "prior_loss_weight": 0.5,
    },
    "free_crops_two_loaders": {**BUCKETS, "cache_latents": False, "dataloader_num_workers": 2},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_once_ends_in_the_same_bytes(name: str, bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    changed = VARIANTS[name]
    process = bench.start(home, **changed)  # type: ignore[arg-type]
    process.wait_for_step(3)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    assert recorded(home)["use_aspect_ratio_buckets"] is True
    resumed = bench.run(home, **changed)
    assert log_of(home).highest_attempt == 2
    assert "Resuming" in resumed.output()
    assert " buckets: " in resumed.output()
    assert result_digests(home) == undisturbed(**changed)


def test_shapes_that_differ_turn_buckets_on_and_other_portions_keep_the_samples(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    """The same steps in other portions are equivalent: the same samples and noise, other last bits."""
    changed = {**BUCKETS, "train_batch_size": 2, "gradient_accumulation_steps": 2, "max_train_steps": 4}
    process = bench.start(home, **changed)  # type: ignore[arg-type]
    process.wait_for_step(2)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    assert "2 buckets: 32x32 (2), 24x40 (1), width x height; for squares" in process.output()
    resumed = bench.run(home, **{**changed, "train_batch_size": 1, "gradient_accumulation_steps": 4})
    assert "micro_batch_size 2 -> 1" in resumed.output()
    assert losses(home)[:2] == pytest.approx(losses_of_whole(bench, home, changed)[:2], rel=0)
    assert losses(home) == pytest.approx(losses_of_whole(bench, home, changed), rel=1e-4)


def recorded(home: Path) -> dict[str, object]:
    options: dict[str, object] = json.loads((home / "run.json").read_text())["options"]
    return options


def losses(home: Path) -> list[float]:
    """Of each step, by the attempt that made it last."""
    found: dict[int, float] = {}
    for path in sorted((home / "metrics").iterdir()):
        for line in path.read_text().splitlines():
            values = json.loads(line)
            found[values["step"]] = values["loss"]
    return [found[step] for step in sorted(found)]


def losses_of_whole(bench: Bench, home: Path, changed: dict[str, object]) -> list[float]:
    whole = home.with_name("whole")
    if not whole.exists():
        bench.run(whole, **changed)
    return losses(whole)
