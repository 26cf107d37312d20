"""One update against the plain loop of Diffusers' SDXL script, and what must not change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from peft import LoraConfig

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.data.batch import Batch, MicroBatch
from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.dataset import Picture
from dreambooth_resume.data.transforms import Crop, time_ids
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.training.optimizer import Optimizer
from dreambooth_resume.training.optimizers.base import ParameterGroup
from dreambooth_resume.training.schedule import LearningRateSchedule
from dreambooth_resume.training.step import PromptTable, TrainableModel, micro_batch_loss, prompt_table, train_step
from tests.fakes.optimizers import constant, one_group

PROMPTS = ("a photo of sks robot", "a photo of a dog")
SIDE = 64  # pixels
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def normal_draw(number: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape, dtype=np.float32)


def build_model(
    source: ModelSource, spec: LoraSpec, *, precision: str = "no", checkpointing: bool = False
) -> TrainableModel:
    family = family_named(source.family)
    weight_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    denoiser = family.load_denoiser(source, device=CPU, weight_dtype=weight_dtype, gradient_checkpointing=checkpointing)
    encoders = family.encoders(source, device=CPU)
    return TrainableModel(
        denoiser=denoiser,
        parameters=add_lora(denoiser, spec, normal_draw=normal_draw),
        prompts=prompt_table(map(encoders.encode_prompt, PROMPTS), denoiser=denoiser, device=CPU),
        accelerator=Accelerator(cpu=True, mixed_precision=precision),
        encode_pixels=encoders.encode_pixels,
    )


def make_micro_batch(seed: int, size: int, *, pixels: bool = False) -> MicroBatch:
    rng = np.random.default_rng(seed)
    latent_shape = (size, 4, SIDE // 8, SIDE // 8)

    def normal() -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(latent_shape, dtype=np.float32))

    return MicroBatch(
        pixels=torch.from_numpy(rng.uniform(-1, 1, (size, 3, SIDE, SIDE)).astype(np.float32)) if pixels else None,
        mean=None if pixels else normal() * 7,
        logvar=None if pixels else normal() - 4,
        vae_noise=normal(),
        noise=normal(),
        timesteps=torch.from_numpy(rng.integers(0, 1000, size)),
        prompt_index=torch.from_numpy(rng.integers(0, len(PROMPTS), size)),
        time_ids=torch.from_numpy(
            np.stack([[160, 192, rng.integers(9), rng.integers(9), SIDE, SIDE] for _ in range(size)]).astype(np.float32)
        ),
        dropout_seed=int(rng.integers(2**32)),
    )


def make_batch(step: int, *, size: int = 2, micro_batches: int = 1, pixels: bool = False) -> Batch:
    parts = tuple(make_micro_batch(1000 * step + part, size, pixels=pixels) for part in range(micro_batches))
    return whole_batch(step, parts)


def whole_batch(step: int, parts: tuple[MicroBatch, ...]) -> Batch:
    slots = sum(part.slots for part in parts)
    return Batch(step=step, micro_batches=parts, picture_names=(), slots=slots, micro_batch_count=len(parts))


def batch_of(step: int, recipe: Recipe) -> Batch:
    samples = recipe.size if recipe.class_weight is None else 2 * recipe.size
    batch = make_batch(step, size=samples, micro_batches=recipe.micro_batches, pixels=recipe.pixels)
    parts = tuple(replace(part, class_weight=recipe.class_weight) for part in batch.micro_batches)
    return whole_batch(step, parts)


@dataclass(frozen=True)
class Recipe:
    """What one comparison trains with."""

    lr_scheduler: str = "constant"
    warmup: int = 0
    micro_batches: int = 1
    pixels: bool = False
    prediction_type: str = "epsilon"
    rank: int = 4
    alpha: float = 4
    max_grad_norm: float = 1.0
    class_weight: float | None = None
    size: int = 2


def scripts_unet(source: ModelSource, recipe: Recipe) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    """The UNet with the adapter of Diffusers' train_dreambooth_lora_sdxl.py, started from our draws."""
    unet = UNet2DConditionModel.from_pretrained(source.folder, subfolder="unet")
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            init_lora_weights="gaussian",
            target_modules=["to_k", "to_q", "to_v", "to_out.0"],
        )
    )
    trained = {name: parameter for name, parameter in sorted(unet.named_parameters()) if parameter.requires_grad}
    for number, parameter in enumerate(parameter for name, parameter in trained.items() if "lora_A" in name):
        values = normal_draw(number, (parameter.shape[0], parameter.shape[1])) / recipe.rank
        parameter.data.copy_(torch.from_numpy(values))
    unet.train()
    return unet, trained


def scripts_loop(
    source: ModelSource, recipe: Recipe, batches: list[Batch]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The script's main loop, with the random draws taken from the batches: losses, and the adapter at the end."""
    unet, trained = scripts_unet(source, recipe)
    vae = AutoencoderKL.from_pretrained(source.folder, subfolder="vae")
    noise_scheduler = DDPMScheduler.from_pretrained(
        source.folder, subfolder="scheduler", prediction_type=recipe.prediction_type
    )
    optimizer = torch.optim.AdamW(
        [{"params": list(trained.values()), "lr": 1e-4}], lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, eps=1e-8
    )
    lr_scheduler = get_scheduler(
        recipe.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=recipe.warmup,
        num_training_steps=len(batches),
        num_cycles=1,
        power=1.0,
    )
    encoders = family_named(source.family).encoders(source, device=CPU)
    embeddings = [[torch.from_numpy(array) for array in encoders.encode_prompt(prompt)] for prompt in PROMPTS]
    losses = []
    for batch in batches:
        step_loss = 0.0
        for part in batch.micro_batches:
            prompts = [embeddings[index] for index in part.prompt_index.tolist()]
            loss = scripts_loss(unet, vae, noise_scheduler, part, prompts)
            (loss / len(batch.micro_batches)).backward()
            step_loss += loss.item() / len(batch.micro_batches)
        torch.nn.utils.clip_grad_norm_(list(trained.values()), recipe.max_grad_norm)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        losses.append(step_loss)
    return losses, {name.replace(".default.", "."): parameter.detach() for name, parameter in trained.items()}


def scripts_loss(
    unet: Any, vae: Any, noise_scheduler: Any, part: MicroBatch, prompts: list[list[torch.Tensor]]
) -> torch.Tensor:
    if part.pixels is not None:
        distribution = vae.encode(part.pixels).latent_dist
        mean, std = distribution.mean.detach(), distribution.std.detach()
    else:
        assert part.mean is not None
        assert part.logvar is not None
        mean, std = part.mean, torch.exp(0.5 * part.logvar)
    model_input = (mean + std * part.vae_noise) * vae.config.scaling_factor
    model_pred = unet(
        noise_scheduler.add_noise(model_input, part.noise, part.timesteps),
        part.timesteps,
        torch.stack([embeds for embeds, _ in prompts]),
        added_cond_kwargs={"time_ids": part.time_ids, "text_embeds": torch.stack([pooled for _, pooled in prompts])},
        return_dict=False,
    )[0]
    if noise_scheduler.config.prediction_type == "epsilon":
        target = part.noise
    else:
        target = noise_scheduler.get_velocity(model_input, part.noise, part.timesteps)
    if part.class_weight is None:
        return torch.nn.functional.mse_loss(model_pred.float(), target.float(), reduction="mean")
    model_pred, model_pred_prior = torch.chunk(model_pred, 2, dim=0)
    target, target_prior = torch.chunk(target, 2, dim=0)
    prior_loss = torch.nn.functional.mse_loss(model_pred_prior.float(), target_prior.float(), reduction="mean")
    loss = torch.nn.functional.mse_loss(model_pred.float(), target.float(), reduction="mean")
    return loss + part.class_weight * prior_loss


def our_loop(model: TrainableModel, recipe: Recipe, batches: list[Batch]) -> list[float]:
    schedule = LearningRateSchedule(
        name=recipe.lr_scheduler,  # type: ignore[arg-type]
        peak=1e-4,
        warmup_steps=recipe.warmup,
        total_steps=len(batches),
    )
    optimizer = one_group(model.parameters, schedule=schedule)
    return [train_step(model, batch, optimizer=optimizer, max_grad_norm=recipe.max_grad_norm).loss for batch in batches]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(lr_scheduler="cosine", warmup=2, micro_batches=2),
        Recipe(prediction_type="v_prediction", rank=8, alpha=2),
        Recipe(pixels=True, max_grad_norm=0.01),
        Recipe(class_weight=0.7, size=3, micro_batches=2),
    ],
    ids=[
        "defaults",
        "warm-up, cosine and accumulation",
        "v-prediction and alpha",
        "pixels and a tight clip",
        "prior preservation and accumulation",
    ],
)
def test_five_updates_equal_those_of_diffusers_script(
    tiny_source: ModelSource, recipe: Recipe, source_with: Callable[[str], ModelSource]
) -> None:
    source = tiny_source if recipe.prediction_type == "epsilon" else source_with(recipe.prediction_type)
    batches = [batch_of(step, recipe) for step in range(5)]
    model = build_model(source, LoraSpec(rank=recipe.rank, alpha=recipe.alpha))
    start = {name: parameter.detach().clone() for name, parameter in model.parameters.items()}
    losses = our_loop(model, recipe, batches)
    their_losses, their_parameters = scripts_loop(source, recipe, batches)
    assert losses == pytest.approx(their_losses, rel=1e-5)
    assert model.parameters.keys() == their_parameters.keys()
    for name, parameter in model.parameters.items():
        torch.testing.assert_close(parameter.detach(), their_parameters[name], rtol=0, atol=1e-5)
    moved = max((parameter.detach() - start[name]).abs().max().item() for name, parameter in model.parameters.items())
    assert moved > 1e-4  # else the comparison above would say nothing


def test_five_updates_twice_give_the_same_bits(tiny_source: ModelSource) -> None:
    batches = [make_batch(step) for step in range(5)]
    models = [build_model(tiny_source, LoraSpec(rank=4, alpha=4, dropout=0.3)) for _ in range(2)]
    first, second = (our_loop(model, Recipe(), batches) for model in models)
    assert first == second
    for name, parameter in models[0].parameters.items():
        assert torch.equal(parameter, models[1].parameters[name])


def gradients(model: TrainableModel, batch: MicroBatch) -> dict[str, torch.Tensor]:
    for parameter in model.parameters.values():
        parameter.grad = None
    micro_batch_loss(model, batch).backward()
    return {name: parameter.grad.clone() for name, parameter in model.parameters.items() if parameter.grad is not None}


def test_latents_cached_before_and_pixels_encoded_now_are_one_path(tiny_source: ModelSource) -> None:
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4))
    pixels = make_micro_batch(5, 2, pixels=True)
    assert pixels.pixels is not None
    assert model.encode_pixels is not None
    encoded = [model.encode_pixels(picture) for picture in pixels.pixels]
    mean, logvar = (torch.stack(part) for part in zip(*encoded, strict=True))
    cached = replace(pixels, pixels=None, mean=mean, logvar=logvar)
    assert torch.equal(micro_batch_loss(model, pixels), micro_batch_loss(model, cached))


def test_dropout_depends_on_the_batchs_seed_alone(tiny_source: ModelSource) -> None:
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4, dropout=0.5))
    batch = make_micro_batch(6, 2)
    first = gradients(model, batch)
    torch.randn(17)  # somebody else uses the global generator
    again = gradients(model, batch)
    other = gradients(model, replace(batch, dropout_seed=batch.dropout_seed + 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_without_dropout_the_seed_changes_nothing(tiny_source: ModelSource) -> None:
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4))
    batch = make_micro_batch(6, 2)
    first = gradients(model, batch)
    other = gradients(model, replace(batch, dropout_seed=batch.dropout_seed + 1))
    assert all(torch.equal(first[name], other[name]) for name in first)


def test_gradient_checkpointing_gives_the_same_gradients_with_dropout_too(tiny_source: ModelSource) -> None:
    spec = LoraSpec(rank=4, alpha=4, dropout=0.5)
    batch = make_micro_batch(7, 2)
    plain = gradients(build_model(tiny_source, spec), batch)
    checkpointed_model = build_model(tiny_source, spec, checkpointing=True)
    assert any(
        getattr(module, "gradient_checkpointing", False) for module in checkpointed_model.denoiser.module.modules()
    )
    checkpointed = gradients(checkpointed_model, batch)
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name], rtol=1e-5, atol=1e-7)


def test_bf16_keeps_the_adapter_its_gradients_and_moments_in_float32(tiny_source: ModelSource) -> None:
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4), precision="bf16")
    assert {parameter.dtype for parameter in model.parameters.values()} == {torch.float32}
    frozen = {p.dtype for p in model.denoiser.module.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    batch = make_micro_batch(8, 2)
    assert micro_batch_loss(model, batch).dtype == torch.float32
    assert {gradient.dtype for gradient in gradients(model, batch).values()} == {torch.float32}
    optimizer = one_group(model.parameters)
    for step in range(3):
        train_step(model, make_batch(step), optimizer=optimizer, max_grad_norm=1.0)
    assert {moment.dtype for moment in optimizer.tensors().values()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters.values()} == {torch.float32}


def test_bf16_loss_is_near_that_of_float32(tiny_source: ModelSource) -> None:
    batch = make_micro_batch(9, 4)
    whole = micro_batch_loss(build_model(tiny_source, LoraSpec(rank=4, alpha=4)), batch).item()
    AcceleratorState._reset_state(reset_partial_state=True)
    half = micro_batch_loss(build_model(tiny_source, LoraSpec(rank=4, alpha=4), precision="bf16"), batch).item()
    assert half == pytest.approx(whole, rel=0.02)
    assert half != whole


def test_cutting_a_batch_into_other_micro_batches_keeps_loss_and_gradient_norm(tiny_source: ModelSource) -> None:
    whole = make_micro_batch(10, 3)

    def part(rows: slice) -> MicroBatch:
        tensors = {
            name: value[rows]
            for name in ("mean", "logvar", "vae_noise", "noise", "timesteps", "prompt_index", "time_ids")
            if (value := getattr(whole, name)) is not None
        }
        return replace(whole, **tensors)

    def metrics(*parts: MicroBatch) -> Any:
        model = build_model(tiny_source, LoraSpec(rank=4, alpha=4))
        return train_step(
            model,
            whole_batch(0, parts),
            optimizer=one_group(model.parameters),
            max_grad_norm=1.0,
        )

    together = metrics(whole)
    cut = metrics(part(slice(0, 2)), part(slice(2, 3)))  # unequal: every sample must still weigh the same
    assert cut.loss == pytest.approx(together.loss, rel=1e-5)
    assert cut.grad_norm == pytest.approx(together.grad_norm, rel=1e-4)
    assert together.learning_rate == 1e-4


def test_class_pictures_count_by_their_weight(tiny_source: ModelSource) -> None:
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4))
    both = make_micro_batch(13, 4)

    def half(rows: slice) -> float:
        names = ("mean", "logvar", "vae_noise", "noise", "timesteps", "prompt_index", "time_ids")
        return micro_batch_loss(model, replace(both, **{name: getattr(both, name)[rows] for name in names})).item()

    own, prior = half(slice(0, 2)), half(slice(2, 4))
    for weight in (0.0, 0.5, 1.0, 3.0):
        loss = micro_batch_loss(model, replace(both, class_weight=weight)).item()
        assert loss == pytest.approx(own + weight * prior, rel=1e-5)


def test_learning_rate_is_that_of_the_batchs_step(tiny_source: ModelSource) -> None:
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4))
    schedule = LearningRateSchedule(name="linear", peak=1e-3, warmup_steps=10, total_steps=100)
    optimizer = one_group(model.parameters, schedule=schedule)
    metrics = train_step(model, make_batch(55), optimizer=optimizer, max_grad_norm=1.0)
    assert metrics.learning_rate == schedule.at(55) == optimizer.torch_optimizer.param_groups[0]["lr"]
    assert metrics.more == {}


def test_each_group_has_its_own_rate_and_the_metrics_name_it(tiny_source: ModelSource) -> None:
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4))
    names = sorted(model.parameters)
    rates = {"unet": 1e-3, "text_encoder": 5e-6}
    groups = tuple(
        ParameterGroup(name=group, parameters=part, schedule=constant(rates[group]), weight_decay=0.0)
        for group, part in {
            "unet": {name: model.parameters[name] for name in names[:20]},
            "text_encoder": {name: model.parameters[name] for name in names[20:]},
        }.items()
    )
    optimizer = Optimizer(groups, OptimizationOptions())
    before = {name: parameter.detach().clone() for name, parameter in model.parameters.items()}
    metrics = train_step(model, make_batch(3), optimizer=optimizer, max_grad_norm=1.0)
    assert (metrics.learning_rate, metrics.more) == (1e-3, {"lr_text_encoder": 5e-6})
    for group in groups:  # Adam's first update is the rate, whatever the gradient
        moved = [(parameter - before[name]).abs().max().item() for name, parameter in group.parameters.items()]
        assert max(moved) == pytest.approx(rates[group.name], rel=0.01)


def test_before_its_update_a_step_has_done_its_passes_and_changed_nothing(tiny_source: ModelSource) -> None:
    """What a save copies meanwhile: the adapter and the optimizer's state, which only the update may change."""
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4))
    optimizer = one_group(model.parameters)

    def state() -> list[torch.Tensor]:
        return [tensor.detach().clone() for tensor in [*model.parameters.values(), *optimizer.tensors().values()]]

    seen: list[list[torch.Tensor]] = []

    def before_update() -> None:
        assert all(parameter.grad is not None for parameter in model.parameters.values())
        seen.append(state())

    before = state()
    batch = make_batch(0, micro_batches=2)
    train_step(model, batch, optimizer=optimizer, max_grad_norm=1.0, before_update=before_update)
    assert len(seen) == 1
    assert all(map(torch.equal, seen[0], before))
    assert not all(map(torch.equal, state(), before))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["gpu", "cpu"],
)
def test_an_update_without_memory_is_refused_for_smaller_micro_batches_would_not_help(
    error: RuntimeError, tiny_source: ModelSource
) -> None:
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4))
    optimizer = one_group(model.parameters)

    def no_memory() -> None:
        raise error

    optimizer.torch_optimizer.step = no_memory  # type: ignore[method-assign, assignment]
    with pytest.raises(RefusedToGoOn, match="Step 3: out of memory in the optimizer's update"):
        train_step(model, make_batch(2), optimizer=optimizer, max_grad_norm=1.0)


def test_prompt_index_names_the_row_of_the_table(tiny_source: ModelSource) -> None:
    model = build_model(tiny_source, LoraSpec(rank=4, alpha=4))
    batch = replace(make_micro_batch(11, 2), prompt_index=torch.tensor([1, 0]))
    swapped = PromptTable(
        prompt_embeds_NSD=model.prompts.prompt_embeds_NSD.flip(0),
        pooled_prompt_embeds_NP=model.prompts.pooled_prompt_embeds_NP.flip(0),
    )
    loss = micro_batch_loss(model, batch)
    other = micro_batch_loss(replace(model, prompts=swapped), replace(batch, prompt_index=torch.tensor([0, 1])))
    assert torch.equal(loss, other)
    assert not torch.equal(loss, micro_batch_loss(model, replace(batch, prompt_index=torch.tensor([0, 1]))))


def test_time_ids_of_the_loader_are_those_of_diffusers_pipeline(tiny_source: ModelSource) -> None:
    """Original size, crop and target size, height first in each: as the UNet is told when it draws pictures."""
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_source.folder)
    theirs = pipe._get_add_time_ids((160, 192), (3, 5), (64, 64), torch.float32, text_encoder_projection_dim=32)
    picture = Picture(
        name="a.png", path=Path("a.png"), sha256="0" * 64, size_bytes=1, width=192, height=160, prompt=PROMPTS[0]
    )
    crop = Crop(resized_height=80, resized_width=96, top=3, left=5, flip=True, target=Bucket(height=64, width=64))
    assert np.array_equal(time_ids(picture, crop), theirs[0].numpy())


def test_pixels_without_an_encoder_are_an_error(tiny_source: ModelSource) -> None:
    model = replace(build_model(tiny_source, LoraSpec(rank=4, alpha=4)), encode_pixels=None)
    with pytest.raises(ValueError, match="encoder"):
        micro_batch_loss(model, make_micro_batch(12, 1, pixels=True))
