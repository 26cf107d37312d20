"""Timesteps and noise as the loss section asks for them: their frequencies, their golden values, their independence."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from dreambooth_resume.config.options.loss import LossOptions
from dreambooth_resume.data.batch import BatchBuilder, LatentSize
from dreambooth_resume.data.dataset import Picture, PictureSet
from dreambooth_resume.data.draws import Draws, Timesteps, draws_of
from dreambooth_resume.data.plan import Plan, Slot
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.samples import Sample

SHAPE = (4, 2, 2)
LATENTS = LatentSize(channels=4, pixels_per_latent=8, resolution=16)
COUNT = 200_000


class Evenly:
    """A generator whose uniform numbers are those of a fine grid, one after the other."""

    def __init__(self) -> None:
        self._next = 0

    def random(self) -> float:
        self._next += 1
        return (self._next - 0.5) / COUNT


def frequencies(timesteps: Timesteps, train_timesteps: int = 1000) -> np.ndarray[Any, Any]:
    rng = cast("np.random.Generator", Evenly())
    found = np.bincount([timesteps.draw(rng) for _ in range(COUNT)], minlength=train_timesteps)
    return found / COUNT


def weights_of_the_script(options: LossOptions, num_timesteps: int = 1000) -> torch.Tensor:
    """`generate_timestep_weights` of Diffusers' SDXL text-to-image script."""
    weights = torch.ones(num_timesteps)
    to_bias = int(options.timestep_bias_portion * num_timesteps)
    which = {
        "later": slice(-to_bias, None),
        "earlier": slice(0, to_bias),
        "range": slice(options.timestep_bias_begin, options.timestep_bias_end),
    }[options.timestep_bias_strategy]
    weights[which] *= options.timestep_bias_multiplier
    return weights


@pytest.mark.parametrize(
    "chosen",
    [
        {"timestep_bias_strategy": "earlier", "timestep_bias_multiplier": 3.0},
        {"timestep_bias_strategy": "later", "timestep_bias_multiplier": 0.25, "timestep_bias_portion": 0.4},
        {
            "timestep_bias_strategy": "range",
            "timestep_bias_multiplier": 2.5,
            "timestep_bias_begin": 100,
            "timestep_bias_end": 700,
            "min_timestep": 50,
            "max_timestep": 600,
        },
    ],
)
def test_biased_timesteps_come_as_often_as_the_scripts_weights_say(chosen: dict[str, Any]) -> None:
    options = LossOptions(**chosen)
    weights = weights_of_the_script(options)
    weights[: options.min_timestep] = 0
    weights[options.max_timestep or 1000 :] = 0
    found = frequencies(draws_of(options, train_timesteps=1000).timesteps)
    expected = (weights / weights.sum()).numpy()
    assert np.abs(found - expected).max() < 2e-5
    assert np.abs(found - expected).sum() < 5e-3


@pytest.mark.parametrize("scale", [1.29, -0.5])
def test_the_scheme_mode_is_diffusers_formula(scale: float) -> None:
    # The inner numbers of `compute_density_for_timestep_sampling`, which draws by torch.
    uniform = (torch.arange(COUNT, dtype=torch.float64) + 0.5) / COUNT
    density = 1 - uniform - scale * (torch.cos(torch.pi * uniform / 2) ** 2 - 1 + uniform)
    expected = torch.bincount((100 + density * 800).long(), minlength=1000).double() / COUNT
    found = frequencies(Timesteps(begin=100, end=900, scheme="mode", mode_scale=scale))
    assert np.abs(found - expected.numpy()).max() < 2e-5
    assert (found[500] > found[120]) == (scale > 0)


def test_logit_normal_is_the_sigmoid_of_a_normal_number_and_its_mean_makes_noisier() -> None:
    timesteps = Timesteps(begin=200, end=1000, scheme="logit_normal", logit_mean=0.5, logit_std=0.7)
    for step in range(50):
        normal = generator(3, Stream.TIMESTEP, step=step).standard_normal()
        part = torch.sigmoid(torch.tensor(0.5 + 0.7 * normal, dtype=torch.float64))
        assert timesteps.draw(generator(3, Stream.TIMESTEP, step=step)) == int(200 + 800 * part)
    drawn = [timesteps.draw(generator(3, Stream.TIMESTEP, step=step)) for step in range(400)]
    assert np.mean(drawn) > 200 + 800 * 0.55


def test_golden_timesteps_of_every_way_to_draw_them() -> None:
    def drawn(**chosen: Any) -> list[int]:
        timesteps = draws_of(LossOptions(**chosen), train_timesteps=1000).timesteps
        return [int(timesteps.draw(generator(0, Stream.TIMESTEP, step=step))) for step in range(5)]

    assert drawn() == [120, 547, 55, 975, 608]  # those of every run without an option
    assert drawn(min_timestep=100, max_timestep=300) == GOLDEN["range"]
    assert drawn(weighting_scheme="logit_normal") == GOLDEN["logit_normal"]
    assert drawn(weighting_scheme="mode") == GOLDEN["mode"]
    assert drawn(timestep_bias_strategy="later", timestep_bias_multiplier=9.0) == GOLDEN["later"]


GOLDEN: dict[str, list[int]] = {
    "range": [124, 209, 111, 295, 221],
    "logit_normal": [208, 291, 466, 668, 506],
    "mode": [506, 342, 737, 516, 760],
    "later": [825, 930, 427, 813, 379],
}


def batch_with(draws: Draws, *, class_count: int = 0) -> Any:
    plan = Plan(seed=11, picture_count=1, batch_size=2, class_count=class_count)
    picture = Picture(name="0.png", path=None, sha256="", size_bytes=0, width=8, height=8, prompt="a")  # type: ignore[arg-type]

    def source(slot: Slot) -> Sample:
        return Sample(
            time_ids=np.zeros(6, np.float32), mean=np.zeros(SHAPE, np.float32), logvar=np.zeros(SHAPE, np.float32)
        )

    builder = BatchBuilder(
        plan, PictureSet(pictures=(picture,) * 2), source, micro_batch_size=2, latents=LATENTS, draws=draws
    )
    return builder(5).micro_batches[0]


@pytest.mark.parametrize("class_count", [0, 1])
def test_offset_and_perturbation_are_draws_of_their_own_beside_the_same_noise(class_count: int) -> None:
    plain = batch_with(Draws(timesteps=Timesteps(end=1000)), class_count=class_count)
    changed = batch_with(
        Draws(timesteps=Timesteps(end=1000), noise_offset=0.1, input_perturbation=0.25), class_count=class_count
    )
    assert plain.input_noise is None
    for row in range(2 + 2 * bool(class_count)):
        slot, is_class = row % 2, row // 2

        def normal(draw: int, shape: tuple[int, ...], slot: int = slot, is_class: int = is_class) -> torch.Tensor:
            rng = generator(11, Stream.NOISE, step=5, slot=slot, draw=draw + is_class)
            return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

        assert torch.equal(plain.noise[row], normal(0, SHAPE))
        noise = normal(0, SHAPE) + 0.1 * normal(2, (4, 1, 1))
        assert torch.equal(changed.noise[row], noise)
        assert torch.equal(changed.input_noise[row], noise + 0.25 * normal(4, SHAPE))
    assert torch.equal(plain.timesteps, changed.timesteps)
    assert torch.equal(plain.vae_noise, changed.vae_noise)


def test_golden_offset_and_perturbation() -> None:
    changed = batch_with(Draws(timesteps=Timesteps(end=1000), noise_offset=0.1, input_perturbation=0.25))
    assert [float(number).hex() for number in changed.noise.ravel()[:2]] == GOLDEN_NOISE
    assert [float(number).hex() for number in changed.input_noise.ravel()[:2]] == GOLDEN_INPUT


GOLDEN_NOISE = ["0x1.3c5fe20000000p+0", "-0x1.115b680000000p-3"]
GOLDEN_INPUT = ["0x1.8991900000000p-1", "-0x1.0afd7a0000000p-3"]
