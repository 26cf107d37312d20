"""The frozen layers of a denoiser in main memory: each is on the device while it computes, and the adapter always.

A layer's weights are copied to the device whenever they are asked for, and the copy is the pass's own. Inside a
checkpointed block it is gone when the block has computed, forwards or backwards; of SDXL's UNet a block has at most 47
million weights of 2,567, and the layers outside of such blocks, which are kept for the backward pass, have 55.
Diffusers' `apply_group_offloading` moves the parameters themselves: after the forward pass they are in main memory, and
that is where the backward pass of a convolution then finds them.
"""

from __future__ import annotations

from typing import cast

import torch

_WEIGHT = "weight"


class HeldLinear(torch.nn.Linear):
    """A linear layer whose frozen weights are in main memory."""

    in_main_memory: torch.Tensor
    computed_on: torch.device

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """A copy on the device, made anew at each call."""
        return _copied(self)


class HeldConv2d(torch.nn.Conv2d):
    """A convolution whose frozen weights are in main memory."""

    in_main_memory: torch.Tensor
    computed_on: torch.device

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """A copy on the device, made anew at each call."""
        return _copied(self)


def hold_in_main_memory(module: torch.nn.Module, *, device: torch.device) -> int:
    """Hold the weights of all plain linear layers and convolutions; how many bytes that are.

    The module is in main memory; what is left of its parameters is to be moved to `device` afterwards, and that moves
    nothing that is held. Quantised layers are no plain ones.
    """
    size_bytes = 0
    for layer in module.modules():
        # A class of its own may compute otherwise, or keep its weights in another form.
        held = HeldLinear if type(layer) is torch.nn.Linear else HeldConv2d if type(layer) is torch.nn.Conv2d else None
        if held is None:
            continue
        weight = cast(torch.Tensor, layer._parameters.pop(_WEIGHT)).detach()
        layer.__class__ = held
        held_layer = cast("HeldLinear | HeldConv2d", layer)
        # Pinned, a copy to a GPU needs not wait for the processor, and no page of it is ever swapped out.
        held_layer.in_main_memory = weight.pin_memory() if device.type == "cuda" else weight
        held_layer.computed_on = device
        size_bytes += weight.nbytes
    return size_bytes


def _copied(layer: HeldLinear | HeldConv2d) -> torch.Tensor:
    # A copy on a CPU, too, so that what is tested there is what happens on a GPU.
    return layer.in_main_memory.to(layer.computed_on, non_blocking=True, copy=True)
