"""Class pictures are those that Diffusers' pipeline makes of the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.data.class_images import ClassPictures, starting_noise
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.models.digests import digest_files
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.training.build import Assignment
from dreambooth_resume.training.class_pictures import class_pictures
from dreambooth_resume.workflows.adapter import adapter_of
from tests.fakes.memory_storage import MemoryStorage

CPU = torch.device("cpu")
PROMPT = "a photo of a robot"


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Quiet:
    def __init__(self) -> None:
        self.phases: list[tuple[str, int, int]] = []

    def message(self, text: str) -> None: ...

    def phase(self, name: str, done: int, total: int) -> None:
        self.phases.append((name, done, total))

    def step(self, update: Any) -> None: ...

    def close(self) -> None: ...


def assignment(source: ModelSource, stage: Path, *words: str, with_prior: bool = True) -> Assignment:
    family = family_named(source.family)
    typed = [
        "--pretrained_model_name_or_path",
        str(source.folder),
        "--instance_data_dir",
        "x",
        "--instance_prompt",
        "y",
    ]
    prior = ["--with_prior_preservation", "--class_prompt", PROMPT, "--num_class_images", "2"] if with_prior else []
    ridden = ClassPictures(prompt=PROMPT, count=2, found=(), stage=stage)
    options = resolve(parse_train([*typed, *prior, *words]), recorded=None)
    return Assignment(
        options=options,
        seed=3,
        max_train_steps=4,
        plan=Plan(seed=3, picture_count=1, batch_size=1, class_count=2 if with_prior else 0),
        pictures=PictureSet(pictures=()),
        source=source,
        family=family,
        facts=family.check(source),
        digests=digest_files(source.files, cache_file=None),
        lora=adapter_of(options, family, source),
        class_pictures=ridden if with_prior else None,
    )


def made(chosen: Assignment, storage: MemoryStorage, reporter: Quiet) -> list[np.ndarray]:
    encoders = chosen.family.encoders(chosen.source, device=CPU)
    pictures = class_pictures(chosen, storage, encoders, device=CPU, reporter=reporter, watcher=Watcher([]))
    assert {picture.prompt for picture in pictures} == {PROMPT}
    return [np.asarray(Image.open(picture.path)) for picture in pictures]


def test_they_are_those_of_diffusers_pipeline_with_its_defaults(tiny_source: ModelSource, tmp_path: Path) -> None:
    reporter = Quiet()
    ours = made(assignment(tiny_source, tmp_path), MemoryStorage(), reporter)
    assert reporter.phases == [("making class pictures", 0, 2), ("making class pictures", 2, 2)]
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline

        pipeline: Any = StableDiffusionXLPipeline.from_pretrained(tiny_source.folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.from_numpy(np.stack([starting_noise(3, number, (4, 16, 16)) for number in range(2)]))
    with torch.no_grad():
        theirs = pipeline([PROMPT] * 2, latents=noise).images
    for picture, expected in zip(ours, theirs, strict=True):
        # The pipeline decodes the whole batch at once, which gives other last bits.
        np.testing.assert_allclose(picture.astype(int), np.asarray(expected).astype(int), rtol=0, atol=1)
        assert (picture == np.asarray(expected)).mean() > 0.999


def test_the_precision_asked_for_is_the_denoisers(tiny_source: ModelSource, tmp_path: Path) -> None:
    whole, half = (
        made(assignment(tiny_source, tmp_path / name, "--prior_generation_precision", name), MemoryStorage(), Quiet())
        for name in ("fp32", "bf16")
    )
    default = made(assignment(tiny_source, tmp_path, "--prior_generation_precision", "no"), MemoryStorage(), Quiet())
    assert np.array_equal(whole, default)
    assert not np.array_equal(whole, half)
    assert np.abs(np.asarray(whole, np.int16) - np.asarray(half, np.int16)).mean() < 20


def test_without_prior_preservation_there_are_none(tiny_source: ModelSource, tmp_path: Path) -> None:
    storage = MemoryStorage()
    chosen = assignment(tiny_source, tmp_path, with_prior=False)
    encoders = chosen.family.encoders(chosen.source, device=CPU)
    assert class_pictures(chosen, storage, encoders, device=CPU, reporter=Quiet(), watcher=Watcher([])) == ()
    assert storage.objects == {}
