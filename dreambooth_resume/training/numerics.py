"""What decides the last bits of a result: switches of torch, and the machine and libraries that computed it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from dreambooth_resume.models.base import BasePrecision

# pillow: it resizes the pictures, and its releases do not round alike.
_PACKAGES = ("torch", "diffusers", "peft", "accelerate", "numpy", "pillow", "safetensors", "transformers")
# What some options need; runs of earlier releases have no record of them.
_OF_SOME_RUNS = frozenset(("bitsandbytes", "lion_pytorch", "prodigyopt", "schedulefree", "xformers"))
_CPU_FLAGS = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_bf16",
    "asimd",
    "sve",
)


def make_deterministic(*, allow_tf32: bool, torch_threads: int | None = None) -> None:
    """Make torch give the same bits for the same input on the same machine, for the rest of the process.

    `torch_threads` None leaves torch's own number. Call it before the first operation on a GPU. An operation that has
    no deterministic form raises RuntimeError where it is used; `warn_only` would be the softer choice, but under it the
    attention kernels on a GPU keep their faster, irreproducible gradients.
    """
    # cuBLAS reads this when a context is made; without it torch refuses deterministic matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Otherwise every new tensor is filled with NaN first: a guard for code that reads what it never wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    if torch_threads is not None:
        torch.set_num_threads(torch_threads)


def numerics_fingerprint(
    *,
    device: torch.device,
    micro_batch_size: int,
    mixed_precision: str,
    allow_tf32: bool,
    base_precision: BasePrecision | None = None,
    compiled_by: str | None = None,
    packages: Sequence[str] = (),
) -> dict[str, str]:
    """All that two attempts must share for their results to be the same bit for bit, as name -> value.

    `packages` are those that the run's options need beside the usual ones, such as its optimizer's.
    Taken after `make_deterministic`, in run.json form: short names, text values, sorted.
    """
    facts = {
        "allow_tf32": str(allow_tf32).lower(),
        "device": device.type,
        "micro_batch_size": str(micro_batch_size),
        "mixed_precision": mixed_precision,
        **{package: version(package) for package in (*_PACKAGES, *packages)},
    }
    if base_precision is not None:
        facts["base_precision"] = base_precision
    if compiled_by is not None:
        facts["torch_compile"] = compiled_by
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["device_name"] = properties.name
        facts["compute_capability"] = f"{properties.major}.{properties.minor}"
        facts["cuda"] = str(torch.version.cuda)
        facts["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    else:
        facts["device_name"] = platform.machine()
        facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        facts["cpu_instructions"] = _cpu_instructions()
        facts["torch_threads"] = str(torch.get_num_threads())
    return dict(sorted(facts.items()))


def compare_fingerprints(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    """(name, value then, value now) for everything that differs, sorted by name; "-" where one side has no value.

    Of a package that only some options need, and that the run has no record of, nobody knows: it does not differ.
    """
    names = sorted((then.keys() | now.keys()) - (_OF_SOME_RUNS - then.keys()))
    pairs = ((name, then.get(name, "-"), now.get(name, "-")) for name in names)
    return tuple(pair for pair in pairs if pair[1] != pair[2])


def _cpu_instructions() -> str:
    """Maker and instruction sets, by which oneDNN and MKL choose their kernels; "unknown" where Linux doesn't say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    first = {key.strip(): value.strip() for key, _, value in pairs}
    flags = set((first.get("flags") or first.get("Features") or "").split())
    known = [first.get("vendor_id", ""), *(flag for flag in _CPU_FLAGS if flag in flags)]
    return " ".join(word for word in known if word) or "unknown"
