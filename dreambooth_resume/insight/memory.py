"""What a training needs of a GPU's memory, part by part, and what to change first where it doesn't fit.

1 GB is 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.models.demands import Demands

MOMENT_BYTES = {"AdamW": 8, "AdamW8bit": 3, "prodigy": 16, "Lion": 4, "Adafactor": 2, "AdamWScheduleFree": 8}
"""What an optimizer keeps of each number that trains: AdamW two moments in float32, prodigy those and two numbers to
compare with, Lion one, Adafactor next to none, schedule-free AdamW a second set of weights and one moment. Of 8 bits it
is two bytes, and four for each block of 256, which many small matrices don't fill."""

FITS_SHARE = 0.9
"""A tenth is left for what fragments, and for other programs."""
_CONTEXT_BYTES = 1.0e9
_AT_ONCE_SHARE = 102 / 2567
"""Of the UNet's numbers with offload: its largest block, and the layers outside of blocks (models/main_memory.py)."""
_SLACK_SHARE = 0.1
_BASE_BYTES = {"nf4": 0.516, "int8": 1.0, "fp8": 1.0}
"""nf4: 4 bits, and a scale for each 64 of them that is quantised once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """A row of the table: what, how much, and where the number comes from."""

    name: str
    size_bytes: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing to do so that less memory is needed, and what is needed after it and all before it."""

    words: str
    why: str
    needed_bytes: float
    in_a_run: bool
    """A run that has begun may go on with it; else it takes a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The options that decide it, and what the model demands at `resolution`."""

    demands: Demands
    resolution: int
    batch_size: int
    accumulation: int
    precision: str
    quantised_base: str | None
    checkpointing: bool
    offload: bool
    cache_latents: bool
    optimizer: str
    ema: bool
    trains_text: bool
    doubles: bool
    """A class picture rides beside each picture."""

    @property
    def at_once(self) -> int:
        """Pictures that are computed together."""
        return self.batch_size * (2 if self.doubles else 1)


def setting_of(options: TrainOptions, demands: Demands) -> Setting:
    """The part of the options that memory depends on; `demands` are those at their resolution."""
    training = options.training
    return Setting(
        demands=demands,
        resolution=options.data.resolution,
        batch_size=training.train_batch_size,
        accumulation=training.gradient_accumulation_steps,
        precision=training.precision,
        quantised_base=training.quantised_base,
        checkpointing=training.recomputes_activations,
        offload=training.offload,
        cache_latents=options.data.cache_latents,
        optimizer=options.optimization.optimizer_kind,
        ema=options.ema.use_ema,
        trains_text=options.text_part is not None,
        doubles=options.prior.with_prior_preservation,
    )


def memory_parts(setting: Setting) -> tuple[MemoryPart, ...]:
    """The training's own, row by row; the rest of a GPU's memory is free."""
    parts = [*_base(setting), *_adapter(setting), _activations(setting)]
    parts.append(MemoryPart(name="CUDA and its libraries", size_bytes=_CONTEXT_BYTES, source="assumed"))
    slack = _SLACK_SHARE * sum(part.size_bytes for part in parts)
    parts.append(
        MemoryPart(name="what the allocator holds back", size_bytes=slack, source="assumed: a tenth of the rest")
    )
    return tuple(parts)


def needed_bytes(setting: Setting) -> float:
    """All parts together."""
    return sum(part.size_bytes for part in memory_parts(setting))


def certain_bytes(setting: Setting) -> float:
    """What must be there whatever is computed: weights, gradients and moments, without any assumption."""
    moments = MOMENT_BYTES[setting.optimizer]
    assumed = 0.0 if setting.cache_latents else setting.demands.encoding_bytes
    base = sum(part.size_bytes for part in _base(setting)) - assumed
    return base + (8 + moments) * setting.demands.adapter_parameters


def encoding_bytes(setting: Setting) -> float:
    """Before the training, with nothing else on the GPU: text encoders and VAE in float32, and a picture at work."""
    weights = 4.0 * (setting.demands.text_parameters + setting.demands.vae_parameters)
    return weights + setting.demands.encoding_bytes + _CONTEXT_BYTES


def what_to_change(setting: Setting, memory_bytes: int, *, has_bf16: bool = True) -> tuple[Change, ...]:
    """Steps until it fits, the cheapest first; one may need all of them, and all may not be enough.

    Smaller micro-batches with more accumulation, then gradient checkpointing, the VAE out of the way, half precision,
    a quantised base, 8-bit moments, layers in main memory, and at last smaller pictures.
    """
    changes: list[Change] = []
    if _fits(setting, memory_bytes):
        return ()
    for words, why, following, in_a_run in _steps(setting, half="bf16" if has_bf16 else "fp16"):
        setting = following
        changes.append(Change(words=words, why=why, needed_bytes=needed_bytes(setting), in_a_run=in_a_run))
        if _fits(setting, memory_bytes):
            break
        # The steps below begin from what this one has changed.
    return tuple(changes)


def _fits(setting: Setting, memory_bytes: int) -> bool:
    return max(needed_bytes(setting), encoding_bytes(setting)) <= FITS_SHARE * memory_bytes


def _steps(setting: Setting, *, half: str) -> Iterator[tuple[str, str, Setting, bool]]:
    """Each from the one before."""
    together = setting.batch_size * setting.accumulation
    if setting.batch_size > 1:
        setting = replace(setting, batch_size=1, accumulation=together)
        words = f"--train_batch_size 1 --gradient_accumulation_steps {together}"
        yield words, "one picture at once, the same pictures a step", setting, True
    if not setting.checkpointing:
        setting = replace(setting, checkpointing=True)
        yield "--gradient_checkpointing", "activations are computed again: about a third slower", setting, True
    if not setting.cache_latents:
        setting = replace(setting, cache_latents=True)
        yield "--cache_latents", "no VAE beside the UNet", setting, False
    if setting.precision == "no":
        setting = replace(setting, precision=half)
        yield f"--mixed_precision {half}", "half the bytes for the frozen model", setting, False
    if setting.quantised_base is None:
        setting = replace(setting, quantised_base="nf4")
        yield "--base_precision nf4", "the frozen linear layers in 4 bits; needs bitsandbytes", setting, False
    if setting.optimizer == "AdamW":
        setting = replace(setting, optimizer="AdamW8bit")
        yield "--use_8bit_adam", "moments in 8 bits; needs bitsandbytes", setting, False
    if not setting.offload:
        setting = replace(setting, offload=True)
        yield "--offload", "the UNet's layers in main memory, sent over when they compute: slow", setting, True
    for resolution in (768, 512):
        if setting.resolution > resolution:
            setting = _at_resolution(setting, resolution)
            yield f"--resolution {resolution}", "fewer activations; the LoRA learns smaller pictures", setting, False


def _at_resolution(setting: Setting, resolution: int) -> Setting:
    share = (resolution / setting.resolution) ** 2
    demands = setting.demands
    smaller = replace(
        demands,
        encoding_bytes=demands.encoding_bytes * share,
        kept_bytes=demands.kept_bytes * share,
        kept_bytes_float32=demands.kept_bytes_float32 * share,
        checkpointed_bytes=demands.checkpointed_bytes * share,
        checkpointed_bytes_float32=demands.checkpointed_bytes_float32 * share,
        recomputed_bytes=demands.recomputed_bytes * share,
    )
    return replace(setting, resolution=resolution, demands=smaller)


def _base(setting: Setting) -> Iterator[MemoryPart]:
    demands, width = setting.demands, 4 if setting.precision == "no" else 2
    kind = "float32" if width == 4 else setting.precision
    counted = "stock SDXL's shapes" if demands.is_stock else "the model's own shapes"
    if setting.quantised_base is None and setting.offload:
        size = float(demands.denoiser_parameters * width) * _AT_ONCE_SHARE
        source = "offload: at most 102 of 2,567 million numbers are there at once"
        yield MemoryPart(name=f"UNet in {kind}, in turn", size_bytes=size, source=source)
    elif setting.quantised_base is None:
        size = float(demands.denoiser_parameters * width)
        source = f"{demands.denoiser_parameters / 1e6:,.1f} million numbers x {width} bytes, by {counted}"
        yield MemoryPart(name=f"UNet in {kind}", size_bytes=size, source=source)
    else:
        each, rest = _BASE_BYTES[setting.quantised_base], _not_quantised(setting)
        yield MemoryPart(
            name=f"UNet: linear layers in {setting.quantised_base}",
            size_bytes=demands.linear_parameters * each,
            source=f"{demands.linear_parameters / 1e6:,.1f} million numbers x {each:g} bytes, by {counted}",
        )
        source = f"{rest / 1e6:,.1f} million numbers x {width} bytes"
        yield MemoryPart(name=f"UNet: the rest in {kind}", size_bytes=float(rest * width), source=source)
    if setting.trains_text:
        source = f"{demands.text_parameters / 1e6:,.1f} million numbers x {width} bytes: they are trained too"
        size = float(demands.text_parameters * width)
        yield MemoryPart(name=f"text encoders in {kind}", size_bytes=size, source=source)
    if not setting.cache_latents:
        size = 4.0 * demands.vae_parameters + demands.encoding_bytes
        source = f"no cache_latents: float32, and a picture at work ({demands.encoding_bytes / 1e9:.1f} GB, assumed)"
        yield MemoryPart(name="VAE", size_bytes=size, source=source)


def _not_quantised(setting: Setting) -> float:
    demands = setting.demands
    rest = demands.denoiser_parameters - demands.linear_parameters
    return min(rest, _AT_ONCE_SHARE * demands.denoiser_parameters) if setting.offload else rest


def _adapter(setting: Setting) -> Iterator[MemoryPart]:
    numbers, moments = setting.demands.adapter_parameters, MOMENT_BYTES[setting.optimizer]
    million = f"{numbers / 1e6:,.2f} million numbers"
    yield MemoryPart(
        name="LoRA and its gradients", size_bytes=8.0 * numbers, source=f"{million} x (4 + 4) bytes: float32 always"
    )
    yield MemoryPart(
        name=f"optimizer: {setting.optimizer}",
        size_bytes=float(moments * numbers),
        source=f"{million} x {moments} bytes",
    )
    if setting.precision != "no":
        source = f"{million} x 2 bytes: what autocast computes with"
        yield MemoryPart(name=f"LoRA in {setting.precision}", size_bytes=2.0 * numbers, source=source)
    if setting.ema:
        yield MemoryPart(name="EMA", size_bytes=4.0 * numbers, source=f"{million} x 4 bytes")
    copied = 4 + moments + (4 if setting.ema else 0)
    yield MemoryPart(
        name="copy while a checkpoint is written",
        size_bytes=float(copied * numbers),
        source=f"{million} x {copied} bytes: weights and moments; twice that where saves are slow",
    )


def _activations(setting: Setting) -> MemoryPart:
    demands, is_float32 = setting.demands, setting.precision == "no"
    if setting.checkpointing:
        kept = demands.checkpointed_bytes_float32 if is_float32 else demands.checkpointed_bytes
        how = "with gradient checkpointing"
    else:
        kept = demands.kept_bytes_float32 if is_float32 else demands.kept_bytes
        how = "without gradient checkpointing"
    # The block that is computed again, and the gradients that flow through it.
    each = kept + 2.0 * demands.recomputed_bytes
    side = setting.resolution
    return MemoryPart(
        name="activations",
        size_bytes=each * setting.at_once,
        source=f"{setting.at_once} x {each / 1e9:.2f} GB at {side} x {side} {how}: counted from the tensors that "
        "autograd keeps, attention by a fused kernel",
    )
