"""DINO and CLIP of transformers, by which a picture is compared with real ones and with its prompt.

One picture a call, on whatever computes: the number of one picture must not depend on what it was computed beside.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.quiet import quiet_loading

DINO_NAME, CLIP_NAME = "facebook/dino-vits16", "openai/clip-vit-base-patch32"
"""As in the DreamBooth paper: ViT-S/16 DINO, and CLIP."""

Embedding = NDArray[np.float64]
"""[width], of length 1."""


class Dino:
    """The class token of a ViT that DINO has trained."""

    def __init__(self, name: str, *, cache_dir: str | None = None) -> None:
        """`name`: a folder or an id on the Hub. Raises BadInput for what isn't there or is of another kind."""
        with quiet_loading():
            from transformers import ViTModel
            from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

            self._model, self._processor = _loaded(
                ViTModel, ViTImageProcessorPil, name, "--dino-model", "vit", cache_dir, add_pooling_layer=False
            )
        self.digest = _digest(self._model, self._processor)

    def embed(self, picture: Image.Image) -> Embedding:
        import torch

        pixels = self._processor(images=picture.convert("RGB"), return_tensors="pt").to(self._model.device)
        with torch.no_grad():
            return _unit(self._model(**pixels).last_hidden_state[0, 0])


class Clip:
    """CLIP's projections of pictures and of texts."""

    def __init__(self, name: str, *, cache_dir: str | None = None) -> None:
        """As of `Dino`."""
        with quiet_loading():
            from transformers import CLIPModel, CLIPTokenizerFast
            from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

            self._model, self._processor = _loaded(
                CLIPModel, CLIPImageProcessorPil, name, "--clip-model", "clip", cache_dir
            )
            try:
                self._tokenizer: Any = CLIPTokenizerFast.from_pretrained(name, cache_dir=cache_dir)
            except (OSError, ValueError) as error:
                raise _not_loaded(error, "--clip-model", name) from error
        self.digest = _digest(self._model, self._processor)

    def embed(self, picture: Image.Image) -> Embedding:
        import torch

        pixels = self._processor(images=picture.convert("RGB"), return_tensors="pt").to(self._model.device)
        with torch.no_grad():
            return _unit(self._model.get_image_features(**pixels).pooler_output[0])

    def embed_text(self, text: str) -> Embedding:
        """Of its first 77 tokens."""
        import torch

        tokens = self._tokenizer(text, truncation=True, max_length=self._longest, return_tensors="pt")
        with torch.no_grad():
            return _unit(self._model.get_text_features(**tokens.to(self._model.device)).pooler_output[0])

    @property
    def _longest(self) -> int:
        return int(self._model.config.text_config.max_position_embeddings)


def similarity(one: Embedding, other: Embedding) -> float:
    """The cosine."""
    return float(one @ other)


def _loaded(
    model: Any, processor: Any, name: str, flag: str, kind: str, cache_dir: str | None, **more: object
) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(name, cache_dir=cache_dir, trust_remote_code=False).model_type
        if found != kind:
            raise BadInput(f"is a {found}", where=f"{flag} {name}", fix=f"name a model of the kind {kind}")
        # Nothing that can run code is read: a pickle is refused, whoever published it.
        loaded = model.from_pretrained(name, cache_dir=cache_dir, use_safetensors=True, dtype=torch.float32, **more)
        prepared = processor.from_pretrained(name, cache_dir=cache_dir)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise _not_loaded(error, flag, name) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return loaded.to(device).eval(), prepared


def _not_loaded(error: Exception, flag: str, name: str) -> BadInput:
    return BadInput(
        f"can't be loaded: {' '.join(str(error).split())[:300]}",
        where=f"{flag} {name}",
        fix=f"name a folder, or an id on the Hub with .safetensors ({DINO_NAME}, {CLIP_NAME})",
    )


def _digest(model: Any, processor: Any) -> str:
    """SHA-256 over the weights by name, and over how pictures are prepared."""
    import torch

    digest = hashlib.sha256(json.dumps(_settings(processor), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + b"\0" + str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _settings(processor: Any) -> dict[str, str]:
    names = (
        "size",
        "crop_size",
        "do_resize",
        "do_center_crop",
        "resample",
        "image_mean",
        "image_std",
        "rescale_factor",
    )
    return {name: str(getattr(processor, name, None)) for name in names}


def _unit(vector: Any) -> Embedding:
    values = cast(Embedding, vector.detach().to("cpu").double().numpy())
    length = float(np.linalg.norm(values))
    return values / length if length else values
