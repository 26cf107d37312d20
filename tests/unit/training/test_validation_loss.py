"""The loss on held-out pictures: the mean of the plain errors, without a trace in what trains, and never its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from dreambooth_resume.config.options.validation import ValidationOptions
from dreambooth_resume.data.batch import MicroBatch
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import LoraSpec, add_lora
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.training.preview import Timetable
from dreambooth_resume.training.step import TrainableModel, micro_batch_loss, prompt_table
from dreambooth_resume.training.validation_loss import HeldOutLoss, Validation

CPU = torch.device("cpu")


@dataclass
class Told:
    messages: list[str]

    def message(self, text: str) -> None:
        self.messages.append(text)

    def phase(self, name: str, done: int, total: int) -> None: ...

    def step(self, update: Any) -> None: ...

    def close(self) -> None: ...


class Batches:
    """Two micro-batches of one sample; asked for a third, it fails as a device does."""

    def __init__(self, count: int = 2) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> MicroBatch:
        if number == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        rng = np.random.default_rng(number)
        mean, noise = (torch.from_numpy(rng.standard_normal((1, 4, 8, 8), dtype=np.float32)) for _ in range(2))
        return MicroBatch(
            pixels=None,
            mean=mean,
            logvar=mean,
            vae_noise=torch.zeros_like(noise),
            noise=noise,
            timesteps=torch.tensor([500]),
            prompt_index=torch.tensor([0]),
            time_ids=torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
            dropout_seed=0,
        )


@pytest.fixture
def loss_of(tiny_source: ModelSource) -> Iterator[Callable[[int], HeldOutLoss]]:
    family = family_named(tiny_source.family)
    denoiser = family.load_denoiser(tiny_source, device=CPU, weight_dtype=torch.float32, gradient_checkpointing=False)
    draws = np.random.default_rng(5)
    model = TrainableModel(
        denoiser=denoiser,
        parameters=add_lora(
            denoiser,
            LoraSpec(rank=4, alpha=4, dropout=0.5),
            normal_draw=lambda _number, shape: draws.standard_normal(shape, dtype=np.float32),
        ),
        prompts=prompt_table(
            [family.encoders(tiny_source, device=CPU).encode_prompt("a")], denoiser=denoiser, device=CPU
        ),
        accelerator=Accelerator(cpu=True),
    )
    for parameter in model.parameters.values():
        parameter.data.add_(0.1)  # else the dropout would change nothing

    def made(count: int) -> HeldOutLoss:
        return HeldOutLoss(
            model=model,
            held_out=Batches(count),  # type: ignore[arg-type]
            modules=(denoiser.module,),
            result_in_place=nullcontext,
        )

    yield made
    AcceleratorState._reset_state(reset_partial_state=True)


def validation(loss: HeldOutLoss, *, should_stop: bool = False) -> tuple[Validation, Told]:
    told = Told([])
    timetable = Timetable(
        options=ValidationOptions(validation_steps=2),
        plan=Plan(seed=1, picture_count=3, batch_size=2),
        max_train_steps=5,
    )
    return Validation(loss, timetable, should_stop=lambda: should_stop, reporter=told), told


def test_it_is_the_mean_of_the_plain_errors_without_dropout_and_leaves_no_trace(
    loss_of: Callable[[int], HeldOutLoss],
) -> None:
    loss = loss_of(2)
    module, random_state = loss.model.denoiser.module, torch.random.get_rng_state()
    modes = [one.training for one in module.modules()]
    before = [parameter.detach().clone() for parameter in loss.model.parameters.values()]
    measured, told = validation(loss)
    values = measured.values(4)
    assert values == measured.values(4)
    assert told.messages == [f"Step 4: validation loss {values['val_loss']:.4f}."] * 2
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert [one.training for one in module.modules()] == modes
    assert all(torch.equal(*pair) for pair in zip(before, loss.model.parameters.values(), strict=True))
    assert all(parameter.grad is None for parameter in loss.model.parameters.values())
    module.eval()
    with torch.no_grad():
        errors = [micro_batch_loss(loss.model, Batches()[number]).item() for number in range(2)]
    assert values["val_loss"] == sum(errors) / 2


def test_it_is_due_when_pictures_are_and_at_the_last_step(loss_of: Callable[[int], HeldOutLoss]) -> None:
    measured, _ = validation(loss_of(1))
    assert [step for step in range(6) if measured.due(step)] == [2, 4, 5]


def test_somebody_who_asks_for_the_machine_is_not_kept_waiting(loss_of: Callable[[int], HeldOutLoss]) -> None:
    measured, told = validation(loss_of(2), should_stop=True)
    assert measured.values(2) == {}
    assert told.messages == ["The validation loss of step 2 is left out: somebody asks for the machine."]


def test_what_goes_wrong_is_said_once_and_ends_nothing(loss_of: Callable[[int], HeldOutLoss]) -> None:
    measured, told = validation(loss_of(3))
    assert (measured.values(2), measured.values(4)) == ({}, {})
    (message,) = told.messages
    assert message.startswith("The validation loss of step 2 is left out (out of memory). Training goes on")
