"""Whatever becomes of a checkpoint's files is found when it is read."""

from __future__ import annotations

import json

import pytest
import torch

from dreambooth_resume.checkpoint.format import SavedState, from_bodies, to_blobs
from dreambooth_resume.checkpoint.reader import load_checkpoint
from dreambooth_resume.errors import AccessDenied, CheckpointDamaged, StorageUnavailable
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.home import CHECKPOINT_FILES
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin, export, same_state, state_of

pytestmark = pytest.mark.quick

FOLDER = "checkpoint-1"


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def ref(home: MemoryStorage) -> CheckpointRef:
    attempt = begin(home)
    entry = attempt.commit(1)
    attempt.commit(2)
    return ref_of(attempt.log, entry.number)


@pytest.fixture
def bodies() -> dict[str, bytes]:
    return {name: b"".join(blob.parts) for name, blob in to_blobs(state_of(3), export).items()}


def test_an_undamaged_checkpoint_loads(home: MemoryStorage, ref: CheckpointRef) -> None:
    assert same_state(load_checkpoint(home, ref), state_of(1))


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_every_flipped_bit_is_found(home: MemoryStorage, ref: CheckpointRef, name: str) -> None:
    key = f"{FOLDER}/{name}"
    whole = home.objects[key]
    for position in range(len(whole)):
        for bit in range(8) if position % 7 == 0 else (position % 8,):
            home.objects[key] = whole[:position] + bytes([whole[position] ^ (1 << bit)]) + whole[position + 1 :]
            with pytest.raises(CheckpointDamaged, match="SHA-256"):
                load_checkpoint(home, ref)


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_every_cut_or_lengthened_or_emptied_file_is_found(home: MemoryStorage, ref: CheckpointRef, name: str) -> None:
    key = f"{FOLDER}/{name}"
    whole = home.objects[key]
    for wrong in (b"", whole + b"\0", *(whole[:size] for size in range(1, len(whole), 13)), whole[:-1]):
        home.objects[key] = wrong
        with pytest.raises(CheckpointDamaged, match=f"{name} has {len(wrong)} of {len(whole)} bytes"):
            load_checkpoint(home, ref)


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_every_missing_file_is_found(home: MemoryStorage, ref: CheckpointRef, name: str) -> None:
    del home.objects[f"{FOLDER}/{name}"]
    with pytest.raises(CheckpointDamaged, match=f"{name} is missing"):
        load_checkpoint(home, ref)


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_file_swapped_with_another_checkpoints_is_found(home: MemoryStorage, ref: CheckpointRef, name: str) -> None:
    home.objects[f"{FOLDER}/{name}"] = home.objects[f"checkpoint-2/{name}"]
    with pytest.raises(CheckpointDamaged):
        load_checkpoint(home, ref)


def test_a_whole_folder_swapped_with_another_checkpoints_is_found(home: MemoryStorage, ref: CheckpointRef) -> None:
    for name in CHECKPOINT_FILES:
        home.objects[f"{FOLDER}/{name}"] = home.objects[f"checkpoint-2/{name}"]
    with pytest.raises(CheckpointDamaged):
        load_checkpoint(home, ref)


@pytest.mark.parametrize("error", [AccessDenied("403"), StorageUnavailable("503")])
def test_a_store_that_does_not_answer_is_no_damage(home: MemoryStorage, ref: CheckpointRef, error: Exception) -> None:
    def answer(_call: str, _key: str) -> None:
        raise error

    home.before = answer
    with pytest.raises(type(error)):
        load_checkpoint(home, ref)


def test_an_entry_that_names_another_step_than_its_files_is_damage(home: MemoryStorage, ref: CheckpointRef) -> None:
    with pytest.raises(CheckpointDamaged, match="step 1, the log entry says 2"):
        load_checkpoint(home, ref.model_copy(update={"step": 2}))


# Without a log entry, as a stage is judged: by the state file's own digests


def test_a_stage_without_an_entry_is_judged_by_its_own_digests(bodies: dict[str, bytes]) -> None:
    assert same_state(from_bodies(bodies), state_of(3))
    for name in CHECKPOINT_FILES:
        whole = bodies[name]
        for position in range(0, len(whole), 3):
            changed = whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :]
            with pytest.raises(CheckpointDamaged):
                from_bodies({**bodies, name: changed})
        for wrong in (b"", b"null", b"[]", b"{}", whole[:-1], whole + b"\0"):
            with pytest.raises(CheckpointDamaged):
                from_bodies({**bodies, name: wrong})


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_stage_with_a_file_missing_or_of_another_step_is_damaged(bodies: dict[str, bytes], name: str) -> None:
    other = {name: b"".join(blob.parts) for name, blob in to_blobs(state_of(4), export).items()}
    for wrong in ({**bodies, name: other[name]}, {key: body for key, body in bodies.items() if key != name}):
        with pytest.raises(CheckpointDamaged):
            from_bodies(wrong)


def test_the_state_file_holds_nothing_of_the_attempt_or_the_day(home: MemoryStorage, bodies: dict[str, bytes]) -> None:
    begin(home, "A")
    begin(home, "B").commit(3)
    for name in CHECKPOINT_FILES:
        assert home.objects[f"checkpoint-3-a2/{name}"] == bodies[name]
    assert set(json.loads(bodies["trainer_state.json"])) == {"step", "scalars", "files", "sha256"}


def test_every_scalar_comes_back_as_it_was() -> None:
    scalars = {"loss": 0.1 + 0.2, "tiny": 5e-324, "nan": float("inf"), "name": "ünï", "none": None, "steps": 2**60}
    state = SavedState(step=1, tensors={"lora.w": torch.zeros(1)}, scalars=scalars)
    bodies = {name: b"".join(blob.parts) for name, blob in to_blobs(state, export).items()}
    assert from_bodies(bodies).scalars == scalars
