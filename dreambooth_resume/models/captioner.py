"""Captions for pictures, by a model of transformers that is shown the picture alone (BLIP and its kind)."""

from __future__ import annotations

from typing import Any

from PIL import Image

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.quiet import quiet_loading

_MOST_TOKENS = 60
_NEEDS_WORDS = ("florence2",)


class Captioner:
    """A loaded model: on a GPU if there is one, else on the CPU. The same picture gets the same caption."""

    def __init__(self, name: str, *, revision: str | None = None, cache_dir: str | None = None) -> None:
        """`name`: a folder, or an id on the Hub. Raises BadInput for what isn't there or is of another kind."""
        with quiet_loading():
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor

            where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "trust_remote_code": False}
            try:
                self._processor: Any = AutoProcessor.from_pretrained(name, **where)
                model: Any = AutoModelForImageTextToText.from_pretrained(name, use_safetensors=True, **where)
            except (OSError, ValueError, KeyError, ImportError) as error:
                raise BadInput(
                    f"can't be loaded: {' '.join(str(error).split())[:300]}",
                    where=f"--model {name}",
                    fix="name a BLIP model, by a folder or an id on the Hub: Salesforce/blip-image-captioning-large",
                ) from error
        if model.config.model_type in _NEEDS_WORDS or getattr(self._processor, "chat_template", None):
            raise BadInput(
                f"a model of the kind {model.config.model_type} has to be asked in words, which isn't available yet",
                where=f"--model {name}",
                fix="name a BLIP model: Salesforce/blip-image-captioning-large",
            )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()

    def __call__(self, image: Image.Image) -> str:
        """The caption on one line, without anything drawn at random; may be empty."""
        import torch

        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        with torch.no_grad():
            tokens = self._model.generate(**inputs, max_new_tokens=_MOST_TOKENS, do_sample=False)
        text: str = self._processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return " ".join(text.split())
