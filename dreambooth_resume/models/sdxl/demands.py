"""What training on SDXL asks of a machine, from the names and shapes of its weights.

A layer's name says at which resolution it works: level 0 at that of the latents, each further one at half of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dreambooth_resume.models.demands import Demands
from dreambooth_resume.models.sdxl.stock import VAE_PARAMETERS, stock_unet_shapes

_BLOCK = re.compile(r"(?P<way>down|up)_blocks\.(?P<number>\d+)\.")
_TEXT_TOKENS = 77
_PIXELS = 1024 * 1024
# Counted for stock SDXL at 1024 x 1024 and rank 16: the tensors that autograd saves in Diffusers' UNet, each storage
# once, with norms in float32 as autocast has them and attention as a fused kernel that keeps its inputs, its output and
# a number a row. All of them grow with the pixels, and tests/unit/models/test_demands.py counts them again.
_KEPT, _KEPT_FLOAT32 = 7.246e9, 11.196e9
_CHECKPOINTED, _CHECKPOINTED_FLOAT32 = 0.556e9, 0.976e9
_RECOMPUTED = 0.252e9
_RECOMPUTED_SHARE = 0.757
"""Of a forward pass: torch's checkpointing ends as soon as the last tensor that is needed is there."""
# Of SDXL's VAE at 1024 x 1024, by torch's own counter. Its one attention, which grows faster, is a seventh of it.
_ENCODE_FLOPS, _DECODE_FLOPS = 4.879e12, 10.470e12
_ENCODING = 3.0e9
"""Assumed: 128 channels of a picture in float32 are 0.5 GB, and a few of such are there at once."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Operations of the denoiser on one picture, and how many numbers its layers put out."""

    forward_flops: float
    backward_flops: float
    outputs: float


def unet_work(shapes: Shapes, ranks: Mapping[str, int], *, latent_height: int, latent_width: int) -> Work:
    """Operations of a forward and a backward pass. `ranks`: name of each layer with a LoRA ("….to_q") to its rank.

    Backward, a frozen layer needs the gradient of its input alone, an adapter's matrices and the two products of an
    attention that of both factors. What lies before the first adapter needs none.
    """
    weights = [(name.removesuffix(".weight"), shape) for name, shape in shapes.items() if name.endswith(".weight")]
    levels = 1 + max(int(found["number"]) for name, _ in weights if (found := _BLOCK.match(name)) is not None)
    trained = {_prefix(name) for name in ranks}
    forward = backward = outputs = 0.0
    for name, shape in weights:
        if len(shape) < 2:
            continue
        positions = _positions(name, latent_height, latent_width, levels=levels)
        product = 2.0 * positions * math.prod(shape)
        rank = ranks.get(name, 0)
        adapter = 2.0 * positions * rank * (shape[0] + math.prod(shape[1:]))
        attention = _attention(name, shape, positions)
        forward += product + adapter + attention
        if _needs_gradients(name, trained):
            backward += product + 2.0 * adapter + 2.0 * attention
        outputs += positions * shape[0]
    return Work(forward_flops=forward, backward_flops=backward, outputs=outputs)


def sdxl_demands(
    shapes: Shapes | None,
    ranks: Mapping[str, int],
    *,
    height: int,
    width: int,
    adapter_parameters: int,
    text_parameters: int,
    vae_parameters: int,
) -> Demands:
    """`shapes` None: those of stock SDXL. Height and width are those of a picture."""
    stock = stock_unet_shapes()
    size = {"latent_height": height // 8, "latent_width": width // 8}
    known = stock if shapes is None else shapes
    work = unet_work(known, ranks, **size)
    # Another UNet keeps as much more or less as its layers put out.
    scale = height * width / _PIXELS * work.outputs / unet_work(stock, {}, **size).outputs
    pixels = height * width / _PIXELS * vae_parameters / VAE_PARAMETERS
    return Demands(
        is_stock=shapes is None,
        denoiser_parameters=sum(math.prod(shape) for shape in known.values()),
        linear_parameters=sum(math.prod(shape) for name, shape in known.items() if _is_quantisable(name, shape)),
        text_parameters=text_parameters,
        vae_parameters=vae_parameters,
        adapter_parameters=adapter_parameters,
        forward_flops=work.forward_flops,
        backward_flops=work.backward_flops,
        recomputed_flops=_RECOMPUTED_SHARE * work.forward_flops,
        encode_flops=_ENCODE_FLOPS * pixels,
        decode_flops=_DECODE_FLOPS * pixels,
        encoding_bytes=_ENCODING * pixels,
        kept_bytes=_KEPT * scale,
        kept_bytes_float32=_KEPT_FLOAT32 * scale,
        checkpointed_bytes=_CHECKPOINTED * scale,
        checkpointed_bytes_float32=_CHECKPOINTED_FLOAT32 * scale,
        recomputed_bytes=_RECOMPUTED * scale,
    )


def _positions(name: str, latent_height: int, latent_width: int, *, levels: int) -> int:
    """For how many tokens or places a layer computes its outputs."""
    if ".attn2.to_k" in name or ".attn2.to_v" in name:
        return _TEXT_TOKENS
    if "time_emb" in name or "_embedding." in name:
        return 1
    level = levels - 1 if name.startswith("mid_block.") else 0
    if (found := _BLOCK.match(name)) is not None:
        number = int(found["number"])
        level = number if found["way"] == "down" else levels - 1 - number
        level += {"downsamplers": 1, "upsamplers": -1}.get(name.split(".")[2], 0)
    side = 1 << level
    return math.ceil(latent_height / side) * math.ceil(latent_width / side)


def _attention(name: str, shape: tuple[int, ...], positions: int) -> float:
    """Of the two products of an attention, counted with its queries."""
    if name.endswith(".attn1.to_q"):
        return 4.0 * positions * positions * shape[0]
    return 4.0 * positions * _TEXT_TOKENS * shape[0] if name.endswith(".attn2.to_q") else 0.0


def _prefix(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith(("down_blocks.", "up_blocks.")) else name.split(".")[0]


def _order(prefix: str) -> tuple[int, int]:
    """The order of computation."""
    way, _, number = prefix.partition(".")
    return ("conv_in", "down_blocks", "mid_block", "up_blocks").index(way), int(number or 0)


def _needs_gradients(name: str, trained: set[str]) -> bool:
    """Whether the gradient of a layer's input is asked for: an adapter lies in its block or before it."""
    prefix = _prefix(name)
    if not trained or "_embedding" in prefix or ".time_emb_proj" in name or ".attn2.to_k" in name:
        return False
    if ".attn2.to_v" in name:
        return False  # the text's embeddings are given
    first = min(map(_order, trained))
    return prefix in ("conv_norm_out", "conv_out") or _order(prefix) >= first


def _is_quantisable(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and name.startswith(("down_blocks.", "mid_block.", "up_blocks."))
