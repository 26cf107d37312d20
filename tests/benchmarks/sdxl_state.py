"""A training state of SDXL's size without SDXL: the adapter's shapes, random values, and what commits it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import torch

from dreambooth_resume.checkpoint.commit import Committer
from dreambooth_resume.checkpoint.manager import CheckpointManager
from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.models.export import diffusers_metadata, diffusers_tensors
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.runs.entries import Adopt, AttemptRef, Process, RunState
from dreambooth_resume.runs.log import Log, LogWriter, make_entry, put_entry
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.training.guards import refuse_non_finite_state
from dreambooth_resume.training.metrics import MetricsSink
from dreambooth_resume.training.optimizer import Optimizer
from dreambooth_resume.training.optimizers.base import ParameterGroup
from dreambooth_resume.training.schedule import LearningRateSchedule
from dreambooth_resume.training.state import TrainingState, lora_tensors

RANK = 16
PARAMETERS_PER_RANK = 1_451_520
_TARGETS = ("to_k", "to_out.0", "to_q", "to_v")
# (block, transformers, layers in each, width): SDXL's UNet.
_BLOCKS = (
    ("down_blocks.1", 2, 2, 640),
    ("down_blocks.2", 2, 10, 1280),
    ("mid_block", 1, 10, 1280),
    ("up_blocks.0", 3, 10, 1280),
    ("up_blocks.1", 3, 2, 640),
)
_PROMPT_WIDTH = 2048


def sdxl_state(rank: int = RANK) -> TrainingState:
    """Weights and two moments in float32, for 560 linear layers: 266 MiB at rank 16."""
    parameters = dict(sorted(_parameters(rank)))
    assert sum(one.numel() for one in parameters.values()) == PARAMETERS_PER_RANK * rank
    schedule = LearningRateSchedule(name="constant", peak=1e-4, warmup_steps=0, total_steps=1)
    group = ParameterGroup(name="unet", parameters=parameters, schedule=schedule, weight_decay=1e-4)
    state = TrainingState(Optimizer((group,), OptimizationOptions()), lr_scheduler="constant")
    with torch.no_grad():
        for tensor in state.tensors().values():
            # Second moments are means of squares: of a negative one an update would make NaN, which no save takes.
            tensor.normal_().abs_()
    return state


def make_manager(storage: Storage, *, rank: int = RANK, max_train_steps: int = 1000) -> CheckpointManager:
    """What a training saves with: a run in `storage`, adopted by its first attempt, that keeps one checkpoint."""
    process = Process(host="bench", boot_id="bench", pid_namespace="bench", pid=os.getpid(), started="bench")
    lineage = (AttemptRef(attempt=1, base=None, base_step=0),)
    state = RunState(step=0, max_train_steps=max_train_steps, live=(), lineage=lineage, totals={})
    adopt = put_entry(storage, make_entry(number=1, attempt=1, body=Adopt(base=None, process=process), state=state))
    sink = MetricsSink(storage, attempt=1)
    for step in range(1, max_train_steps):
        sink.log(step, {"loss": 0.1, "learning_rate": 1e-4, "grad_norm": 0.1, "seconds": 1.0})
    committer = Committer(
        storage,
        LogWriter(storage, Log((adopt,)), attempt=1),
        export_weights=partial(_export, rank=rank),
        flush_metrics=lambda _step: sink.flush(durable=True),
        total_limit=1,
        max_train_steps=max_train_steps,
        refuse=refuse_non_finite_state,
    )
    manager = CheckpointManager(committer, interval_steps=None, base=None)
    manager.start()
    return manager


def _export(tensors, *, rank):  # type: ignore[no-untyped-def]
    metadata = diffusers_metadata(LoraSpec(rank=rank, alpha=rank), target_modules={"unet": _TARGETS})
    return diffusers_tensors(lora_tensors(tensors), prefix="unet"), metadata


def _parameters(rank: int) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for block, transformers, layers, width in _BLOCKS:
        for transformer in range(transformers):
            for layer in range(layers):
                where = f"{block}.attentions.{transformer}.transformer_blocks.{layer}"
                for attention, context in (("attn1", width), ("attn2", _PROMPT_WIDTH)):
                    for target in _TARGETS:
                        inputs = context if target in ("to_k", "to_v") else width
                        name = f"{where}.{attention}.{target}"
                        yield f"{name}.lora_A.weight", torch.nn.Parameter(torch.empty(rank, inputs))
                        yield f"{name}.lora_B.weight", torch.nn.Parameter(torch.empty(width, rank))
