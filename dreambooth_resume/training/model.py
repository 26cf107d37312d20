"""What is trained: the frozen model in memory with the adapter on it, and the adapter as the file that users load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.prompts import DROPPED
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.transforms import FloatArray
from dreambooth_resume.models.attention import use_xformers
from dreambooth_resume.models.base import Denoiser, Family, TextEncoders
from dreambooth_resume.models.compiled import compile_in_place
from dreambooth_resume.models.export import diffusers_metadata, diffusers_tensors
from dreambooth_resume.models.lora import add_lora, part_of
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.new_tokens import NewTokens, is_new_tokens
from dreambooth_resume.models.new_words import new_words
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.training.precision import weight_dtype
from dreambooth_resume.training.preview import Embeddings, undisturbed
from dreambooth_resume.training.step import Prompts, TrainedPrompts, as_dropped, prompt_table

Pair = tuple[FloatArray, FloatArray]
"""A prompt's embeddings [tokens, width] and pooled embeddings [width]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """The frozen parts on their device, and what trains of them, by name. `text_encoders` only if something there does.

    They have either a LoRA or `new_tokens`.
    """

    lora: LoraSpec
    denoiser: Denoiser
    text_encoders: TextEncoders | None
    parameters: Mapping[str, torch.nn.Parameter]
    new_tokens: NewTokens | None = None

    def parameters_by_part(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """The parameters of each part, the denoiser's first, by what Diffusers calls the part."""
        parts: dict[str, dict[str, torch.nn.Parameter]] = {self.denoiser.export_prefix: {}}
        for name, parameter in self.parameters.items():
            parts.setdefault(part_of(name) or self.denoiser.export_prefix, {})[name] = parameter
        return parts

    def embed(self, prompt: str) -> Embeddings:
        """The prompt as the trained text encoders read it now, without dropout and without a trace in them."""
        assert self.text_encoders is not None, "frozen encoders' embeddings are computed ahead"
        with ExitStack() as stack:
            for encoder in self.text_encoders.models.values():
                stack.enter_context(undisturbed(encoder))
            prompt_embeds_BSD, pooled_BP = self.text_encoders.encode(self.text_encoders.tokenize([prompt]))
        return prompt_embeds_BSD[0], pooled_BP[0]

    def export_weights(
        self, parameters: Mapping[str, torch.Tensor]
    ) -> tuple[Mapping[str, torch.Tensor], Mapping[str, str]]:
        """An adapter's values, by the parameters' names, as the LoRA file that Diffusers loads, with its header.

        New tokens have a file of their own.
        """
        targets = {self.denoiser.export_prefix: self.denoiser.lora_target_modules}
        if self.text_encoders is not None and self.new_tokens is None:
            targets |= dict.fromkeys(self.text_encoders.models, self.text_encoders.lora_target_modules)
        adapter = {name: values for name, values in parameters.items() if not is_new_tokens(name)}
        weights = diffusers_tensors(adapter, prefix=self.denoiser.export_prefix)
        return weights, diffusers_metadata(self.lora, target_modules=targets)


def load_model(
    options: TrainOptions,
    *,
    lora: LoraSpec,
    family: Family,
    source: ModelSource,
    seed: int,
    device: torch.device,
) -> LoadedModel:
    """Read what trains from disk and put a fresh adapter on it, drawn from the seed alone."""
    dtype = weight_dtype(options.training.precision)
    checkpointing = options.training.recomputes_activations
    denoiser = family.load_denoiser(
        source,
        device=device,
        weight_dtype=dtype,
        gradient_checkpointing=checkpointing,
        base_precision=options.training.quantised_base,
        offload=options.training.offload,
    )
    if options.training.enable_xformers_memory_efficient_attention:
        use_xformers(denoiser)
    text_encoders = None
    if options.text_part is not None:
        text_encoders = family.load_text_encoders(
            source,
            device=device,
            weight_dtype=dtype,
            gradient_checkpointing=checkpointing,
            clip_skip=options.model.clip_skip,
        )
    with_a_lora = text_encoders if options.lora.train_text_encoder else None
    parameters = add_lora(denoiser, lora, normal_draw=partial(_init_draw, seed), text_encoders=with_a_lora)
    if (backend := options.training.compiled_by) is not None:
        compile_in_place(denoiser.module, backend)
    new_tokens = None
    if text_encoders is not None and (words := new_words(options.tokens)) is not None:
        new_tokens = text_encoders.add_words(words, normal_draw=partial(_token_draw, seed))
        parameters = {**parameters, **new_tokens.rows}
    return LoadedModel(
        lora=lora, denoiser=denoiser, text_encoders=text_encoders, parameters=parameters, new_tokens=new_tokens
    )


def _token_draw(seed: int, encoder: int, shape: tuple[int, int]) -> FloatArray:
    return generator(seed, Stream.INIT, step=encoder, draw=1).standard_normal(shape, dtype=np.float32)


def prompts_for(
    prompts: Sequence[str],
    loaded: LoadedModel,
    pairs: Mapping[str, Pair],
    *,
    zeros: bool,
    device: torch.device,
) -> Prompts:
    """What the denoiser reads for these prompts; `zeros`: for a dropped caption that, and not the empty prompt."""
    if loaded.text_encoders is None:
        rows = [as_dropped(pairs[one]) if zeros and one == DROPPED else pairs[one] for one in prompts]
        return prompt_table(rows, denoiser=loaded.denoiser, device=device)
    return TrainedPrompts(
        text_encoders=loaded.text_encoders,
        tokens_NS=loaded.text_encoders.tokenize(prompts),
        zeros=prompts.index(DROPPED) if zeros and DROPPED in prompts else None,
    )


def _init_draw(seed: int, number: int, shape: tuple[int, ...]) -> FloatArray:
    return generator(seed, Stream.INIT, step=number).standard_normal(shape, dtype=np.float32)
