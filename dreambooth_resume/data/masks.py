"""Masks: which part of a picture is trained, by a file of its own (`mask_files`) or by the picture's transparency.

White, or opaque, is trained in full. A mask goes through the same resize, flip and crop as its picture, and is then
averaged over the pixels of each latent. Shapes: h and w of the latents.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from dreambooth_resume.data.dataset import Picture
from dreambooth_resume.data.images import alpha_of, decode_mask
from dreambooth_resume.data.transforms import Crop, FloatArray, cut, decoded_again


# That of 1024 x 1024 pixels takes 64 kB, so at most 64 MB; reading a large PNG at each step would hold the training up.
@functools.lru_cache(maxsize=1024)
def load_mask(picture: Picture, crop: Crop, *, pixels_per_latent: int) -> FloatArray:
    """How much of each latent's square the mask marks: float32 [h, w] in 0..1, read-only; all 1 without a mask.

    Raises RefusedToGoOn if the file isn't what it was when the run looked at it first.
    """
    factor = pixels_per_latent
    height, width = crop.target.height // factor, crop.target.width // factor
    if picture.mask_path is None or picture.mask_sha256 is None:
        weights = np.ones((height, width), dtype=np.float32)
    else:
        decode = _own_alpha if picture.mask_sha256 == picture.sha256 else decode_mask
        # Not the pictures' interpolation: Lanczos would ring at the mask's edges.
        image = cut(decoded_again(picture.mask_path, picture.mask_sha256, decode), crop, Image.Resampling.BILINEAR)
        values_HW = np.asarray(image, dtype=np.int64)[: height * factor, : width * factor]
        # Whole numbers are summed, so the average is the same on every machine.
        sums = values_HW.reshape(height, factor, width, factor).sum(axis=(1, 3))
        weights = (sums / (255 * factor * factor)).astype(np.float32)
    weights.setflags(write=False)
    return weights


def _own_alpha(body: bytes) -> Image.Image:
    found = alpha_of(body)
    assert found is not None, "it had some when the run looked at it first, and has the same bytes"
    return found
