"""Every file of a committed checkpoint is compared with its log entry, without being loaded."""

from __future__ import annotations

import pytest

from dreambooth_resume.errors import AccessDenied, CheckpointDamaged, StorageUnavailable
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.verify import check, refs_to_verify, verify_checkpoints
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin

TENSORS = "checkpoint-2/trainer_state.safetensors"


@pytest.fixture
def storage() -> MemoryStorage:
    storage = MemoryStorage()
    attempt = begin(storage)
    attempt.commit(1)
    attempt.commit(2)
    return storage


def flipped(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def test_whole_checkpoints_have_no_problem(storage: MemoryStorage) -> None:
    told: list[tuple[int, int]] = []
    reports = verify_checkpoints(
        storage, refs_to_verify(read_log(storage)), on_file=lambda done, total: told.append((done, total))
    )
    assert [report.folder for report in reports] == ["checkpoint-1", "checkpoint-2"]
    assert not any(report.problems for report in reports)
    assert told == [(number, 6) for number in range(1, 7)]


@pytest.mark.parametrize(
    ("damage", "words"),
    [(flipped, "SHA-256 differs"), (lambda body: body[:-7], "of"), (lambda _body: b"", "has 0 of")],
)
def test_damage_is_found_and_named(storage: MemoryStorage, damage: object, words: str) -> None:
    storage.objects[TENSORS] = damage(storage.objects[TENSORS])  # type: ignore[operator]
    whole, damaged = verify_checkpoints(storage, refs_to_verify(read_log(storage)))
    assert not whole.problems
    (problem,) = damaged.problems
    assert problem.startswith("trainer_state.safetensors")
    assert words in problem


def test_a_missing_file_is_named(storage: MemoryStorage) -> None:
    del storage.objects[TENSORS]
    log = read_log(storage)
    assert verify_checkpoints(storage, refs_to_verify(log))[1].problems == ("trainer_state.safetensors is missing",)
    with pytest.raises(CheckpointDamaged, match="missing"):
        check(storage, refs_to_verify(log)[1])


@pytest.mark.parametrize("error", [AccessDenied, StorageUnavailable])
def test_a_file_that_cannot_be_read_is_not_called_damaged(storage: MemoryStorage, error: type[Exception]) -> None:
    refs = refs_to_verify(read_log(storage))

    def fail(call: str, key: str) -> None:
        if call == "digest" and key == TENSORS:
            raise error("no")

    storage.before = fail
    with pytest.raises(error):
        verify_checkpoints(storage, refs)


def test_a_checkpoint_that_training_retires_meanwhile_is_left_out(storage: MemoryStorage) -> None:
    refs = refs_to_verify(read_log(storage))
    attempt = begin(storage, "B", limit=1)
    attempt.commit(3)
    assert verify_checkpoints(storage, refs) == ()


def test_checkpoints_gone_back_over_are_verified_and_retired_ones_are_not(storage: MemoryStorage) -> None:
    begin(storage, "B", resume="1")
    assert [ref.folder for ref in refs_to_verify(read_log(storage))] == ["checkpoint-1", "checkpoint-2"]
