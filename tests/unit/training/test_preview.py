"""Pictures while training: when, the same again, and that nothing about them reaches the training."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth_resume.config.options.validation import ValidationOptions
from dreambooth_resume.config.shots import Shot
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.errors import StorageUnavailable
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.sdxl.family import SdxlFamily
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.runs.home import is_sample
from dreambooth_resume.runs.samples import read_samples
from dreambooth_resume.training.preview import Easel, Embeddings, Preview, Timetable, undisturbed
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_trainer import Told

PROMPT = "a photo of sks robot"
OPTIONS = ValidationOptions(validation_prompt=PROMPT, num_validation_images=2, validation_epochs=1)


def timetable(steps: int = 12, **options: Any) -> Timetable:
    plan = Plan(seed=1, picture_count=3, batch_size=2)
    return Timetable(
        options=ValidationOptions(**{"validation_prompt": PROMPT, **options}), plan=plan, max_train_steps=steps
    )


def due_steps(table: Timetable, up_to: int = 12) -> list[int]:
    return [step for step in range(up_to + 1) if table.due(step)]


def test_pictures_are_due_where_an_epoch_ends_and_the_first_is_one_of_them() -> None:
    # Three pictures, two a step: epochs end in steps 2, 3, 5, 6, 8, 9, 11, 12; at the last step the result has its own.
    assert due_steps(timetable(validation_epochs=1)) == [2, 3, 5, 6, 8, 9, 11]
    assert due_steps(timetable(validation_epochs=3)) == [2, 6, 11]
    assert due_steps(timetable()) == [2]


def test_steps_in_place_of_epochs_and_when_there_are_none() -> None:
    assert due_steps(timetable(validation_steps=4)) == [4, 8]
    assert due_steps(timetable(validation_prompt=None)) == []
    assert due_steps(timetable(num_validation_images=0, validation_epochs=1)) == []


def test_several_epochs_may_end_in_one_step() -> None:
    plan = Plan(seed=1, picture_count=2, batch_size=5)
    table = Timetable(options=replace_options(validation_epochs=5), plan=plan, max_train_steps=10)
    # Steps 1, 2, 3, 4 … end epochs 0-1, 2-4, 5-6, 7-9 …
    assert due_steps(table, 8) == [1, 3, 5, 7]


def replace_options(**changed: Any) -> ValidationOptions:
    return ValidationOptions(**{**OPTIONS.model_dump(), **changed})


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({}, PROMPT),
        ({"final_validation_prompt": "other"}, PROMPT),
        ({"validation_prompt": None, "final_validation_prompt": "other"}, "other"),
        ({"skip_final_inference": True}, None),
        ({"num_validation_images": 0}, None),
        ({"validation_prompt": None}, None),
    ],
)
def test_the_results_pictures_have_the_prompt_that_was_asked_for(options: dict[str, Any], prompt: str | None) -> None:
    assert timetable(**options).final_prompt == prompt


@pytest.fixture(scope="module")
def easel(tiny_source: ModelSource) -> Easel:
    family, cpu = SdxlFamily(), torch.device("cpu")
    denoiser = family.load_denoiser(tiny_source, device=cpu, weight_dtype=torch.float32, gradient_checkpointing=True)
    draws = np.random.default_rng(3)
    parameters = add_lora(
        denoiser,
        LoraSpec(rank=4, alpha=4, dropout=0.5),
        normal_draw=lambda _number, shape: draws.standard_normal(shape, dtype=np.float32),
    )
    encoders = family.encoders(tiny_source, device=cpu)

    def embed(prompt: str) -> Embeddings:
        one, two = encoders.encode_prompt(prompt)
        return torch.from_numpy(one), torch.from_numpy(two)

    return Easel(
        denoiser=denoiser,
        sampler=family.sampler(tiny_source, device=cpu),
        encoders=encoders,
        embed=embed,
        adapter=lambda: parameters,
        result_in_place=nullcontext,
        autocast=lambda: torch.autocast("cpu", enabled=False),
        noise_shape=(4, 4, 4),
        height=32,
        width=32,
    )


def preview(
    easel: Easel, home: MemoryStorage, *, attempt: int = 1, should_stop: Callable[[], bool] = lambda: False
) -> tuple[Preview, Told]:
    listener = Told()
    made = Preview(
        easel,
        timetable(num_validation_images=2, validation_epochs=1),
        seed=7,
        storage=home,
        attempt=attempt,
        should_stop=should_stop,
        reporter=listener,
    )
    return made, listener


def pictures_of(home: MemoryStorage) -> dict[str, str]:
    return {
        found.key: hashlib.sha256(home.read(found.key)).hexdigest()
        for found in home.list("samples/")
        if found.key.endswith(".png")
    }


def test_a_set_is_a_pure_function_of_seed_prompt_and_adapter(easel: Easel) -> None:
    homes = [MemoryStorage(), MemoryStorage()]
    for home, disturbance in zip(homes, (1, 99), strict=True):
        torch.manual_seed(disturbance)
        preview(easel, home)[0].make(2)
    first, second = (pictures_of(home) for home in homes)
    assert first == second
    assert sorted(first) == ["samples/2-a1/0.png", "samples/2-a1/1.png"]
    assert len(set(first.values())) == 2, "each has its own noise"
    (made,) = read_samples(homes[0])
    assert (made.step, made.attempt, made.prompt, made.seed, made.is_final) == (2, 1, PROMPT, 7, False)


def test_it_is_shown_to_the_trackers_with_its_phase(easel: Easel) -> None:
    one, _ = preview(easel, MemoryStorage())
    shown: list[tuple[int, str, str, int]] = []
    one.show = lambda step, phase, prompt, pictures: shown.append((step, phase, prompt, len(pictures)))
    one.make(2)
    one.make_final(12)
    assert shown == [(2, "validation", PROMPT, 2), (12, "test", PROMPT, 2)]


def test_a_step_that_has_its_pictures_gets_no_second_ones_unless_the_adapter_is_another(easel: Easel) -> None:
    home = MemoryStorage()
    preview(easel, home)[0].make(2)
    preview(easel, home, attempt=2)[0].make(2)
    assert [made.attempt for made in read_samples(home)] == [1]
    gone_back = {name: tensor + 1 for name, tensor in easel.adapter().items()}
    preview(replace(easel, adapter=lambda: gone_back), home, attempt=3)[0].make(2)
    assert [made.attempt for made in read_samples(home, step=2)] == [1, 3]
    assert read_samples(home, step=20) == ()


def test_a_file_of_prompts_makes_a_picture_each_beside_the_one_prompt(easel: Easel) -> None:
    home = MemoryStorage()
    shots = (
        Shot(prompt="a small toy", negative_prompt="blue", width=64, height=72, seed=9, num_inference_steps=2),
        Shot(prompt="a red dog"),
    )
    one, _ = preview(easel, home)
    both = Preview(
        easel,
        replace(timetable(num_validation_images=1, validation_steps=3), shots=shots),
        seed=7,
        storage=home,
        attempt=1,
        should_stop=lambda: False,
        reporter=Told(),
    )
    shown: list[tuple[str, str, int]] = []
    both.show = lambda step, phase, prompt, pictures: shown.append((phase, prompt, len(pictures)))
    both.make(3)
    (made,) = read_samples(home)
    assert made.prompts == (PROMPT, "a small toy", "a red dog")
    assert [(one["seed"], one["number"], one["height"]) for one in made.facts] == [(7, 0, 32), (9, 0, 72), (7, 1, 32)]
    with Image.open(io.BytesIO(home.read("samples/3-a1/1.png"))) as picture:
        assert picture.size == (64, 72)
    assert shown == [("validation", PROMPT, 1), ("validation_2", "a small toy", 1), ("validation_3", "a red dog", 1)]
    both.make(3)
    assert len(read_samples(home)) == 1
    one.make(2)
    assert home.read("samples/2-a1/0.png") == home.read("samples/3-a1/0.png"), "beside a file it is the same picture"


def test_a_file_of_prompts_alone_is_due_and_ends_with_the_result() -> None:
    alone = replace(timetable(validation_prompt=None, validation_steps=4), shots=(Shot(prompt="a red dog"),))
    assert due_steps(alone) == [4, 8]
    assert alone.due_at_the_end
    assert not replace(alone, options=replace_options(skip_final_inference=True)).due_at_the_end


def test_pictures_that_are_asked_for_have_a_place_of_their_own(easel: Easel) -> None:
    home = MemoryStorage()
    one, _ = preview(easel, home)
    one.make(2)
    one.make_asked(2, prompt=None, request="0123abcd")
    one.make_asked(2, prompt="a red dog", request="4567abcd")
    due, again, other = read_samples(home)
    assert (due.asked, again.asked, other.asked) == (None, "0123abcd", "4567abcd")
    assert again.pictures[0] == "samples/2-a1-0123abcd/0.png"
    assert home.read(again.pictures[0]) == home.read(due.pictures[0])
    assert other.prompts == ("a red dog",)
    assert all(is_sample(key) for made in (due, again, other) for key in made.pictures)


def test_torchs_generators_modes_and_gradients_are_as_before(easel: Easel) -> None:
    module = easel.denoiser.module
    next(iter(module.children())).eval()  # one that isn't in the same mode as the others
    modes = [one.training for one in module.modules()]
    before = torch.get_rng_state()
    with undisturbed(module):
        assert not any(one.training for one in module.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
    preview(easel, MemoryStorage())[0].make(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert [one.training for one in module.modules()] == modes
    assert all(parameter.grad is None for parameter in module.parameters())
    module.train()


def test_modes_are_as_before_after_an_error_too(easel: Easel) -> None:
    def broken(prompt: str) -> Embeddings:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    one, listener = preview(replace(easel, embed=broken), MemoryStorage())
    for step in (2, 3, 5):
        one.make(step)
    one.make_final(12)
    assert easel.denoiser.module.training
    assert len(listener.messages) == 1, "said once"
    assert "step 2 are left out (out of memory)" in listener.messages[0]


def test_storage_trouble_leaves_the_pictures_out_and_raises_nothing(easel: Easel) -> None:
    home = MemoryStorage()

    def down(call: str, key: str) -> None:
        if call == "write":
            raise StorageUnavailable("503")

    home.before = down
    one, listener = preview(easel, home)
    one.make(2)
    home.before = None
    assert read_samples(home) == ()
    assert "503" in listener.messages[0]
    one.make(3)
    assert [made.step for made in read_samples(home)] == [3], "and tried again at the next"


def test_a_notice_between_two_denoising_steps_ends_it(easel: Easel) -> None:
    asked = iter([False] * 60 + [True] * 1000)
    home = MemoryStorage()
    one, listener = preview(easel, home, should_stop=lambda: next(asked))
    one.make(2)
    assert read_samples(home) == ()
    assert "left out: somebody asks for the machine" in listener.messages[0]
