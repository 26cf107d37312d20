"""What is said about the learning rate when a resumed run is given another one, or another length."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.change_policy import compare
from dreambooth_resume.config.load import parse_train, record, resolve
from dreambooth_resume.workflows.changes import what_changes

RUN = ["--pretrained_model_name_or_path", "m", "--instance_data_dir", "p", "--instance_prompt", "x", "--seed", "1"]


@pytest.mark.parametrize(
    ("schedule", "changed", "said"),
    [
        ([], ["--learning_rate", "5e-5", "--max_train_steps", "6"], "0.0001 until now, 5e-05 from here on (constant)."),
        ([], ["--max_train_steps", "6"], "The constant schedule has no end, so no learning rate changes"),
        (
            ["--lr_scheduler", "linear", "--lr_warmup_steps", "0"],
            ["--max_train_steps", "8"],
            "5e-05 until now, 7.5e-05 from here on (linear, stretched to end at step 8).",
        ),
    ],
)
def test_the_rate_before_and_after(schedule: list[str], changed: list[str], said: str) -> None:
    before = resolve(parse_train([*RUN, *schedule, "--max_train_steps", "4"]), recorded=None)
    given = parse_train(changed)
    now = resolve(given, recorded=record(before))
    changes = compare(record(before), given)
    lines = what_changes(changes, before=before, now=now, step=2, max_train_steps=now.training.max_train_steps or 0)
    assert said in lines[-1]
