"""What an attempt loads, and that with a full cache it loads neither the VAE nor a text encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.data.dataset import scan_pictures
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.errors import BadInput, Interrupted
from dreambooth_resume.models.attention import use_xformers
from dreambooth_resume.models.base import Encoders
from dreambooth_resume.models.digests import digest_files
from dreambooth_resume.models.sdxl.family import SdxlFamily
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.runs.notice import Notice
from dreambooth_resume.training.build import Assignment, Parts, build_parts, make_accelerator
from dreambooth_resume.training.progress import StepUpdate
from dreambooth_resume.workflows.adapter import adapter_of
from tests.fakes.memory_storage import MemoryStorage


class Quiet:
    """A reporter that remembers phases."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def message(self, text: str) -> None: ...

    def phase(self, name: str, done: int, total: int) -> None:
        self.phases.append(f"{name} {done}/{total}")

    def step(self, update: StepUpdate) -> None: ...

    def close(self) -> None: ...


class CountingEncoders:
    """The real encoders, with what they were asked for."""

    def __init__(self, real: Encoders, asked: list[str]) -> None:
        self._real = real
        self._asked = asked

    def encode_prompt(
        self, prompt: str, *, clip_skip: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self._asked.append("prompt")
        return self._real.encode_prompt(prompt, clip_skip=clip_skip)

    def encode_pixels(self, pixels_CHW: torch.Tensor | NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        self._asked.append("pixels")
        return self._real.encode_pixels(pixels_CHW)

    def decode_latents(self, latents_CHW: torch.Tensor) -> NDArray[np.uint8]:
        self._asked.append("latents")
        return self._real.decode_latents(latents_CHW)

    def set_aside(self) -> None:
        self._real.set_aside()

    def free(self) -> None:
        self._real.free()


class CountingFamily(SdxlFamily):
    """SDXL, with encoders that say what they were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encoders(self, source: ModelSource, *, device: torch.device) -> CountingEncoders:  # type: ignore[override]
        return CountingEncoders(super().encoders(source, device=device), self.asked)


class Told:
    """A source whose notice is there from the start."""

    def notice(self) -> Notice | None:
        return Notice(source="SIGTERM", exit_code=75)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for extra in draw_pictures(folder)[2:]:
        extra.unlink()
    return folder


def assignment(source: ModelSource, pictures: Path, *words: str) -> tuple[Assignment, CountingFamily]:
    typed = f"--pretrained_model_name_or_path {source.folder} --instance_data_dir {pictures} --instance_prompt robot"
    options = resolve(
        parse_train([*typed.split(), "--resolution", "32", "--center_crop", "--train_batch_size", "1", *words]),
        recorded=None,
    )
    family = CountingFamily()
    found = scan_pictures(pictures, prompt="robot")
    chosen = Assignment(
        options=options,
        seed=3,
        max_train_steps=4,
        plan=Plan(seed=3, picture_count=2, batch_size=1),
        pictures=found,
        source=source,
        family=family,
        facts=family.check(source),
        digests=digest_files(source.files, cache_file=None),
        lora=adapter_of(options, family, source),
    )
    return chosen, family


def test_with_everything_cached_no_encoder_is_asked(tiny_source: ModelSource, pictures: Path) -> None:
    storage, reporter = MemoryStorage(), Quiet()
    first, family = assignment(tiny_source, pictures)
    accelerator = make_accelerator(first.options)
    parts = build_parts(first, storage, accelerator=accelerator, reporter=reporter, watcher=Watcher([]))
    assert sorted(family.asked) == ["pixels", "pixels", "prompt"]
    again, family = assignment(tiny_source, pictures)
    resumed = build_parts(again, storage, accelerator=accelerator, reporter=reporter, watcher=Watcher([]))
    assert family.asked == []
    assert resumed.train_step(resumed.loader[0]) == parts.train_step(parts.loader[0])


def test_what_accelerate_launch_leaves_in_the_environment_does_not_scale_the_loss(
    tiny_source: ModelSource, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    chosen, _ = assignment(tiny_source, pictures)
    assert make_accelerator(chosen.options).gradient_accumulation_steps == 1


def test_free_crops_encode_at_every_step(tiny_source: ModelSource, pictures: Path) -> None:
    chosen, family = assignment(tiny_source, pictures, "--no-cache_latents")
    parts = build_parts(
        chosen,
        MemoryStorage(),
        accelerator=make_accelerator(chosen.options),
        reporter=Quiet(),
        watcher=Watcher([]),
    )
    assert family.asked == ["prompt"]
    parts.train_step(parts.loader[0])
    assert family.asked == ["prompt", "pixels"]


def test_another_seed_begins_with_another_adapter(tiny_source: ModelSource, pictures: Path) -> None:
    storage = MemoryStorage()
    chosen, _ = assignment(tiny_source, pictures)
    accelerator = make_accelerator(chosen.options)

    def adapter(seed: int) -> torch.Tensor:
        parts = build_parts(
            replace(chosen, seed=seed), storage, accelerator=accelerator, reporter=Quiet(), watcher=Watcher([])
        )
        name = next(name for name in parts.state.parameters if ".lora_A." in name)
        return parts.state.parameters[name].detach()

    assert torch.equal(adapter(3), adapter(3))
    assert not torch.equal(adapter(3), adapter(4))


def test_told_to_leave_it_loads_nothing_more(tiny_source: ModelSource, pictures: Path) -> None:
    chosen, family = assignment(tiny_source, pictures)
    reporter = Quiet()
    with pytest.raises(Interrupted, match="SIGTERM while encoding: nothing was lost"):
        build_parts(
            chosen,
            MemoryStorage(),
            accelerator=make_accelerator(chosen.options),
            reporter=reporter,
            watcher=Watcher([Told()]),
        )
    assert family.asked == []


def parts_of(source: ModelSource, pictures: Path, *words: str) -> Parts:
    chosen, _ = assignment(source, pictures, *words)
    return build_parts(
        chosen,
        MemoryStorage(),
        accelerator=make_accelerator(chosen.options),
        reporter=Quiet(),
        watcher=Watcher([]),
    )


def test_adamw_is_built_from_the_options(tiny_source: ModelSource, pictures: Path) -> None:
    words = "--learning_rate 2e-4 --scale_lr --adam_beta1 0.8 --adam_beta2 0.95 --adam_weight_decay 0.5"
    parts = parts_of(tiny_source, pictures, *words.split(), "--adam_epsilon", "1e-5", "--gradient_accumulation_steps=3")
    (group,) = parts.state.optimizer.torch_optimizer.param_groups
    assert (group["betas"], group["weight_decay"], group["eps"]) == ((0.8, 0.95), 0.5, 1e-5)
    assert parts.state.optimizer.rates(0) == {"unet": pytest.approx(6e-4)}


def test_prodigy_is_built_from_the_options(tiny_source: ModelSource, pictures: Path) -> None:
    words = "--optimizer prodigy --learning_rate 1 --prodigy_beta3 0.9 --no-prodigy_decouple --adam_weight_decay 0.5"
    parts = parts_of(tiny_source, pictures, *words.split(), "--prodigy_safeguard_warmup=false")
    (group,) = parts.state.optimizer.torch_optimizer.param_groups
    assert (group["beta3"], group["decouple"], group["safeguard_warmup"]) == (0.9, False, False)
    assert (group["use_bias_correction"], group["weight_decay"], group["betas"]) == (True, 0.5, (0.9, 0.999))
    metrics = parts.train_step(parts.loader[0])
    assert (metrics.learning_rate, metrics.more) == (1.0, {"prodigy_d": group["d"]})


def test_loss_is_that_of_the_options(tiny_source: ModelSource, pictures: Path) -> None:
    storage, losses = MemoryStorage(), []
    for words in ((), ("--snr_gamma", "0.1"), ("--do_edm_style_training",)):
        chosen, _ = assignment(tiny_source, pictures, *words)
        accelerator = make_accelerator(chosen.options)
        parts = build_parts(chosen, storage, accelerator=accelerator, reporter=Quiet(), watcher=Watcher([]))
        losses.append(parts.train_step(parts.loader[0]).loss)
    plain, min_snr, edm_style = losses
    assert min_snr < plain
    assert edm_style not in (plain, min_snr)


def test_xformers_is_refused_where_there_is_no_gpu(tiny_source: ModelSource, pictures: Path) -> None:
    chosen, _ = assignment(tiny_source, pictures, "--enable_xformers_memory_efficient_attention")
    with pytest.raises(BadInput, match="needs an NVIDIA GPU, and this machine trains on cpu"):
        make_accelerator(chosen.options)


def test_xformers_is_asked_of_the_denoiser(tiny_source: ModelSource, pictures: Path) -> None:
    """As far as it goes without a GPU: Diffusers looks for the package, then for the GPU."""
    chosen, family = assignment(tiny_source, pictures)
    denoiser = family.load_denoiser(
        chosen.source, device=torch.device("cpu"), weight_dtype=torch.float32, gradient_checkpointing=False
    )
    with pytest.raises((ModuleNotFoundError, ValueError), match=r"xformers|GPU"):
        use_xformers(denoiser)
