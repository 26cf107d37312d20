"""How a batch is cut when memory runs out, and what later attempts make of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.runs.entries import SmallerMicroBatch
from dreambooth_resume.training.memory import (
    PAUSE_SECONDS,
    Portions,
    is_out_of_memory,
    micro_batch_size,
    what_to_change,
    with_enough_memory,
)

pytestmark = pytest.mark.quick


def portions(size: int, effective_batch: int) -> Portions:
    return Portions(
        size=size, effective_batch=effective_batch, batches_of=NotImplemented, device_memory_bytes=None, advice=""
    )


@pytest.mark.parametrize(
    ("size", "effective_batch", "sizes"), [(8, 8, [4, 2, 1]), (6, 12, [3, 1]), (5, 5, [1]), (9, 9, [3, 1]), (1, 4, [])]
)
def test_micro_batches_are_halved_to_what_divides_the_batch(size: int, effective_batch: int, sizes: list[int]) -> None:
    one, seen = portions(size, effective_batch), []
    while one.halve():
        seen.append(one.size)
    assert seen == sizes
    assert one.size == 1


def test_a_device_with_more_memory_computes_as_many_at_once_as_asked() -> None:
    smaller = SmallerMicroBatch(size=2, from_step=7, attempt=1, device_memory_bytes=24)
    assert micro_batch_size(8, None, memory_bytes=24) == 8
    assert micro_batch_size(8, smaller, memory_bytes=24) == 2
    assert micro_batch_size(8, smaller, memory_bytes=16) == 2
    assert micro_batch_size(8, smaller, memory_bytes=80) == 8
    assert micro_batch_size(8, smaller, memory_bytes=None) == 2
    assert micro_batch_size(1, smaller, memory_bytes=24) == 1


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("more", "advice"),
    [
        ([], "with --gradient_checkpointing (slower, same result) goes on"),
        (["--gradient_checkpointing"], "with --offload (much slower, same result) goes on"),
        (["--offload"], "A new run needs less"),
    ],
)
def test_what_this_run_may_go_on_with_is_named_before_what_needs_a_new_one(more: list[str], advice: str) -> None:
    words = "--pretrained_model_name_or_path model --instance_data_dir pictures --instance_prompt dog".split()
    said = what_to_change(resolve(parse_train([*words, *more]), recorded=None))
    assert advice in said
    assert said.startswith("A new run") == (more == ["--offload"])


def test_too_little_memory_before_the_first_step_is_tried_once_more_and_says_what_needs_less() -> None:
    words = "--pretrained_model_name_or_path model --instance_data_dir pictures --instance_prompt dog".split()
    prior = "--with_prior_preservation --class_data_dir dogs --class_prompt dog".split()
    options = resolve(parse_train([*words, *prior]), recorded=None)
    told: list[str] = []
    waits: list[float] = []

    def make(*errors: str) -> Callable[[], str]:
        left = list(errors)

        def made() -> str:
            if left:
                raise RuntimeError(left.pop(0))
            return "made"

        return made

    def having(*errors: str) -> str:
        return with_enough_memory(make(*errors), options, tell=told.append, wait=waits.append)

    short = "DefaultCPUAllocator: can't allocate memory. Buy more"
    assert having() == "made"
    assert (told, waits) == ([], [])
    assert having(short) == "made"
    assert told == [
        "Out of memory before the first step (DefaultCPUAllocator: can't allocate memory). Once more in 30 s."
    ]
    assert waits == [PAUSE_SECONDS]
    with pytest.raises(RefusedToGoOn, match="Before the first step: out of memory twice") as ended:
        having(short, short)
    assert "--sample_batch_size" in str(ended.value)
    assert "--gradient_checkpointing" in str(ended.value)
    with pytest.raises(RuntimeError, match="shapes"):
        having(short, "mat1 and mat2 shapes cannot be multiplied")
