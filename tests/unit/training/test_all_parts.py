"""Both text encoders trained beside the denoiser, and DoRA: the losses and weights of Diffusers' and peft's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dreambooth_resume.config.contradictions import remarks
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.batch import Batch, MicroBatch
from dreambooth_resume.data.dataset import scan_pictures
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.models.digests import digest_files
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import part_of
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.training.build import Assignment, Parts, build_parts, make_accelerator
from dreambooth_resume.training.progress import StepUpdate
from dreambooth_resume.workflows.adapter import adapter_of
from tests.fakes.memory_storage import MemoryStorage

PROMPT = "a photo of sks robot"
STEPS = 5


class Quiet:
    """A reporter that keeps phases."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def message(self, text: str) -> None: ...

    def phase(self, name: str, done: int, total: int) -> None:
        self.phases.append(name)

    def step(self, update: StepUpdate) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for extra in draw_pictures(folder)[2:]:
        extra.unlink()
    return folder


def build(
    source: ModelSource,
    pictures: Path,
    *words: str,
    reporter: Quiet | None = None,
    storage: MemoryStorage | None = None,
) -> tuple[TrainOptions, Parts]:
    typed = f"--pretrained_model_name_or_path {source.folder} --instance_data_dir {pictures} --resolution 32"
    given = parse_train(
        [*typed.split(), "--instance_prompt", PROMPT, "--center_crop", "--train_batch_size", "2", *words]
    )
    options = resolve(given, recorded=None)
    family = family_named("sdxl")
    chosen = Assignment(
        options=options,
        seed=3,
        max_train_steps=STEPS,
        plan=Plan(seed=3, picture_count=2, batch_size=2 * options.training.gradient_accumulation_steps),
        pictures=scan_pictures(pictures, prompt=PROMPT),
        source=source,
        family=family,
        facts=family.check(source),
        digests=digest_files(source.files, cache_file=None),
        lora=adapter_of(options, family, source),
    )
    accelerator = make_accelerator(options)
    parts = build_parts(
        chosen,
        storage or MemoryStorage(),
        accelerator=accelerator,
        reporter=reporter or Quiet(),
        watcher=Watcher([]),
    )
    return options, parts


class Script:
    """The models of Diffusers' train_dreambooth_lora_sdxl.py with their adapters, and its main loop."""

    def __init__(self, source: ModelSource, options: TrainOptions) -> None:
        folder = source.folder
        self.unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
        self.text_encoders = [
            CLIPTextModel.from_pretrained(folder, subfolder="text_encoder"),
            CLIPTextModelWithProjection.from_pretrained(folder, subfolder="text_encoder_2"),
        ]
        self.tokenizers = [
            CLIPTokenizer.from_pretrained(folder, subfolder=name) for name in ("tokenizer", "tokenizer_2")
        ]
        self.noise_scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.options = options

        def config(*target_modules: str) -> LoraConfig:
            return LoraConfig(
                r=options.lora.rank,
                lora_alpha=options.lora.alpha,  # type: ignore[arg-type]  (the script: the rank; peft takes any number)
                init_lora_weights="gaussian",
                target_modules=list(target_modules),
                use_dora=options.lora.use_dora,
            )

        for model in (self.unet, *self.text_encoders):
            model.requires_grad_(False)
        self.unet.add_adapter(config("to_k", "to_q", "to_v", "to_out.0"))
        self.unet.train()
        if options.lora.train_text_encoder:
            for text_encoder in self.text_encoders:
                text_encoder.add_adapter(config("q_proj", "k_proj", "v_proj", "out_proj"))
                text_encoder.train()

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What trains, by our names."""
        found = {}
        for part, model in zip(("", "text_encoder.", "text_encoder_2."), (self.unet, *self.text_encoders), strict=True):
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    plain = name.replace(".default.", ".").replace(
                        "lora_magnitude_vector.weight", "lora_magnitude_vector"
                    )
                    inner = "text_model." if part and not plain.startswith("text_model.") else ""
                    found[f"{part}{inner}{plain}"] = parameter
        return found

    def train(self, batches: list[Batch]) -> list[float]:
        chosen = self.options.optimization
        groups: dict[str | None, list[torch.nn.Parameter]] = {}
        for name, parameter in sorted(self.parameters().items(), key=lambda item: part_of(item[0]) or ""):
            groups.setdefault(part_of(name), []).append(parameter)
        unet, *text = groups.values()
        decay = chosen.adam_weight_decay_text_encoder
        optimizer = torch.optim.AdamW(
            [
                {"params": unet, "lr": chosen.learning_rate},
                *({"params": one, "weight_decay": decay, "lr": chosen.text_encoder_lr} for one in text),
            ],
            betas=(0.9, 0.999),
            weight_decay=chosen.adam_weight_decay,
            eps=1e-8,
        )
        lr_scheduler = get_scheduler(
            chosen.lr_scheduler,
            optimizer=optimizer,
            num_warmup_steps=chosen.lr_warmup_steps,
            num_training_steps=STEPS,
        )
        losses = []
        for batch in batches:
            shares = [self.loss(part) / len(batch.micro_batches) for part in batch.micro_batches]
            torch.stack(shares).sum().backward()
            torch.nn.utils.clip_grad_norm_([one for group in groups.values() for one in group], chosen.max_grad_norm)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            losses.append(sum(share.item() for share in shares))
        return losses

    def loss(self, part: MicroBatch) -> torch.Tensor:
        assert part.mean is not None
        assert part.logvar is not None
        latents = (part.mean + torch.exp(0.5 * part.logvar) * part.vae_noise) * 0.13025
        prompt_embeds, pooled = self.encode_prompt()
        size = len(part.timesteps)
        model_pred = self.unet(
            self.noise_scheduler.add_noise(latents, part.noise, part.timesteps),
            part.timesteps,
            prompt_embeds.repeat(size, 1, 1),
            added_cond_kwargs={"time_ids": part.time_ids, "text_embeds": pooled.repeat(size, 1)},
            return_dict=False,
        )[0]
        return torch.nn.functional.mse_loss(model_pred.float(), part.noise.float(), reduction="mean")

    def encode_prompt(self) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, pooled = [], None
        for tokenizer, text_encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            tokens = tokenizer(
                PROMPT, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
            ).input_ids
            output = text_encoder(tokens, output_hidden_states=True, return_dict=False)
            pooled = output[0]
            hidden.append(output[-1][-2])
        assert pooled is not None
        return torch.concat(hidden, dim=-1), pooled


RECIPES: dict[str, tuple[str, ...]] = {
    "text encoders": ("--train_text_encoder", "--text_encoder_lr", "5e-5"),
    "text encoders, warm-up, accumulation, decay, alpha": (
        *("--train_text_encoder", "--rank", "2", "--lora_alpha", "6", "--adam_weight_decay_text_encoder", "0.1"),
        *("--lr_scheduler", "cosine", "--lr_warmup_steps", "2", "--gradient_accumulation_steps", "2"),
    ),
    "dora": ("--use_dora", "--lora_alpha", "8"),
    "dora on the text encoders": ("--use_dora", "--train_text_encoder", "--text_encoder_lr", "1e-4"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_five_updates_equal_those_of_diffusers_script(tiny_source: ModelSource, pictures: Path, name: str) -> None:
    options, parts = build(tiny_source, pictures, *RECIPES[name])
    ours = parts.state.parameters
    script = Script(tiny_source, options)
    theirs = script.parameters()
    assert ours.keys() == theirs.keys()
    with torch.no_grad():
        for key, parameter in theirs.items():
            if key.endswith(".lora_magnitude_vector"):
                torch.testing.assert_close(parameter, ours[key], rtol=1e-6, atol=0)
            else:
                parameter.copy_(ours[key])
    start = {key: parameter.detach().clone() for key, parameter in ours.items()}
    batches = [parts.loader[step] for step in range(STEPS)]
    losses = [parts.train_step(batch).loss for batch in batches]
    assert losses == pytest.approx(script.train(batches), rel=1e-5)
    moved = dict.fromkeys({part_of(key) for key in ours}, 0.0)
    for key, parameter in ours.items():
        torch.testing.assert_close(parameter.detach(), theirs[key].detach(), rtol=0, atol=1e-5)
        change = (parameter.detach() - start[key]).abs().max().item()
        moved[part_of(key)] = max(moved[part_of(key)], change)
    assert all(change > 1e-6 for change in moved.values()), moved  # else the comparison above would say nothing


def test_each_part_trains_at_its_own_rate_and_the_metrics_say_which(tiny_source: ModelSource, pictures: Path) -> None:
    words = ("--train_text_encoder", "--learning_rate", "1e-3", "--text_encoder_lr", "2e-5", "--scale_lr")
    _, parts = build(tiny_source, pictures, *words)
    metrics = parts.train_step(parts.loader[0])
    assert metrics.learning_rate == pytest.approx(2e-3)  # scale_lr: times the batch, and not for the text encoders
    assert metrics.more == {"lr_text_encoder": 2e-5, "lr_text_encoder_2": 2e-5}


def test_prodigy_trains_all_parts_at_one_rate(tiny_source: ModelSource, pictures: Path) -> None:
    words = ("--train_text_encoder", "--optimizer", "prodigy", "--learning_rate", "1", "--text_encoder_lr", "2e-5")
    options, parts = build(tiny_source, pictures, *words)
    metrics = parts.train_step(parts.loader[0])
    assert {metrics.learning_rate, metrics.more["lr_text_encoder"], metrics.more["lr_text_encoder_2"]} == {1.0}
    remark = "text_encoder_lr has no effect: prodigy has one learning rate for all that is trained"
    assert remark in remarks(options, {"text_encoder_lr": "--text_encoder_lr"})


def test_no_prompt_is_encoded_ahead_and_none_is_cached(tiny_source: ModelSource, pictures: Path) -> None:
    storage, reporter = MemoryStorage(), Quiet()
    build(tiny_source, pictures, "--train_text_encoder", reporter=reporter, storage=storage)
    assert set(reporter.phases) == {"encoding pictures"}
    assert len(storage.list("cache/")) == 2


def test_pictures_read_their_prompt_with_the_encoders_as_they_are_trained(
    tiny_source: ModelSource, pictures: Path
) -> None:
    words = ("--train_text_encoder", "--text_encoder_lr", "1e-2", "--lora_dropout", "0.5")
    words = (*words, "--validation_prompt", "a red dog")
    losses = []
    for paints in (True, False):
        _, parts = build(tiny_source, pictures, *words)
        assert parts.easel is not None
        losses.append([parts.train_step(parts.loader[0]).loss])
        if paints:
            embeds, pooled = parts.easel.embed("a red dog")
            again, _ = parts.easel.embed("a red dog")
            assert (embeds.shape, pooled.shape, embeds.requires_grad) == ((77, 64), (32,), False)
            assert torch.equal(embeds, again)  # no dropout in a picture
        losses[-1].append(parts.train_step(parts.loader[1]).loss)
        assert not paints or not torch.equal(parts.easel.embed("a red dog")[0], embeds)
    assert losses[0] == losses[1]


def test_dropout_of_all_parts_depends_on_the_batchs_seed_alone(tiny_source: ModelSource, pictures: Path) -> None:
    words = ("--train_text_encoder", "--lora_dropout", "0.5", "--gradient_checkpointing")
    runs = []
    for _ in range(2):
        _, parts = build(tiny_source, pictures, *words)
        losses = []
        for step in range(3):
            losses.append(parts.train_step(parts.loader[step]).loss)
            torch.rand(len(runs) + 1)  # somebody else uses the global generator, and not always alike
        runs.append((losses, {key: parameter.detach() for key, parameter in parts.state.parameters.items()}))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][key]) for key, value in runs[0][1].items())


def test_bf16_keeps_every_part_of_the_adapter_in_float32(tiny_source: ModelSource, pictures: Path) -> None:
    words = ("--train_text_encoder", "--use_dora", "--mixed_precision", "bf16")
    _, parts = build(tiny_source, pictures, *words)
    start = {key: parameter.detach().clone() for key, parameter in parts.state.parameters.items()}
    assert torch.isfinite(torch.tensor(parts.train_step(parts.loader[0]).loss))
    assert {tensor.dtype for tensor in parts.state.tensors().values()} == {torch.float32}
    moved = {part_of(key) for key, one in parts.state.parameters.items() if not torch.equal(one, start[key])}
    assert moved == {None, "text_encoder", "text_encoder_2"}
