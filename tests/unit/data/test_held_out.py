"""What a validation loss is measured on: fixed noise levels, documented draws, nothing that training draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dreambooth_resume.data.dataset import Picture, PictureSet, scan_held_out
from dreambooth_resume.data.held_out import HeldOut
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.samples import Sample
from dreambooth_resume.errors import BadInput

from .conftest import DrawPicture

SHAPE = (4, 2, 3)


def held_out() -> HeldOut:
    prompts = ("b", "a")
    pictures = tuple(
        Picture(name=f"{prompt}.png", path=Path(), sha256="", size_bytes=0, width=8, height=8, prompt=prompt)
        for prompt in prompts
    )
    samples = [
        Sample(
            time_ids=np.full(6, number, np.float32),
            mean=np.full(SHAPE, number, np.float32),
            logvar=np.zeros(SHAPE, np.float32),
        )
        for number in range(2)
    ]
    return HeldOut(PictureSet(pictures=pictures), samples, seed=11, train_timesteps=1000)


def test_each_picture_is_looked_at_at_the_middles_of_four_parts_of_the_noise_levels() -> None:
    found = held_out()
    batches = [found[number] for number in range(len(found))]
    assert [batch.timesteps.tolist() for batch in batches] == [[125], [375], [625], [875]] * 2
    assert [batch.prompt_index.item() for batch in batches] == [1] * 4 + [0] * 4
    for number, batch in enumerate(batches):
        picture, level = divmod(number, 4)
        rng = generator(11, Stream.VALIDATION, step=level, slot=picture)
        assert torch.equal(batch.noise[0], torch.from_numpy(rng.standard_normal(SHAPE, dtype=np.float32)))
        assert not batch.vae_noise.any(), "the latents are the VAE's means"
        assert batch.mean is not None
        assert batch.mean.unique().tolist() == batch.time_ids.unique().tolist() == [picture]
    assert [float(value).hex() for value in batches[5].noise.ravel()[:2]] == GOLDEN


GOLDEN = ["-0x1.567ee60000000p-1", "-0x1.6e12a20000000p-1"]


def test_a_folder_without_pictures_is_refused_by_the_options_name(
    pictures_folder: Path, draw: DrawPicture, tmp_path: Path
) -> None:
    for folder, said in ((tmp_path / "none", "no such folder"), (pictures_folder, "holds no pictures")):
        with pytest.raises(BadInput, match=said) as refusal:
            scan_held_out(folder, prompt="a", skip_bad=False)
        assert str(refusal.value.where).startswith("validation_data_dir")
    draw("1.png", 40, 40, seed=1)
    assert [picture.name for picture in scan_held_out(pictures_folder, prompt="a", skip_bad=False).pictures] == [
        "1.png"
    ]
