"""How much a run will write: what is asked of the disk is what its checkpoints take."""

from __future__ import annotations

import pytest
import torch

from dreambooth_resume.checkpoint.format import SavedState, to_blobs
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.training.ema import Ema
from dreambooth_resume.training.state import TrainingState
from dreambooth_resume.workflows.room import (
    CHECKPOINT_BYTES_PER_PARAMETER,
    EMA_BYTES_PER_PARAMETER,
    checkpoints_at_once,
)
from tests.fakes.optimizers import one_group

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]
PLAN = Plan(seed=0, picture_count=10, batch_size=2)
"""An epoch is five steps."""


def resolved(typed: str) -> TrainOptions:
    return resolve(parse_train([*REQUIRED, *typed.split()]), recorded=None)


@pytest.mark.parametrize("use_ema", [False, True])
@pytest.mark.parametrize("kind", CHECKPOINT_BYTES_PER_PARAMETER)
def test_a_checkpoint_takes_what_is_reckoned_with(kind: str, use_ema: bool) -> None:
    use_ema = use_ema and kind != "AdamWScheduleFree"  # it has an average of its own
    optimizer_words = "--optimizer AdamW --use_8bit_adam" if kind == "AdamW8bit" else f"--optimizer {kind}"
    chosen = resolved(f"{optimizer_words}{' --use_ema' if use_ema else ''}")
    # Adafactor keeps sums of rows and columns, next to nothing for layers as large as SDXL's.
    parameters = {f"layer_{number}.lora_A.weight": torch.nn.Parameter(torch.randn(64, 2048)) for number in range(2)}
    optimizer = one_group(parameters, chosen.optimization)
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.set_rates(0)
    optimizer.torch_optimizer.step()
    ema = Ema(parameters, decay=0.9) if use_ema else None
    state = TrainingState(optimizer, lr_scheduler="constant", ema=ema)
    saved = SavedState(step=1, tensors=state.tensors(), scalars=state.scalars())
    blobs = to_blobs(saved, lambda tensors: (state.result(tensors), {}))
    count = sum(parameter.numel() for parameter in parameters.values())
    reckoned = CHECKPOINT_BYTES_PER_PARAMETER[kind] + (EMA_BYTES_PER_PARAMETER if use_ema else 0)
    written = sum(blob.size_bytes for blob in blobs.values()) / count
    assert reckoned - 2.1 < written < reckoned + 0.1


@pytest.mark.parametrize(
    ("typed", "at_once"),
    [
        ("--checkpointing_steps 30", 4),
        ("--checkpointing_steps 30 --save_every_n_epochs 4", 9),
        ("--checkpointing_steps 30 --save_every_n_epochs 4 --checkpoints_total_limit 3", 4),
        ("--checkpointing_steps 30 --checkpoints_total_limit 1 --keep_every 50", 4),
        ("--checkpointing_steps 1 --save_every_n_epochs 1", 100),
        ("--checkpointing_seconds 60", 1),
        ("--checkpointing_seconds 60 --save_every_n_epochs 2", 11),
    ],
)
def test_saves_at_the_ends_of_epochs_and_those_kept_for_good_count(typed: str, at_once: int) -> None:
    assert checkpoints_at_once(resolved(typed), PLAN, max_train_steps=100) == at_once
