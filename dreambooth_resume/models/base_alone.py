"""The model without its adapter, for a comparison: the adapter stays where it is and is passed by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from dreambooth_resume.models.quiet import quiet_loading


@contextmanager
def base_alone(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Within the block the modules compute what they did before `add_lora`. Not for a module that trains."""
    with quiet_loading():
        from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
