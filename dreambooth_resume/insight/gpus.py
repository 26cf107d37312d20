"""GPUs that people train on: memory, speed by the data sheet, and how much of it a training gets."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from dreambooth_resume.errors import BadInput

SPEED_SOURCE = "NVIDIA's data sheets: dense products, sums in float32"
EFFICIENCY_SOURCE = (
    "a share of the data sheet's speed; assumed, and off by half at times. Diffusers' own text on SDXL's speed has an "
    "A100 at 0.40 for pictures (30 steps with guidance in 3.3 s, bf16, torch's attention, not compiled)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Bytes as `nvidia-smi` shows them; operations a second, a multiplication with its addition being two."""

    name: str
    title: str
    memory_bytes: int
    half_flops: float
    float32_flops: float
    efficiency: float
    """The less memory bandwidth there is for each operation, the smaller."""
    has_bf16: bool = True


def _gpu(
    name: str, title: str, mib: int, half: float, single: float, efficiency: float, *, has_bf16: bool = True
) -> Gpu:
    return Gpu(
        name=name,
        title=title,
        memory_bytes=mib * 2**20,
        half_flops=half * 1e12,
        float32_flops=single * 1e12,
        efficiency=efficiency,
        has_bf16=has_bf16,
    )


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("t4", "Tesla T4", 15_360, 65, 8.1, 0.30, has_bf16=False),
        _gpu("v100", "V100", 16_384, 125, 15.7, 0.35, has_bf16=False),
        _gpu("a10g", "A10G", 23_028, 70, 31.2, 0.40),
        _gpu("l4", "L4", 23_034, 121, 30.3, 0.25),
        _gpu("rtx3090", "GeForce RTX 3090", 24_576, 71, 35.6, 0.40),
        _gpu("rtx4090", "GeForce RTX 4090", 24_564, 165, 82.6, 0.40),
        _gpu("rtx5090", "GeForce RTX 5090", 32_607, 209, 104.8, 0.40),
        _gpu("l40s", "L40S", 46_068, 362, 91.6, 0.30),
        _gpu("a100-40gb", "A100 40GB", 40_960, 312, 19.5, 0.35),
        _gpu("a100", "A100 80GB", 81_920, 312, 19.5, 0.35),
        _gpu("h100", "H100 80GB", 81_559, 989, 67, 0.25),
        _gpu("h200", "H200", 143_771, 989, 67, 0.30),
    )
}


def gpu_named(name: str) -> Gpu:
    """The GPU that `--gpu NAME` means. Raises BadInput, which names those that there are."""
    wanted = name.strip().lower().replace(" ", "").replace("_", "-").removeprefix("nvidia-")
    if wanted in GPUS:
        return GPUS[wanted]
    near = get_close_matches(wanted, GPUS, n=1, cutoff=0.5)
    known = ", ".join(GPUS)
    fix = f"--gpu {near[0]}; all: {known}" if near else f"one of {known}"
    raise BadInput(f"{name[:40]!r} is no GPU of the table", where="--gpu", fix=fix)


def gpu_of(device_name: str, memory_bytes: int | None) -> Gpu | None:
    """The table's row for a device as its driver calls it ("NVIDIA A100-SXM4-80GB"); None for one that isn't there.

    Of several of that name the one with the nearest memory, and the smallest if that is not known.
    """
    words = device_name.upper().replace("-", " ").split()
    fitting = [gpu for gpu in GPUS.values() if _is_called(gpu, words)]
    return min(fitting, key=lambda gpu: abs(gpu.memory_bytes - (memory_bytes or 0)), default=None)


def _is_called(gpu: Gpu, words: list[str]) -> bool:
    wanted = [word for word in gpu.title.upper().split() if not word.endswith("GB") and word not in ("TESLA",)]
    return all(word in words for word in wanted)
