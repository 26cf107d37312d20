"""SDXL's two text encoders: as the frozen encoders use them, and as a LoRA or new tokens in them are trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.new_tokens import ROWS_NAME, NewTokens, extend, spread_of
from dreambooth_resume.models.new_words import NewWords
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.sdxl.family import TEXT_LORA_TARGET_MODULES
from dreambooth_resume.models.sdxl.single_file import load_part
from dreambooth_resume.models.source import ModelSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """One of the two, with its tokenizer; `part` is what Diffusers' pipeline calls it."""

    part: str
    tokenizer: Any
    model: Any


class SdxlTextEncoders:
    """Both text encoders in the precision of training, encoding at every step what is trained in them."""

    lora_target_modules = TEXT_LORA_TARGET_MODULES

    def __init__(self, encoders: Sequence[TextEncoder], *, device: torch.device, clip_skip: int | None = None) -> None:
        self._encoders = tuple(encoders)
        self._clip_skip = clip_skip
        self._device = device
        self._words = NewWords(tokens_of={})

    @property
    def lora_parts(self) -> dict[str, torch.nn.Module]:
        # transformers 5 took `text_model` out of the first encoder and left it in the second; it was in both for years,
        # and kohya's names need it. Checkpoints have it always, so that they outlive an upgrade.
        return {
            f"{encoder.part}.text_model": getattr(encoder.model, "text_model", encoder.model)
            for encoder in self._encoders
        }

    @property
    def models(self) -> dict[str, torch.nn.Module]:
        return {encoder.part: encoder.model for encoder in self._encoders}

    def add_words(
        self, words: NewWords, *, normal_draw: Callable[[int, tuple[int, int]], NDArray[np.float32]]
    ) -> NewTokens:
        rows: dict[str, torch.nn.Parameter] = {}
        spreads: dict[str, float] = {}
        for number, encoder in enumerate(self._encoders):
            name, spread = f"{encoder.part}.{ROWS_NAME}", spread_of(encoder.model)
            width = encoder.model.get_input_embeddings().embedding_dim
            _add_tokens(encoder, words.tokens)
            drawn = normal_draw(number, (len(words.tokens), width))
            rows[name] = extend(encoder.model, torch.from_numpy(drawn * np.float32(spread)))
            spreads[name] = spread
        self._words = words
        return NewTokens(rows=rows, spreads=spreads)

    def tokenize(self, prompts: Sequence[str]) -> tuple[torch.Tensor, ...]:
        prompts = [self._words.in_place(prompt) for prompt in prompts]
        for prompt in prompts:
            warn_of_what_is_cut(self._encoders, prompt)
        return tokenize(self._encoders, prompts, device=self._device)

    def encode(self, tokens_BS: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return encode(self._encoders, tokens_BS, clip_skip=self._clip_skip)


def load_text_encoders(
    source: ModelSource,
    *,
    device: torch.device,
    weight_dtype: torch.dtype,
    gradient_checkpointing: bool,
    clip_skip: int | None = None,
) -> SdxlTextEncoders:
    """Read both from disk onto the device, without an adapter, ready to be trained around."""
    encoders = load_text_models(source, dtype=weight_dtype)
    for encoder in encoders:
        encoder.model.requires_grad_(False).to(device)
        if gradient_checkpointing:
            encoder.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        encoder.model.train()
    return SdxlTextEncoders(encoders, device=device, clip_skip=clip_skip)


def load_text_models(source: ModelSource, *, dtype: torch.dtype) -> tuple[TextEncoder, ...]:
    """Both encoders with their tokenizers, on the CPU."""
    with quiet_loading():
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        return tuple(
            TextEncoder(
                part=f"text_encoder{end}",
                tokenizer=CLIPTokenizer.from_pretrained(source.folder / f"tokenizer{end}", local_files_only=True),
                model=_load_text_model(source, f"text_encoder{end}", model_class, dtype=dtype),
            )
            for end, model_class in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection))
        )


def _load_text_model(source: ModelSource, part: str, model_class: Any, *, dtype: torch.dtype) -> Any:
    if (path := source.single_file_of(part)) is not None:
        return load_part(source, path, part, model_class=model_class, dtype=dtype)
    return model_class.from_pretrained(
        source.folder / part, variant=source.variant, dtype=dtype, use_safetensors=True, local_files_only=True
    )


def _add_tokens(encoder: TextEncoder, tokens: Sequence[str]) -> None:
    """Give the tokenizer these tokens, with the ids behind the encoder's table. Raises BadInput if that can't be."""
    known = encoder.model.get_input_embeddings().num_embeddings
    encoder.tokenizer.add_tokens(list(tokens))
    ids = encoder.tokenizer.convert_tokens_to_ids(list(tokens))
    if ids != list(range(known, known + len(tokens))):
        raise BadInput(
            f"the base model's {encoder.part} has {known} tokens, and its tokenizer puts {tokens[0]} at {ids[0]}: it "
            "has new tokens already, or tokens without an embedding",
            where="--train_text_encoder_ti",
            fix="take a base model without new tokens, or leave it out",
        )


def tokenize(
    encoders: Sequence[TextEncoder], prompts: Sequence[str], *, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """int64 [prompts, 77] for each encoder. What is longer is cut off, as in Diffusers' `encode_prompt`."""
    tokens = []
    for encoder in encoders:
        found: torch.Tensor = encoder.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=encoder.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )["input_ids"]
        tokens.append(found.to(device))
    return tuple(tokens)


def encode(
    encoders: Sequence[TextEncoder], tokens_BS: Sequence[torch.Tensor], *, clip_skip: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """prompt_embeds [batch, 77, 2048 in SDXL] and pooled_prompt_embeds [batch, 1280 in SDXL].

    The second-to-last hidden state of both encoders side by side, and the second one's projected output, as in
    Diffusers' `encode_prompt`; with `clip_skip` so many hidden states before that one.
    """
    hidden_states = []
    pooled: torch.Tensor | None = None
    for encoder, tokens in zip(encoders, tokens_BS, strict=True):
        output = encoder.model(tokens, output_hidden_states=True, return_dict=False)
        pooled = output[0]
        hidden_states.append(output[-1][-2 - (clip_skip or 0)])
    assert pooled is not None
    return torch.cat(hidden_states, dim=-1), pooled


def warn_of_what_is_cut(encoders: Sequence[TextEncoder], prompt: str) -> None:
    """Say in the log which words of a long prompt nothing will be learned about."""
    tokenizer = encoders[0].tokenizer
    words = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    if len(words) > room:
        cut = tokenizer.decode(words[room:]).strip()
        logger.warning("The prompt has %d tokens and SDXL reads %d; cut off: %s", len(words), room, cut)
