"""torch.compile for the denoiser that trains; pictures and the validation loss are computed without it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from dreambooth_resume.errors import BadInput

_SHAPES_MAX = 4096
"""Graphs of one piece of code. torch's own limit, 8, is less than SDXL's buckets; at ours it stops with an error."""


def compile_in_place(module: torch.nn.Module, backend: str | Callable[..., Any]) -> None:
    """Compile the module for each shape that it meets; names, parameters and hooks stay what they are.

    Past torch's limit of graphs the rest would be computed uncompiled, in other bits: then the shapes that an attempt
    happened to meet first would decide what a step computes, and no resume would be exact.
    """
    import torch._dynamo.config as settings

    settings.recompile_limit = _SHAPES_MAX
    settings.accumulated_recompile_limit = _SHAPES_MAX
    settings.fail_on_recompile_limit_hit = True
    module.compile(backend=backend, dynamic=False)


def is_compiled(module: torch.nn.Module) -> bool:
    return module._compiled_call_impl is not None


@contextmanager
def without_compiling(module: torch.nn.Module) -> Iterator[None]:
    """The module computes as if it were not compiled: for a few passes of other kinds, each of which takes minutes."""
    if not is_compiled(module):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def refuse_without_a_compiler(
    backend: str,
    device: torch.device,
    *,
    is_installed: Callable[[str], bool] = lambda name: find_spec(name) is not None,
    finds_program: Callable[[str], bool] = lambda name: shutil.which(name) is not None,
) -> None:
    """Raises BadInput where inductor has nothing that compiles its code: it would fail in the first step."""
    if backend != "inductor":
        return
    if device.type == "cuda":
        missing, fix = ("Triton (the package triton)" if not is_installed("triton") else ""), "pip install triton"
    else:
        compiler = os.environ.get("CXX") or "g++"
        missing, fix = ("" if finds_program(compiler) else f"a C++ compiler ({compiler})"), "install one, or set CXX"
    if missing:
        raise BadInput(
            f"torch_compile with dynamo_backend inductor needs {missing}, which this machine has not",
            where="torch_compile",
            fix=f"{fix}; or leave --torch_compile out",
        )
