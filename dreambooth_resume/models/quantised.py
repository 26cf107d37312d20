"""The frozen linear layers of a denoiser in 4 or 8 bits a weight, computed in the precision of training.

nf4 and int8 are bitsandbytes' layers, which peft knows; fp8 is ours and needs no package. What trains stays float32.
Each form is computed from the same weights in the same way on every start, so a resume finds the same base.
"""

from __future__ import annotations

from typing import Any

import torch

from dreambooth_resume.models.base import BasePrecision
from dreambooth_resume.models.quiet import quiet_loading

_FP8 = torch.float8_e4m3fn
_OUTLIERS = 6.0
"""bitsandbytes' int8: inputs above it are multiplied apart, as its makers and Diffusers have it."""


def quantise(module: torch.nn.Module, kind: BasePrecision, *, device: torch.device, dtype: torch.dtype) -> None:
    """Replace every linear layer inside `module` by one of that kind on `device`; products are computed in `dtype`.

    The module is in CPU memory, and only one layer at a time is on the device in full.
    """
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, torch.nn.Linear):
                setattr(parent, name, _quantised(layer, kind, device=device, dtype=dtype))


def _quantised(layer: torch.nn.Linear, kind: BasePrecision, *, device: torch.device, dtype: torch.dtype) -> Any:
    if kind == "fp8":
        return Fp8Linear(layer, dtype=dtype).to(device)
    with quiet_loading():
        import bitsandbytes
    new: Any
    if kind == "nf4":
        new = bitsandbytes.nn.Linear4bit(
            layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=dtype, quant_type="nf4"
        )
        new.weight = bitsandbytes.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        # In evaluation mode it would pack the weights otherwise on some CPUs, and so train on others after a picture.
        new.support_avx512bf16_for_cpu = False
    else:
        new = bitsandbytes.nn.Linear8bitLt(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            has_fp16_weights=False,
            threshold=_OUTLIERS,
        )
        new.weight = bitsandbytes.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    new.bias = layer.bias
    return new.to(device)


class Fp8Linear(torch.nn.Linear):
    """A frozen linear layer whose weights are 8-bit floats (e4m3), each row scaled to their whole range."""

    def __init__(self, layer: torch.nn.Linear, *, dtype: torch.dtype) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        weight = layer.weight.detach().float()
        largest = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        scale = largest / torch.finfo(_FP8).max
        self.weight = torch.nn.Parameter((weight / scale).to(_FP8), requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("row_scale", scale, persistent=False)
        self._dtype = dtype

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # `input` in torch's own; peft and Diffusers give it by position.
        product: torch.Tensor = _Fp8Product.apply(  # type: ignore[no-untyped-call]
            inputs.to(self._dtype), self.weight, self.row_scale
        )
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _Fp8Product(torch.autograd.Function):
    """inputs @ weights.T. Keeps the 8-bit weights for the backward pass, and not what they stand for."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        return torch.nn.functional.linear(inputs, _plain(weight, scale, inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = gradients
        weight, scale = ctx.saved_tensors
        return gradient @ _plain(weight, scale, gradient.dtype), None, None


def _plain(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (weight.float() * scale).to(dtype)
