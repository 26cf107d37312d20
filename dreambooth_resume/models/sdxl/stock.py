"""The shapes of Stable Diffusion XL base 1.0's weights: for estimates about a model that isn't on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

TEXT_PARAMETERS = 123_060_480 + 694_659_840
"""CLIP ViT-L/14 and OpenCLIP ViT-bigG/14."""
VAE_PARAMETERS = 83_653_863

_CHANNELS = (320, 640, 1280)
_TRANSFORMERS = (0, 2, 10)
"""Transformer layers in each attention of a level."""
_LAYERS = 2
_CONTEXT = 2048
_TIME, _ADDED = 1280, 2816

Shape = tuple[int, ...]


@cache
def stock_unet_shapes() -> Mapping[str, Shape]:
    """Name to shape of all 1,680 tensors, as Diffusers names them."""
    return dict(_unet())


def _unet() -> Iterator[tuple[str, Shape]]:
    yield from _layer("conv_in", (_CHANNELS[0], 4, 3, 3))
    for name, inputs in (("time_embedding", _CHANNELS[0]), ("add_embedding", _ADDED)):
        yield from _layer(f"{name}.linear_1", (_TIME, inputs))
        yield from _layer(f"{name}.linear_2", (_TIME, _TIME))
    skipped = [_CHANNELS[0]]
    """Channels of what the way down hands to the way up."""
    channels = _CHANNELS[0]
    for level, width in enumerate(_CHANNELS):
        block = f"down_blocks.{level}"
        for layer in range(_LAYERS):
            yield from _resnet(f"{block}.resnets.{layer}", channels, width)
            yield from _attention(f"{block}.attentions.{layer}", width, _TRANSFORMERS[level])
            channels = width
            skipped.append(width)
        if level < len(_CHANNELS) - 1:
            yield from _layer(f"{block}.downsamplers.0.conv", (width, width, 3, 3))
            skipped.append(width)
    for layer in range(2):
        yield from _resnet(f"mid_block.resnets.{layer}", channels, channels)
    yield from _attention("mid_block.attentions.0", channels, _TRANSFORMERS[-1])
    for number, level in enumerate(reversed(range(len(_CHANNELS)))):
        block, width = f"up_blocks.{number}", _CHANNELS[level]
        for layer in range(_LAYERS + 1):
            yield from _resnet(f"{block}.resnets.{layer}", channels + skipped.pop(), width)
            yield from _attention(f"{block}.attentions.{layer}", width, _TRANSFORMERS[level])
            channels = width
        if level > 0:
            yield from _layer(f"{block}.upsamplers.0.conv", (width, width, 3, 3))
    yield from _layer("conv_norm_out", (channels,))
    yield from _layer("conv_out", (4, channels, 3, 3))


def _resnet(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield from _layer(f"{name}.norm1", (inputs,))
    yield from _layer(f"{name}.conv1", (outputs, inputs, 3, 3))
    yield from _layer(f"{name}.time_emb_proj", (outputs, _TIME))
    yield from _layer(f"{name}.norm2", (outputs,))
    yield from _layer(f"{name}.conv2", (outputs, outputs, 3, 3))
    if inputs != outputs:
        yield from _layer(f"{name}.conv_shortcut", (outputs, inputs, 1, 1))


def _attention(name: str, width: int, layers: int) -> Iterator[tuple[str, Shape]]:
    if layers == 0:
        return
    yield from _layer(f"{name}.norm", (width,))
    yield from _layer(f"{name}.proj_in", (width, width))
    for layer in range(layers):
        inner = f"{name}.transformer_blocks.{layer}"
        for number, context in (("1", width), ("2", _CONTEXT)):
            yield from _layer(f"{inner}.norm{number}", (width,))
            yield f"{inner}.attn{number}.to_q.weight", (width, width)
            yield f"{inner}.attn{number}.to_k.weight", (width, context)
            yield f"{inner}.attn{number}.to_v.weight", (width, context)
            yield from _layer(f"{inner}.attn{number}.to_out.0", (width, width))
        yield from _layer(f"{inner}.norm3", (width,))
        yield from _layer(f"{inner}.ff.net.0.proj", (8 * width, width))
        yield from _layer(f"{inner}.ff.net.2", (width, 4 * width))
    yield from _layer(f"{name}.proj_out", (width, width))


def _layer(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
