from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DrawPicture = Callable[..., Path]


@pytest.fixture
def pictures_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


@pytest.fixture
def draw(pictures_folder: Path) -> DrawPicture:
    """Writes a picture of noise: `draw("dog.png", width, height, seed=…)`."""

    def draw_picture(name: str, width: int = 40, height: int = 30, *, seed: int = 0) -> Path:
        values = np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = pictures_folder / name
        Image.fromarray(values).save(path)
        return path

    return draw_picture
