"""A hand by itself: what it answers where its GPU has too little memory."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any, cast

import pytest
import torch
from accelerate.state import AcceleratorState

from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.training.batches import Share
from dreambooth_resume.training.exchange import Answer, Order, Rows, count_of, write
from dreambooth_resume.training.hand import _Hand
from tests.fakes.memory_storage import MemoryStorage
from tests.unit.training.test_step import build_model, make_batch


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class ShortRow(torch.Tensor):
    """A row for whose transfer the device has no memory left, in one direction."""

    fails_at: str

    def to(self, *_words: Any, **_options: Any) -> Any:
        return self._fail("to")

    def copy_(self, *_words: Any, **_options: Any) -> Any:
        return self._fail("copy_")

    def _fail(self, where: str) -> torch.Tensor:
        if where == self.fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize(("short", "fails_at"), [(None, ""), (0, "to"), (1, "copy_")])
def test_too_little_memory_for_a_transfer_is_answered_like_that_for_a_pass(
    short: int | None, fails_at: str, tiny_source: ModelSource
) -> None:
    model = build_model(tiny_source, LoraSpec(rank=2, alpha=2))
    rows = Rows(2, count_of(model.parameters))
    write(rows[0], list(model.parameters.values()))
    seen = [rows[0], rows[1]]
    if short is not None:
        row = seen[short].as_subclass(ShortRow)
        row.fails_at = fails_at
        seen[short] = row
    ours, theirs = Pipe()
    hand = _Hand(connection=theirs, storage=MemoryStorage(), share=Share(process=1, processes=2))
    ours.send("the next words")
    order = Order(serial=3, step=0, micro_batch_size=2, loss_scale=1.0)
    assert hand._carry_out(order, model, make_batch(0), cast(Rows, seen)) == "the next words"
    answer = ours.recv()
    assert isinstance(answer, Answer)
    assert (answer.serial, answer.loss is None) == (3, short is not None)
    assert not any(one.grad is not None for one in model.parameters.values())
    assert bool(rows[1].any()) is (short is None)
