"""Each run file by GPU memory trains the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resume.harness import ROOT, Bench, log_of

SMALL: dict[str, object] = {"resolution": 32, "max_train_steps": 1, "checkpointing_steps": 1, "rank": None}


@pytest.mark.parametrize("size", [8, 12, 16, 24, 80])
def test_trains_the_tiny_model(size: int, bench: Bench, home: Path) -> None:
    of_the_file = dict.fromkeys(("learning_rate", "train_batch_size", "seed", "center_crop"))
    bench.run(home, config=ROOT / "configs" / f"sdxl_{size}gb.yaml", **of_the_file, **SMALL)
    assert log_of(home).finished is not None
