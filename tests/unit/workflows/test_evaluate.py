"""An evaluation beside a training, which retires checkpoints as it goes on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dreambooth_resume.checkpoint.reader import load_checkpoint
from dreambooth_resume.errors import CheckpointDamaged
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.workflows.evaluate import while_it_trains
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin

pytestmark = pytest.mark.quick


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def steps_read(storage: MemoryStorage, log: Log, told: list[str]) -> list[int] | None:
    """The steps of the checkpoints that `log` has, as far as they can be read now."""

    def read(_log: Log, refs: Sequence[CheckpointRef]) -> list[int]:
        return [load_checkpoint(storage, ref).step for ref in refs]

    assert log.last is not None
    refs = [ref_of(log, live.number) for live in log.last.state.live]
    return while_it_trains(storage, log, refs, read, tell=told.append)


def test_a_checkpoint_that_is_retired_meanwhile_is_left_out_and_said(storage: MemoryStorage) -> None:
    told: list[str] = []
    attempt = begin(storage, limit=2)
    attempt.commit(1)
    attempt.commit(2)
    seen = read_log(storage)
    assert steps_read(storage, seen, told) == [1, 2]
    assert told == []
    attempt.commit(3)
    assert steps_read(storage, seen, told) == [2]
    assert told == ["checkpoint-1: left out, because the run has retired it meanwhile."]
    attempt.commit(4)
    assert steps_read(storage, seen, told) is None


def test_one_that_is_damaged_is_an_error(storage: MemoryStorage) -> None:
    begin(storage).commit(1)
    storage.objects["checkpoint-1/pytorch_lora_weights.safetensors"] = b"torn"
    with pytest.raises(CheckpointDamaged):
        steps_read(storage, read_log(storage), [])
