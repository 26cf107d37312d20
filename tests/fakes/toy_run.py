"""A run whose training is one number a step: everything about it is real but the model and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dreambooth_resume.checkpoint.commit import Committer
from dreambooth_resume.checkpoint.deletion import collect
from dreambooth_resume.checkpoint.format import SavedState, Scalars
from dreambooth_resume.checkpoint.publish import publish
from dreambooth_resume.checkpoint.reader import load_checkpoint
from dreambooth_resume.runs.adoption import LATEST, Adoption, Wish, ref_of, take_over
from dreambooth_resume.runs.entries import Commit, Entry, Finished, Process, Stopped
from dreambooth_resume.runs.holder import Patience
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.storage.base import Storage

STEPS = 4
TAKE_OVER = Patience(wait_seconds=0.0, take_over=True, sleep=lambda _seconds: None)


def machine(name: str) -> Process:
    """A process on a machine that isn't this one, so that nobody here can tell whether it lives."""
    return Process(host=name, boot_id=f"boot of {name}", pid_namespace="pid:[1]", pid=1, started="1")


def state_of(step: int) -> SavedState:
    """What training makes of `step` steps, on every machine."""
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3) * (step + 1)
    return SavedState(step=step, tensors={"lora.w": tensor, "optimizer.w.step": torch.tensor(float(step))}, scalars={})


class ToyState:
    """What `state_of` saves, as live tensors that the next step changes in place."""

    def __init__(self, step: int = 0) -> None:
        self.global_step = step
        self._live = {name: tensor.clone() for name, tensor in state_of(step).tensors.items()}

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return self._live

    def scalars(self) -> Scalars:
        return {}

    def train_to(self, step: int) -> None:
        for name, tensor in state_of(step).tensors.items():
            self._live[name].copy_(tensor)
        self.global_step = step


def export(tensors: Mapping[str, torch.Tensor]) -> tuple[Mapping[str, torch.Tensor], Mapping[str, str]]:
    return {"unet.w": tensors["lora.w"]}, {"format": "pt"}


def same_state(one: SavedState, other: SavedState) -> bool:
    return (one.step, one.scalars, one.tensors.keys()) == (other.step, other.scalars, other.tensors.keys()) and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )


@dataclass(kw_only=True)
class Attempt:
    """One process life on `storage`."""

    storage: Storage
    adopted: Adoption[SavedState]
    committer: Committer
    step: int
    max_train_steps: int

    @property
    def number(self) -> int:
        return self.adopted.writer.attempt

    @property
    def log(self) -> Log:
        return self.adopted.writer.log

    def commit(self, step: int | None = None) -> Entry:
        """Train up to `step` (default: one further) and commit it."""
        self.step = self.step + 1 if step is None else step
        return self.committer.commit(state_of(self.step), "interval")

    def stop(self) -> Entry:
        return self.committer.append(Stopped(reason="SIGTERM", exit_code=75))

    def finish(self) -> None:
        if self.log.finished is None:
            newest = next(entry.number for entry in reversed(self.log.entries) if isinstance(entry.body, Commit))
            self.committer.append(Finished(checkpoint=newest))
        publish(self.storage, self.log)

    def train_to_the_end(self) -> None:
        while self.step < self.max_train_steps:
            self.commit()
        self.finish()


def begin(
    storage: Storage,
    name: str = "A",
    *,
    resume: str = LATEST,
    request_id: str | None = None,
    limit: int | None = None,
    steps: int = STEPS,
    reopen: bool = False,
    patience: Patience = TAKE_OVER,
) -> Attempt:
    """Start an attempt as `dbr train` does; the run must not be finished."""
    adopted = adopt(storage, name, resume=resume, request_id=request_id, steps=steps, reopen=reopen, patience=patience)
    assert isinstance(adopted, Adoption)
    storage.claim(adopted.writer.attempt)
    collect(storage, adopted.writer.log, attempt=adopted.writer.attempt)
    committer = Committer(
        storage,
        adopted.writer,
        export_weights=export,
        flush_metrics=lambda _step: None,
        total_limit=limit,
        max_train_steps=steps,
    )
    step = adopted.loaded.step if adopted.loaded else 0
    return Attempt(storage=storage, adopted=adopted, committer=committer, step=step, max_train_steps=steps)


def adopt(
    storage: Storage,
    name: str = "A",
    *,
    resume: str = LATEST,
    request_id: str | None = None,
    steps: int = STEPS,
    reopen: bool = False,
    patience: Patience = TAKE_OVER,
) -> Adoption[SavedState] | Log:
    wish = Wish(max_train_steps=steps, resume=resume, request_id=request_id, reopen=reopen)
    return take_over(
        storage, wish, load=lambda ref: load_checkpoint(storage, ref), process=machine(name), patience=patience
    )


def run_to_the_end(storage: Storage, name: str = "Z", *, limit: int | None = None, steps: int = STEPS) -> None:
    """One more start of the same command, on a machine that stays."""
    log = read_log(storage)
    if log.finished is not None:
        publish(storage, log)
    else:
        begin(storage, name, limit=limit, steps=steps).train_to_the_end()


def check_home(storage: Storage, *, may_be_damaged: bool = False) -> Log:
    """The log reads, every usable checkpoint is whole and right, and the newest entry lists exactly those."""
    log = read_log(storage)
    usable = sorted({*log.usable_line(), *log.off_line()})
    if log.last is not None:
        assert sorted(ref.number for ref in log.last.state.live) == usable
        if not may_be_damaged:
            for live in log.last.state.live:
                assert same_state(load_checkpoint(storage, ref_of(log, live.number)), state_of(live.step))
    return log


def check_finished(storage: Storage, *, steps: int = STEPS) -> None:
    """The run is done, once, and its result is that of a run that nothing ever happened to."""
    log = check_home(storage, may_be_damaged=True)
    assert log.finished is not None
    assert [entry.number for entry in log.entries if isinstance(entry.body, Finished)] == [len(log.entries)]
    assert log.finished.checkpoint in [live.number for live in log.entries[-1].state.live]
    ref = ref_of(log, log.finished.checkpoint)
    assert same_state(load_checkpoint(storage, ref), state_of(steps))
    assert storage.read("pytorch_lora_weights.safetensors") == storage.read(
        f"{ref.folder}/pytorch_lora_weights.safetensors"
    )
