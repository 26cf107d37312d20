"""How long one save stops the training thread, against accelerate's save_state of the same state.

dbr's stop is the call that begins the save, and what the update then waits for the copy to be whole. In between lie the
forward and backward passes of a real step. They are those of the benchmarks' small model, a small part of what SDXL's
take on any machine, so the copy has less time to be made in than it would have.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bench_model
import numpy as np
import torch
from accelerate import Accelerator
from sdxl_state import make_manager, sdxl_state

from dreambooth_resume.checkpoint.manager import CheckpointManager
from dreambooth_resume.data.batch import Batch, MicroBatch
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.source import resolve_source
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.training.state import TrainingState
from dreambooth_resume.training.step import TrainableModel, prompt_table, train_step

WANTED_SHARE = 0.05
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class StopFigures:
    """Medians, and of each pair of neighbours stop / save_state."""

    stop_seconds: float
    longest_stop_seconds: float
    save_state_seconds: float
    step_seconds: float
    saving_step_seconds: float
    """Of a step under whose passes a save is copied, hashed and written: its stop, and what it loses to those."""
    state_bytes: int
    shares: tuple[float, ...]

    @property
    def share(self) -> float:
        return statistics.median(self.shares)


def measure_stop(folder: Path, *, pairs: int) -> StopFigures:
    """The same weights and moments, saved under a step by dbr, and by accelerate, turn about."""
    state = sdxl_state()
    accelerator = Accelerator()
    module, _ = accelerator.prepare(torch.nn.ParameterList(state.parameters.values()), state.optimizer.torch_optimizer)
    assert [one.data_ptr() for one in module.parameters()] == [one.data_ptr() for one in state.parameters.values()]
    target = folder / "accelerate-sdxl"
    manager = make_manager(LocalStorage(folder / "stop"))
    steps = _Steps(state, manager, _small_model(folder, accelerator))
    stops, saves, calm, saving = [], [], [], []
    for _ in range(pairs + 1):
        calm.append(_seconds(steps.train))
        saving.append(_seconds(steps.save_and_train))
        stops.append(steps.stopped_seconds)
        assert manager.save_now(
            state, reason="bench", give_up=lambda: False
        )  # off the clock: nothing runs beside save_state
        shutil.rmtree(target, ignore_errors=True)
        saves.append(_seconds(lambda: accelerator.save_state(str(target))))
    shutil.rmtree(target)
    manager.close()
    return StopFigures(
        stop_seconds=statistics.median(stops[1:]),
        longest_stop_seconds=max(stops[1:]),
        save_state_seconds=statistics.median(saves[1:]),
        step_seconds=statistics.median(calm[1:]),
        saving_step_seconds=statistics.median(saving[1:]),
        state_bytes=sum(tensor.nbytes for tensor in state.tensors().values()),
        shares=tuple(ours / theirs for ours, theirs in zip(stops[1:], saves[1:], strict=True)),
    )


class _Steps:
    """dbr's own step: passes of the small model, then the update of a state of SDXL's size."""

    def __init__(self, state: TrainingState, manager: CheckpointManager, model: TrainableModel) -> None:
        self._state = state
        self._manager = manager
        self._model = model
        self._gradients = [torch.randn_like(parameter) for parameter in state.parameters.values()]
        part = _micro_batch()
        self._batch = Batch(step=0, micro_batches=(part,), picture_names=(), slots=part.slots, micro_batch_count=1)
        self.stopped_seconds = 0.0

    def save_and_train(self) -> None:
        self._state.global_step += 1
        self.stopped_seconds = _seconds(lambda: self._manager.save_in_background(self._state))
        self.train()

    def train(self) -> None:
        for parameter, gradient in zip(self._state.parameters.values(), self._gradients, strict=True):
            parameter.grad = gradient
        train_step(
            self._model,
            self._batch,
            optimizer=self._state.optimizer,
            max_grad_norm=1.0,
            before_update=self._before_update,
        )

    def _before_update(self) -> None:
        self.stopped_seconds += _seconds(self._manager.wait_until_copied)


def _small_model(folder: Path, accelerator: Accelerator) -> TrainableModel:
    source = resolve_source(str(folder / "model"), hub=HuggingFaceHub())
    family = family_named(source.family)
    denoiser = family.load_denoiser(source, device=_CPU, weight_dtype=torch.float32, gradient_checkpointing=False)
    encoders = family.encoders(source, device=_CPU)
    return TrainableModel(
        denoiser=denoiser,
        parameters=add_lora(denoiser, LoraSpec(rank=bench_model.RANK, alpha=bench_model.RANK), normal_draw=_draw),
        prompts=prompt_table([encoders.encode_prompt(bench_model.PROMPT)], denoiser=denoiser, device=_CPU),
        accelerator=accelerator,
    )


def _draw(number: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape, dtype=np.float32)


def _micro_batch() -> MicroBatch:
    size, side = bench_model.BATCH_SIZE, bench_model.RESOLUTION // 8
    pixels = float(bench_model.RESOLUTION)
    return MicroBatch(
        pixels=None,
        mean=torch.randn(size, 4, side, side),
        logvar=torch.randn(size, 4, side, side) - 4,
        vae_noise=torch.randn(size, 4, side, side),
        noise=torch.randn(size, 4, side, side),
        timesteps=torch.randint(0, 1000, (size,)),
        prompt_index=torch.zeros(size, dtype=torch.int64),
        time_ids=torch.tensor([[pixels, pixels, 0.0, 0.0, pixels, pixels]] * size),
        dropout_seed=0,
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
