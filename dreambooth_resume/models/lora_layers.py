"""Which layers of a denoiser get an adapter, and of what rank. Needs no torch: names and shapes say it all.

A layer goes by its module's name ("mid_block.attentions.0.proj_in"), a part of the model by whole components of such
names ("mid_block", "up_blocks.0.attentions.1", "attn2.to_k").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Literal, TypeVar

from dreambooth_resume.errors import BadInput

ALL_LINEAR = "all-linear"
"""Stands for the names of all linear layers."""

AdapterKind = Literal["lora", "loha", "lokr"]

_Number = TypeVar("_Number", int, float)
_LINEAR, _KERNEL = 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    """Rank and alpha of one layer's adapter."""

    rank: int
    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """Kind, size and strength of an adapter: a LoRA's output is (alpha / rank) * B(A(dropout(input))).

    With `dora` each row of the weight W + (alpha / rank) * BA is scaled to a length that is trained too (Liu et al.
    2024, arXiv:2402.09353). `sizes` has the layers of a part of the model ("unet", "text_encoder") where they are not
    the usual ones, or not all of `rank` and `alpha`. Of other kinds `models.lycoris` tells; `factor` is a LoKr's, as in
    `kronecker_factors`.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    dora: bool = False
    kind: AdapterKind = "lora"
    factor: int = -1
    sizes: Mapping[str, Mapping[str, LayerSize]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChoice:
    """What a user says of the denoiser's layers. Nothing said: the usual ones, all of one rank.

    `layers` are ends of names, `blocks` beginnings of them. `conv_rank` adds the convolutions, and what else the blocks
    around them have, as kohya's LoRA-C3Lier does. `ranks` and `alphas` hold for parts of the model; rank 0 leaves a
    part out, and the longest name wins. `alpha` and `conv_alpha` None: each layer's own rank.
    """

    layers: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    conv_rank: int | None = None
    conv_alpha: float | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_usual(self) -> bool:
        return self == LayerChoice()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The layers of a denoiser that can get an adapter: name to the shape of its weight.

    `usual` are the ends of the names of those that get one where nothing else is said; `conv_blocks` the components
    whose layers come with the convolutions.
    """

    shapes: Mapping[str, tuple[int, ...]]
    usual: tuple[str, ...]
    conv_blocks: tuple[str, ...]


def layer_sizes(found: Layers, choice: LayerChoice, *, rank: int, alpha: float | None) -> dict[str, LayerSize]:
    """Every chosen layer with its rank and alpha, by name, sorted.

    Raises BadInput for a name that no layer has, and if nothing is left.
    """
    chosen = _chosen(found, choice)
    _refuse_idle(choice.ranks, chosen, option="rank_pattern")
    sizes: dict[str, LayerSize] = {}
    for name in chosen:
        is_kernel = len(found.shapes[name]) == _KERNEL and found.shapes[name][2:] != (1, 1)
        usual_rank, usual_alpha = rank, alpha
        if is_kernel and choice.conv_rank:
            usual_rank, usual_alpha = choice.conv_rank, choice.conv_alpha
        own_rank = int(_longest(choice.ranks, name, default=usual_rank))
        own_alpha = _longest(choice.alphas, name, default=own_rank if usual_alpha is None else usual_alpha)
        if own_rank:
            sizes[name] = LayerSize(rank=own_rank, alpha=float(own_alpha))
    _refuse_idle(choice.alphas, sizes, option="alpha_pattern")
    if not sizes:
        raise BadInput("leaves no layer of the UNet to be trained", where="rank_pattern", fix="give a rank above 0")
    return sizes


def rank_pattern(sizes: Mapping[str, LayerSize], rank: int) -> dict[str, int]:
    """peft's rank_pattern for the layers of another rank than `rank`: "one|another" for each rank.

    Not a key a layer, of which peft compiles every one for every layer: minutes for SDXL.
    """
    return _pattern({name: size.rank for name, size in sizes.items() if size.rank != rank})


def alpha_pattern(sizes: Mapping[str, LayerSize], alpha: float) -> dict[str, float]:
    """peft's alpha_pattern, as `rank_pattern`."""
    return _pattern({name: size.alpha for name, size in sizes.items() if size.alpha != alpha})


def by_layer(pattern: Mapping[str, _Number]) -> dict[str, _Number]:
    """The inverse: each layer's own value."""
    return {name: value for names, value in pattern.items() for name in names.split("|")}


def _pattern(values: Mapping[str, _Number]) -> dict[str, _Number]:
    layers: dict[_Number, list[str]] = {}
    for name, value in sorted(values.items()):
        layers.setdefault(value, []).append(name)
    return {"|".join(names): value for value, names in layers.items()}


def size_of(shape: tuple[int, ...], rank: int, spec: LoraSpec) -> int:
    """How many numbers the adapter of such a weight [out, in] or [out, in, height, width] has."""
    kernel = shape[2] * shape[3] if len(shape) == _KERNEL else 1
    if spec.kind == "lokr":
        (few_out, many_out), (few_in, many_in) = (kronecker_factors(size, spec.factor) for size in shape[:2])
        is_whole = rank >= max(many_out, many_in) / 2
        larger = many_out * many_in * kernel if is_whole else rank * (many_out + many_in * kernel)
        return few_out * few_in + larger
    lora = rank * (shape[0] + shape[1] * kernel)
    return 2 * lora if spec.kind == "loha" else lora + spec.dora * shape[0]


def kronecker_factors(size: int, factor: int) -> tuple[int, int]:
    """The number of a layer's inputs or outputs as the product in which a LoKr takes it.

    (factor, rest) if `factor` divides it; else the two that are nearest to its root (-1), or nearest below `factor`.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    largest = isqrt(size) if factor < 0 else min(isqrt(size), factor)
    smaller = next(one for one in range(largest, 0, -1) if size % one == 0)
    return smaller, size // smaller


def _chosen(found: Layers, choice: LayerChoice) -> list[str]:
    names = sorted(found.shapes)
    ends = choice.layers or found.usual
    for end in ends:
        if end != ALL_LINEAR and not any(_ends_with(name, end) for name in names):
            raise BadInput(f"the UNet has no layer {end}", where="lora_layers", fix=f"name some of {_known(names)}")
    for block in choice.blocks:
        if not any(name.startswith(f"{block}.") for name in names):
            blocks = sorted({name.rpartition(".attentions.")[0] or name.split(".")[0] for name in names})
            raise BadInput(
                f"the UNet has no block {block}",
                where="lora_unet_blocks",
                fix=f"name blocks such as {', '.join(blocks[:4])}, or parts of them such as {_a_part(names)}",
            )
    taken = [
        name
        for name in names
        if any(_ends_with(name, end) or (end == ALL_LINEAR and len(found.shapes[name]) == _LINEAR) for end in ends)
        or (choice.conv_rank and any(f".{one}." in f".{name}" for one in found.conv_blocks))
    ]
    within = [name for name in taken if not choice.blocks or any(name.startswith(f"{one}.") for one in choice.blocks)]
    if not within:
        raise BadInput(
            f"no chosen layer lies in {', '.join(choice.blocks)}",
            where="lora_unet_blocks",
            fix="give other blocks, or other lora_layers",
        )
    return within


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _longest(values: Mapping[str, float], name: str, *, default: float) -> float:
    """The value of the part with the most components that the layer lies in, the last one of equals."""
    lying_in = [part for part in values if _lies_in(name, part)]
    return values[max(reversed(lying_in), key=lambda part: part.count("."))] if lying_in else default


def _lies_in(name: str, part: str) -> bool:
    return f".{part}." in f".{name}."


def _refuse_idle(values: Mapping[str, float], names: Iterable[str], *, option: str) -> None:
    names = list(names)
    for part in values:
        if not any(_lies_in(name, part) for name in names):
            raise BadInput(
                f"none of the layers that get a LoRA lies in {part}",
                where=option,
                fix=f"name a part of the UNet such as {_a_part(names)}, or leave it out",
            )


def _known(names: Iterable[str]) -> str:
    """Ends of names as people write them: behind the last number of a block, and ff.net.2 for a layer that is one."""
    ends = set()
    for name in names:
        words = name.split(".")
        last = next(place for place in range(len(words) - 1, -1, -1) if not words[place].isdigit())
        first = words.index("ff") if "ff" in words else last
        ends.add(".".join(words[first:]))
    return ", ".join((*sorted(ends), ALL_LINEAR))


def _a_part(names: Iterable[str]) -> str:
    found = sorted({".".join(name.split(".")[:4]) for name in names if ".attentions." in name})
    return found[-1] if found else "mid_block"
