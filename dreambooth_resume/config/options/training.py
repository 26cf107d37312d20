"""Options: how much is trained at once, and for how long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from dreambooth_resume.config.options.declaration import SECTION_CONFIG, any_case, applied, never, refused

LARGEST_SEED = 2**64 - 1  # the key of the counter-based generator has 64 bits

_BATCH = "a step keeps its number of samples; keep train_batch_size x gradient_accumulation_steps, or start a new run"


def _no_is_a_word(value: object) -> object:
    # YAML reads `mixed_precision: no` as false.
    return "no" if value is False else value


class TrainingOptions(BaseModel):
    """Batch, length, precision, and the seed."""

    model_config = SECTION_CONFIG

    train_batch_size: Annotated[int, Field(ge=1), never(_BATCH, common=True, in_fork=True)] = 4
    """Samples that are computed at once."""

    gradient_accumulation_steps: Annotated[int, Field(ge=1), never(_BATCH, common=True, in_fork=True)] = 1
    """Batches whose gradients make up one step. More of them and a smaller train_batch_size need less memory."""

    num_train_epochs: Annotated[
        int, Field(ge=1), never("a run keeps the number of steps that its epochs made; change max_train_steps")
    ] = 1
    """Length of the run in epochs, when max_train_steps is not given: ceil(epochs x pictures x repeats / samples a
    step) steps."""

    max_train_steps: Annotated[
        int | None,
        Field(ge=1),
        applied(
            "the run, and its schedule, now end at the new step",
            common=True,
            aliases=("num_steps",),
            null_is_unset=True,
        ),
    ] = None
    """Length of the run in steps (optimizer updates); it wins over num_train_epochs. May be raised later, also after
    the run has finished."""

    seed: Annotated[
        int | None,
        Field(ge=0, le=LARGEST_SEED),
        never(
            "a run keeps its seed; leave the option out, or start a new run",
            common=True,
            null_is_unset=True,
            in_fork=True,
        ),
    ] = None
    """Decides every random draw. null: one is drawn at the first start and kept."""

    mixed_precision: Annotated[
        Literal["no", "fp16", "bf16"] | None,
        BeforeValidator(_no_is_a_word),
        any_case("no", "fp16", "bf16"),
        refused("all steps of a run are computed in one precision; start a new run", common=True),
    ] = None
    """bf16 computes the frozen model in bfloat16, for less memory and time; fp16 in float16, with a loss scaler, for
    GPUs older than Ampere. The LoRA and its optimizer stay in float32 always. null: no. fp16 was run on CPUs; on a GPU
    it was *not run*."""

    base_precision: Annotated[
        Literal["no", "nf4", "int8", "fp8"],
        BeforeValidator(_no_is_a_word),
        any_case("no", "nf4", "int8", "fp8"),
        refused("all steps of a run are computed on one base; start a new run"),
    ] = "no"
    """Keep the UNet's linear layers in fewer bits while the LoRA trains: nf4 in 4, int8 or fp8 in 8, in place of 16 or
    32. nf4 and int8 need bitsandbytes (pip install bitsandbytes). The LoRA is meant for the whole model afterwards.
    Resumes are exact, tested on a CPU; not run on a GPU so far."""

    gradient_checkpointing: Annotated[bool, applied("memory and speed change from the next step on")] = False
    """Compute activations again in the backward pass: less memory, about a third slower."""

    offload: Annotated[bool, applied("memory and speed change from the next step on")] = False
    """Keep the UNet's frozen layers in main memory, each on the GPU only while it computes: 5 GB less there in bf16.
    All of them are sent over twice for each micro-batch, and gradient_checkpointing is on, too. Same result, tested on
    a CPU; not run on a GPU so far. base_precision is faster where it is enough."""

    torch_compile: Annotated[bool, applied("the UNet is compiled from the next step on, which rounds otherwise")] = (
        False
    )
    """Compile the UNet with torch.compile, once for each shape of pictures: minutes at each start, and faster steps on
    most GPUs. Not run on a GPU so far: whether resumes stay exact there is not known. On a CPU one with dynamo_backend
    aot_eager ended in the same bytes."""

    dynamo_backend: Annotated[
        Literal["inductor", "aot_eager", "eager"],
        any_case("inductor", "aot_eager", "eager"),
        applied("the UNet is compiled so from the next step on"),
    ] = "inductor"
    """What torch_compile compiles with. inductor makes code of its own; aot_eager and eager only trace, to look for
    mistakes."""

    enable_xformers_memory_efficient_attention: Annotated[
        bool, applied("attention is computed so from the next step on")
    ] = False
    """Attention by xFormers (pip install xformers): less memory on GPUs where torch's own is slow. Not run so far:
    whether resumes stay exact with it is not known."""

    allow_tf32: Annotated[bool, applied("matrix products are computed so from the next step on")] = False
    """Let NVIDIA GPUs multiply float32 matrices in TensorFloat-32: faster, less precise."""

    @property
    def precision(self) -> Literal["no", "fp16", "bf16"]:
        """`mixed_precision`, or what it stands for when it was left out."""
        return self.mixed_precision or "no"

    @property
    def recomputes_activations(self) -> bool:
        """`gradient_checkpointing`; with `offload` always: else each layer would stay until the backward pass."""
        return self.gradient_checkpointing or self.offload

    @property
    def compiled_by(self) -> str | None:
        """`dynamo_backend`, and None for a UNet that is not compiled."""
        return self.dynamo_backend if self.torch_compile else None

    @property
    def quantised_base(self) -> Literal["nf4", "int8", "fp8"] | None:
        """`base_precision`, and None for a base in the precision of training."""
        return None if self.base_precision == "no" else self.base_precision
