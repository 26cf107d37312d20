"""One optimizer update: micro-batches, backward, clip, learning rate, optimizer.

Nothing here draws a number: noise, timesteps and seeds come with the batch. Letters: B micro-batch, C channels, H and W
latent height and width, N prompts, S tokens, D and P widths of the two kinds of embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch.amp.grad_scaler import GradScaler

from dreambooth_resume.data.batch import Batch, MicroBatch
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.models.base import Denoiser, TextEncoders
from dreambooth_resume.models.new_tokens import NewTokens
from dreambooth_resume.runs.notice import Notice
from dreambooth_resume.training.ema import Ema
from dreambooth_resume.training.memory import is_out_of_memory
from dreambooth_resume.training.objective import (
    Objective,
    Scored,
    denoising_loss,
    question,
    region_weights,
    sample_latents,
    scored,
)
from dreambooth_resume.training.optimizer import Optimizer
from dreambooth_resume.training.precision import autocast

LOSS_SCALE = "loss_scale"

PixelEncoder = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""One picture [3, height, width] in -1..1 -> mean and log-variance of its latents [channels, height, width]."""


class Prompts(Protocol):
    """What the denoiser reads for each prompt; a batch names a prompt by its number."""

    def embeddings(self, prompt_index_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """prompt_embeds [batch, tokens, width] and pooled_prompt_embeds [batch, width], on the device.

        prompt_index_B: int64 [batch], in CPU memory.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTable:
    """Every prompt's embeddings, computed once.

    prompt_embeds_NSD: [prompts, tokens, width] and pooled_prompt_embeds_NP: [prompts, width], in the denoiser's dtype.
    """

    prompt_embeds_NSD: torch.Tensor
    pooled_prompt_embeds_NP: torch.Tensor

    def embeddings(self, prompt_index_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = prompt_index_B.to(self.prompt_embeds_NSD.device, non_blocking=True)
        return self.prompt_embeds_NSD[rows], self.pooled_prompt_embeds_NP[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPrompts:
    """Every prompt's tokens, encoded at each step by text encoders that are trained; gradients flow into these.

    tokens_NS: int64 [prompts, tokens] for each encoder, on the device. The prompt of the number `zeros` has zeros for
    embeddings, whatever the encoders make of it.
    """

    text_encoders: TextEncoders
    tokens_NS: tuple[torch.Tensor, ...]
    zeros: int | None = None

    def embeddings(self, prompt_index_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each prompt of the batch is encoded once, in the order of their numbers, as Diffusers' script does for one.

        Samples with the same prompt share its dropout.
        """
        used_U, row_B = torch.unique(prompt_index_B, return_inverse=True)
        rows = used_U.to(self.tokens_NS[0].device, non_blocking=True)
        embeds_USD, pooled_UP = self.text_encoders.encode(tuple(tokens[rows] for tokens in self.tokens_NS))
        # Not by an index: its backward pass adds rows up in any order, on a CPU with several threads.
        order = row_B.tolist()
        embeds_BSD, pooled_BP = (torch.stack([one[row] for row in order]) for one in (embeds_USD, pooled_UP))
        if self.zeros is None:
            return embeds_BSD, pooled_BP
        is_zeros_B = (prompt_index_B == self.zeros).to(embeds_BSD.device)
        return embeds_BSD.masked_fill(is_zeros_B[:, None, None], 0), pooled_BP.masked_fill(is_zeros_B[:, None], 0)


def as_dropped(
    pair: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What stands for a dropped caption: zeros in the pair's shapes, as in SDXL's own training.

    Source: `ucg_rate` in GeneralConditioner.forward of Stability AI's generative-models.
    """
    return np.zeros_like(pair[0]), np.zeros_like(pair[1])


def prompt_table(
    embeddings: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]], *, denoiser: Denoiser, device: torch.device
) -> PromptTable:
    """A table of (prompt_embeds [tokens, width], pooled_prompt_embeds [width]) pairs, in their order."""
    pairs = list(embeddings)
    dtype = denoiser.weight_dtype
    return PromptTable(
        prompt_embeds_NSD=torch.from_numpy(np.stack([embeds for embeds, _ in pairs])).to(device, dtype),
        pooled_prompt_embeds_NP=torch.from_numpy(np.stack([pooled for _, pooled in pairs])).to(device, dtype),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableModel:
    """A frozen denoiser with its adapter, and what it reads beside the batch.

    `parameters` are the adapter's, in the order of their names. `encode_pixels` is needed only for batches of pixels,
    `scaler` with float16, which would round small gradients to zero without it. `new_tokens` are among `parameters`.
    """

    denoiser: Denoiser
    parameters: Mapping[str, torch.nn.Parameter]
    prompts: Prompts
    accelerator: Accelerator
    encode_pixels: PixelEncoder | None = None
    scaler: GradScaler | None = None
    new_tokens: NewTokens | None = None
    objective: Objective = field(default_factory=Objective)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """Of one update: mean loss of its samples, norm of the whole gradient before clipping, the first group's rate.

    `more` goes into the metrics file under its own names: what `Optimizer.measured` says, and in float16 as
    `loss_scale` what the loss was multiplied by; the norm is that of the true gradient.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    more: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    """The batch's checksum, by which a later attempt sees that it trains on the same."""

    @property
    def is_overflow(self) -> bool:
        """The loss was scaled too far for float16: the scaler changed no weight, and scales the next one less."""
        is_scaled = self.more.get(LOSS_SCALE, 1.0) > 1.0
        return is_scaled and math.isfinite(self.loss) and not math.isfinite(self.grad_norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is left of a micro-batch that another process computed: its loss, and its samples' checksum."""

    loss: torch.Tensor
    checksum: int


class HandsLate(Exception):
    """`notice` asks the attempt to end, and another process is still computing. Nothing of the step was changed."""

    def __init__(self, notice: Notice) -> None:
        super().__init__(notice.source)
        self.notice = notice


class Hands(Protocol):
    """Other processes that compute the other micro-batches of a step."""

    def begin(self, step: int, *, loss_scale: float) -> None:
        """Have them begin, with the parameters as they are now."""
        ...

    def add_round(self, batch: Batch, place: int) -> list[Part]:
        """Add the gradients of the micro-batches behind this process's one at `place`, up to its next.

        Raises HandsLate if a notice leaves no time to wait for them.
        """
        ...


def train_step(
    model: TrainableModel,
    batch: Batch,
    *,
    optimizer: Optimizer,
    max_grad_norm: float,
    ema: Ema | None = None,
    before_update: Callable[[], None] = lambda: None,
    hands: Hands | None = None,
) -> StepMetrics:
    """Update the adapter once with this batch, at the learning rates of its step, and its average, if there is one.

    `before_update` returns when the state may change: until then a save may still be copying it. Every sample weighs
    the same, however the batch is cut into micro-batches. In float16 a gradient that overflows makes a step without an
    update: weights and moments stay. Waits for the device once, at the end. Out of memory before the update, nothing
    is changed but the gradients. With `hands` the batch is this process's share of the step.
    """
    scaler = model.scaler
    optimizer.choose_what_trains(batch.step)
    loss_scale = scaler.get_scale() if scaler else None
    if hands is not None:
        hands.begin(batch.step, loss_scale=loss_scale or 1.0)
    losses, checksum = [], batch.checksum
    for place, micro_batch in enumerate(batch.micro_batches):
        losses.append(backward_pass(model, micro_batch, of=batch.slots))
        for part in hands.add_round(batch, place) if hands is not None else ():
            losses.append(part.loss)
            checksum = None if checksum is None else (checksum + part.checksum) % 2**32
    with _memory_for_the_update(batch.step):
        grad_norm = _clip(model, optimizer, max_grad_norm)
        before_update()
        _update(optimizer, scaler, batch.step)
        if model.new_tokens is not None:
            model.new_tokens.hold_spread(grad_norm)
        if ema is not None:
            ema.update(batch.step)
    # One transfer for both numbers: each .item() would make the CPU wait for the GPU.
    loss_value, norm_value = torch.stack([torch.stack(losses).sum(), grad_norm.detach()]).tolist()
    scale = {LOSS_SCALE: loss_scale} if loss_scale else {}
    return StepMetrics(
        loss=loss_value,
        grad_norm=norm_value,
        learning_rate=optimizer.groups[0].schedule.at(batch.step),
        more={**optimizer.measured(batch.step), **scale},
        samples=checksum,
    )


def backward_pass(model: TrainableModel, micro_batch: MicroBatch, *, of: int) -> torch.Tensor:
    """Forward and backward; the loss, a float32 scalar, to which each sample adds what it weighs among `of` samples."""
    loss = micro_batch_loss(model, micro_batch) * (micro_batch.slots / of)
    model.accelerator.backward(model.scaler.scale(loss) if model.scaler else loss)
    return loss.detach()


def _clip(model: TrainableModel, optimizer: Optimizer, max_grad_norm: float) -> torch.Tensor:
    """Clip the true gradient, and not the scaled one; its norm before that."""
    if model.scaler:
        model.scaler.unscale_(optimizer.torch_optimizer)
    return torch.nn.utils.clip_grad_norm_(list(model.parameters.values()), max_grad_norm)


def _update(optimizer: Optimizer, scaler: GradScaler | None, step: int) -> None:
    """Change the parameters by their gradients, and drop these."""
    optimizer.set_rates(step)
    if scaler:
        scaler.step(optimizer.torch_optimizer)
        scaler.update()
    else:
        optimizer.torch_optimizer.step()
    optimizer.torch_optimizer.zero_grad(set_to_none=True)


@contextmanager
def _memory_for_the_update(step: int) -> Iterator[None]:
    """Smaller micro-batches need as much here as great ones, and half of the parameters may be changed already."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # Seen by the loop it would be taken for one of the passes', and the update made a second time.
        raise RefusedToGoOn(
            f"Step {step + 1}: out of memory in the optimizer's update ({error}). Nothing of this step was saved. Free "
            "the device of other programs and type the same command again, or begin a new run with a smaller --rank."
        ) from error


def micro_batch_loss(model: TrainableModel, micro_batch: MicroBatch) -> torch.Tensor:
    """The loss of these samples, a float32 scalar that can be differentiated. Reseeds torch's global generators.

    With class pictures: the mean over the slots' pictures + class_weight x the mean over their class pictures.
    """
    denoiser, device = model.denoiser, model.accelerator.device
    schedule = denoiser.noise_schedule
    noise_BCHW = micro_batch.noise.to(device, non_blocking=True)
    timesteps_B = micro_batch.timesteps.to(device, non_blocking=True)
    mean_BCHW, logvar_BCHW = _latent_distribution(model, micro_batch)
    latents_BCHW = sample_latents(
        mean_BCHW, logvar_BCHW, micro_batch.vae_noise.to(device, non_blocking=True), scale=denoiser.latent_scale
    )
    input_noise_BCHW = noise_BCHW
    if micro_batch.input_noise is not None:
        input_noise_BCHW = micro_batch.input_noise.to(device, non_blocking=True)
    asked = question(model.objective, latents_BCHW, input_noise_BCHW, timesteps_B, schedule=schedule)
    # peft's dropout has no generator of its own, so the global one is put where this micro-batch needs it.
    torch.manual_seed(micro_batch.dropout_seed)
    with autocast(model.accelerator, model.scaler):
        prompt_embeds_BSD, pooled_prompt_embeds_BP = model.prompts.embeddings(micro_batch.prompt_index)
        prediction_BCHW = denoiser.predict(
            asked.inputs_BCHW,
            asked.conditions_B,
            prompt_embeds_BSD=prompt_embeds_BSD,
            pooled_prompt_embeds_BP=pooled_prompt_embeds_BP,
            time_ids_B6=micro_batch.time_ids.to(device, non_blocking=True),
        )
    result = scored(
        model.objective,
        prediction_BCHW,
        asked,
        latents_BCHW=latents_BCHW,
        noise_BCHW=noise_BCHW,
        timesteps_B=timesteps_B,
        schedule=schedule,
    )
    regions_B1HW = None
    if micro_batch.mask is not None:
        mask_BHW = micro_batch.mask.to(device, non_blocking=True)
        regions_B1HW = region_weights(mask_BHW, unmasked_weight=model.objective.unmasked_weight)
    instance, prior = slice(micro_batch.slots), slice(micro_batch.slots, None)
    loss = _part_loss(result, result.weights_B, instance, regions_B1HW)
    if micro_batch.class_weight is None:
        return loss
    return loss + micro_batch.class_weight * _part_loss(result, result.class_weights_B, prior)


def _part_loss(
    result: Scored, weights_B: torch.Tensor | None, part: slice, regions_B1HW: torch.Tensor | None = None
) -> torch.Tensor:
    return denoising_loss(
        result.prediction_BCHW[part],
        result.target_BCHW[part],
        None if weights_B is None else weights_B[part],
        measure=result.measure.of(part),
        regions_B1HW=regions_B1HW,
    )


def _latent_distribution(model: TrainableModel, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    device = model.accelerator.device
    if micro_batch.mean is not None and micro_batch.logvar is not None:
        return micro_batch.mean.to(device, non_blocking=True), micro_batch.logvar.to(device, non_blocking=True)
    if micro_batch.pixels is None:
        raise ValueError("the batch has neither latents nor pixels")
    if model.encode_pixels is None:
        raise ValueError("the batch has pixels, and the model was built without an encoder for them")
    # One picture a call, as for the cache: together they would get other last bits than alone.
    encoded = [model.encode_pixels(pixels_CHW) for pixels_CHW in micro_batch.pixels]
    return torch.stack([mean for mean, _ in encoded]), torch.stack([logvar for _, logvar in encoded])
