"""Captions for pictures, by a model of transformers: one that is shown the picture alone (BLIP and its kind), or one of
those that one talks to (LLaVA, Qwen-VL, SmolVLM and others), which is asked for the caption in words.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.quiet import quiet_loading

QUESTION = "Describe this picture in one short sentence, without an introduction."
"""What a model that is talked to is asked, if nothing else is said."""
# SDXL's text encoders read 77 tokens of a prompt.
_MOST_TOKENS, _MOST_TOKENS_OF_AN_ANSWER = 60, 75
_OF_TASKS = ("florence2",)


class Captioner:
    """A loaded model: on a GPU if there is one, else on the CPU. The same picture gets the same caption."""

    def __init__(
        self, name: str, *, revision: str | None = None, cache_dir: str | None = None, question: str | None = None
    ) -> None:
        """`name`: a folder, or an id on the Hub. Raises BadInput for what isn't there or is of another kind.

        `question` is for a model that is talked to; None: QUESTION.
        """
        with quiet_loading():
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor

            where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "trust_remote_code": False}
            on_gpu = torch.cuda.is_available()
            try:
                self._processor: Any = AutoProcessor.from_pretrained(name, **where)
                is_asked = bool(getattr(self._processor, "chat_template", None))
                # Models that one talks to have billions of weights, and are published in half precision.
                precision = {"dtype": "auto"} if is_asked and on_gpu else {}
                model: Any = AutoModelForImageTextToText.from_pretrained(
                    name, use_safetensors=True, **precision, **where
                )
            except (OSError, ValueError, KeyError, ImportError) as error:
                raise BadInput(
                    f"can't be loaded: {' '.join(str(error).split())[:300]}",
                    where=f"--model {name}",
                    fix="name a BLIP model, by a folder or an id on the Hub: Salesforce/blip-image-captioning-large",
                ) from error
        _refuse_other_kinds(name, model.config.model_type, is_asked=is_asked, question=question)
        self._question = (question or QUESTION) if is_asked else None
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._model = model.to(self._device).eval()

    def __call__(self, image: Image.Image) -> str:
        """The caption on one line, without anything drawn at random; may be empty."""
        import torch

        if self._question is None:
            inputs = self._processor(images=image, return_tensors="pt").to(self._device)
            most, behind = _MOST_TOKENS, 0
        else:
            inputs = self._asked(image, self._question).to(self._device, self._model.dtype)
            most, behind = _MOST_TOKENS_OF_AN_ANSWER, inputs["input_ids"].shape[1]
        with torch.no_grad():
            tokens = self._model.generate(**inputs, max_new_tokens=most, do_sample=False)
        text: str = self._processor.batch_decode(tokens[:, behind:], skip_special_tokens=True)[0]
        return " ".join(text.split())

    def _asked(self, image: Image.Image, question: str) -> Any:
        """The picture and the question, as the model's own template has them."""
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )


def _refuse_other_kinds(name: str, kind: str, *, is_asked: bool, question: str | None) -> None:
    if kind in _OF_TASKS:
        raise BadInput(
            f"a model of the kind {kind} is told a task in words of its own, which isn't available yet",
            where=f"--model {name}",
            fix="name a BLIP model, or one that one talks to, such as HuggingFaceTB/SmolVLM-Instruct",
        )
    if question is not None and not is_asked:
        raise BadInput(
            f"a model of the kind {kind} is shown the picture alone, and asked nothing",
            where="--question",
            fix="leave it out, or name a model that one talks to",
        )
