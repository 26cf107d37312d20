"""Options: the adapter."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from dreambooth_resume.config.options.declaration import (
    FINITE,
    NOT_BLANK,
    SECTION_CONFIG,
    TILDE_EXPANDED,
    any_case,
    applied,
    free,
    never,
    refused,
)

BLORA_BLOCKS = ("up_blocks.0.attentions.0", "up_blocks.0.attentions.1")
"""Of B-LoRA (Frenkel et al. 2024, arXiv:2403.14572): what is in a picture, and its style."""

_LAYERS = "the LoRA's layers are there from the first step or not at all; start a new run"
_PART = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
_Value = TypeVar("_Value", int, float)


def _joined(value: object) -> object:
    # A list in YAML.
    return ",".join(str(one) for one in value) if isinstance(value, list) else value


def _names(value: str | None) -> str | None:
    """Names with commas between them, each once, without what Diffusers' script has before a block."""
    if value is None:
        return None
    names = [name.strip().removeprefix("unet.") for name in value.split(",")]
    for name in names:
        if name != "all-linear" and not _PART.fullmatch(name):
            raise ValueError(f"has {name[:40]!r}, which is no name of a layer or block")
    return ",".join(dict.fromkeys(names))


def _pattern(number: Callable[[str], float], what: str) -> Callable[[str | None], str | None]:
    def checked(value: str | None) -> str | None:
        if value is None:
            return None
        found: dict[str, float] = {}
        for entry in value.split(","):
            name, equals, size = (word.strip() for word in entry.partition("="))
            name = name.removeprefix("unet.")
            if not equals or not _PART.fullmatch(name):
                raise ValueError(f"has {entry.strip()[:40]!r}; write PART=NUMBER, such as mid_block={what}")
            try:
                found[name] = number(size)
            except ValueError:
                raise ValueError(f"has {size[:20]!r} for {name}, where a number such as {what} is wanted") from None
        return ",".join(f"{name}={size:g}" for name, size in found.items())

    return checked


def _rank_or_none(text: str) -> int:
    rank = int(text)
    if rank < 0:
        raise ValueError(text)
    return rank


def _alpha(text: str) -> float:
    alpha = float(text)
    if not 0 < alpha < float("inf"):
        raise ValueError(text)
    return alpha


def _factor(value: int) -> int:
    if value == 0:
        raise ValueError("is 0; write a number from 1 on, or -1")
    return value


def _by_part(value: str | None, number: Callable[[str], _Value]) -> dict[str, _Value]:
    pairs = (entry.partition("=") for entry in value.split(",")) if value else ()
    return {name: number(size) for name, _, size in pairs}


class LoraOptions(BaseModel):
    """The LoRA itself."""

    model_config = SECTION_CONFIG

    rank: Annotated[int, Field(ge=1), never("weights of another rank do not fit; start a new run", common=True)] = 4
    """Rank of the LoRA: its size and capacity. 4 to 32 is usual."""

    lora_alpha: Annotated[
        float | None, FINITE, Field(gt=0), refused("it scales all that was learned; start a new run")
    ] = None
    """Strength of the LoRA is lora_alpha / rank. null: lora_alpha = rank, as in Diffusers' script."""

    lora_dropout: Annotated[
        float, FINITE, Field(ge=0, lt=1), applied("the LoRA's inputs are dropped at the new rate from the next step on")
    ] = 0.0
    """Part of the LoRA's inputs that is dropped in training, against over-fitting."""

    use_dora: Annotated[bool, never("a DoRA has weights that a LoRA lacks; start a new run")] = False
    """Train the length of each row of the layers' weights apart from its direction (DoRA): often better at a low rank,
    slower."""

    lora_type: Annotated[
        Literal["lora", "loha", "lokr"],
        any_case("lora", "loha", "lokr"),
        never("weights of another kind do not fit; start a new run"),
    ] = "lora"
    """Kind of the adapter: lora, or LyCORIS' loha and lokr on the UNet, with rank, lora_alpha and the choice of layers.
    They are loaded by peft and, in kohya's format, by ComfyUI and AUTOMATIC1111, not by load_lora_weights. Tested with
    a tiny model on a CPU; not run on a GPU so far."""

    lokr_factor: Annotated[
        int, Field(ge=-1), AfterValidator(_factor), never("weights of other shapes do not fit; start a new run")
    ] = -1
    """Size of a LoKr's smaller matrix: layers' widths are split into this and the rest. 4 to 16 is usual: greater ones
    make it smaller. -1: into two that are alike, the smallest LoKr. If the rank is at least half of the rest, the
    larger matrix is whole."""

    network_weights: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free()] = None
    """LoRA to begin from, in place of a fresh one: a .safetensors of dbr, Diffusers or kohya's scripts, whose layers,
    ranks and alphas are taken. It is copied into the home, so a resume needs it no more. The optimizer starts fresh,
    at step 0."""

    lora_layers: Annotated[
        str | None,
        BeforeValidator(_joined),
        AfterValidator(_names),
        never(_LAYERS, aliases=("lora_target_modules",)),
    ] = None
    """Layers of the UNet's blocks that get a LoRA, by the ends of their names, with commas. null: those of attention,
    to_k,to_q,to_v,to_out.0, as in Diffusers' script. Others are ff.net.0.proj and ff.net.2 (feed forward), proj_in,
    proj_out, conv1, conv2, conv_shortcut, time_emb_proj and conv; all-linear means all but the convolutions."""

    lora_unet_blocks: Annotated[str | None, BeforeValidator(_joined), AfterValidator(_names), never(_LAYERS)] = None
    """Blocks of the UNet whose layers get a LoRA, with commas, such as up_blocks.0.attentions.0. null: all."""

    use_blora: Annotated[bool, never(_LAYERS)] = False
    """Train a B-LoRA: lora_unet_blocks up_blocks.0.attentions.0, which learns what is in a picture, and
    up_blocks.0.attentions.1, which learns its style. They may be used one without the other."""

    conv_dim: Annotated[int | None, Field(ge=1), never("weights of another rank do not fit; start a new run")] = None
    """Rank of a LoRA on the UNet's convolutions of 3x3, beside that on lora_layers. What else their blocks have
    (conv_shortcut, time_emb_proj) gets one of rank, as in kohya's scripts. null: no LoRA on convolutions."""

    conv_alpha: Annotated[
        float | None, FINITE, Field(gt=0), refused("it scales all that was learned; start a new run")
    ] = None
    """Strength of the convolutions' LoRA is conv_alpha / conv_dim. null: conv_alpha = conv_dim."""

    rank_pattern: Annotated[
        str | None,
        BeforeValidator(_joined),
        AfterValidator(_pattern(_rank_or_none, "8")),
        never("weights of another rank do not fit; start a new run"),
    ] = None
    """Ranks for parts of the UNet, such as "mid_block=16,down_blocks.2=8,attn2.to_k=4". Where several hold for a layer,
    the longest name does, and the last of equals. 0 leaves a part out."""

    alpha_pattern: Annotated[
        str | None,
        BeforeValidator(_joined),
        AfterValidator(_pattern(_alpha, "8")),
        refused("it scales all that was learned; start a new run"),
    ] = None
    """Alphas for parts of the UNet, written as rank_pattern. Elsewhere a layer has lora_alpha, or its own rank where
    lora_alpha is null."""

    train_text_encoder: Annotated[
        bool,
        never("the text encoders' LoRA is there from the first step or not at all; start a new run"),
    ] = False
    """Train a LoRA on both text encoders too: the prompts are encoded at every step, which needs more memory and time.
    """

    train_text_encoder_frac: Annotated[
        float, FINITE, Field(gt=0, le=1), applied("the text encoders' LoRA is trained up to this part of the run")
    ] = 1.0
    """Part of the run's steps in which the text encoders' LoRA is trained, with train_text_encoder. After it that LoRA
    stays as it is, and the UNet's goes on."""

    output_kohya_format: Annotated[bool, free()] = False
    """Leave the result in kohya's format too, for AUTOMATIC1111, ComfyUI and InvokeAI:
    pytorch_lora_weights_kohya.safetensors. Given on a finished run, it is made then."""

    @property
    def alpha(self) -> float:
        """`lora_alpha`, or what it stands for when it was left out."""
        return float(self.rank) if self.lora_alpha is None else self.lora_alpha

    @property
    def layers(self) -> tuple[str, ...]:
        """`lora_layers` one by one; empty for the usual ones."""
        return tuple(self.lora_layers.split(",")) if self.lora_layers else ()

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that get a LoRA; empty for all. use_blora wins over lora_unet_blocks, as in Diffusers' script."""
        if self.use_blora:
            return BLORA_BLOCKS
        return tuple(self.lora_unet_blocks.split(",")) if self.lora_unet_blocks else ()

    @property
    def ranks(self) -> dict[str, int]:
        """`rank_pattern` by part."""
        return _by_part(self.rank_pattern, int)

    @property
    def alphas(self) -> dict[str, float]:
        """`alpha_pattern` by part."""
        return _by_part(self.alpha_pattern, float)
