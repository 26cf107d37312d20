"""How long one save stops the training thread: dbr's copy of a state of SDXL's size, and accelerate's save_state."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from sdxl_state import sdxl_state

from dreambooth_resume.checkpoint.snapshot import Snapshotter

WANTED_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StopFigures:
    """Medians, and of each pair of neighbours snapshot / save_state."""

    snapshot_seconds: float
    save_state_seconds: float
    state_bytes: int
    shares: tuple[float, ...]

    @property
    def share(self) -> float:
        return statistics.median(self.shares)


def measure_stop(folder: Path, *, pairs: int) -> StopFigures:
    """The same weights and moments, copied for dbr's save thread, and saved by accelerate, turn about."""
    state = sdxl_state()
    accelerator = Accelerator()
    module, _ = accelerator.prepare(torch.nn.ParameterList(state.parameters.values()), state.optimizer.torch_optimizer)
    assert [one.data_ptr() for one in module.parameters()] == [one.data_ptr() for one in state.parameters.values()]
    target = folder / "accelerate-sdxl"
    taking = Snapshotter(state)
    snapshots, saves = [], []
    for _ in range(pairs + 1):
        snapshots.append(_seconds(lambda: taking.give_back(taking.take())))
        shutil.rmtree(target, ignore_errors=True)
        saves.append(_seconds(lambda: accelerator.save_state(str(target))))
    shutil.rmtree(target)
    return StopFigures(
        snapshot_seconds=statistics.median(snapshots[1:]),
        save_state_seconds=statistics.median(saves[1:]),
        state_bytes=sum(tensor.nbytes for tensor in state.tensors().values()),
        shares=tuple(ours / theirs for ours, theirs in zip(snapshots[1:], saves[1:], strict=True)),
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
