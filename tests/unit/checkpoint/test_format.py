"""What a checkpoint's files hold: each tensor once, and how those of the first format are read."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch

from dreambooth_resume.checkpoint.commit import Committer
from dreambooth_resume.checkpoint.format import ExportWeights, SavedState, from_bodies, to_blobs
from dreambooth_resume.checkpoint.reader import load_checkpoint
from dreambooth_resume.checkpoint.snapshot import Snapshotter
from dreambooth_resume.checkpoint.tensors import deserialise, serialise
from dreambooth_resume.errors import CheckpointDamaged
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import sealed, unsealed
from dreambooth_resume.runs.home import STATE_TENSORS_NAME, WEIGHTS_NAME, log_key
from dreambooth_resume.runs.log import read_log
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import ToyState, begin, check_finished, export, run_to_the_end, same_state, state_of

pytestmark = pytest.mark.quick

Exported = tuple[Mapping[str, torch.Tensor], Mapping[str, str]]


def bodies_of(state: SavedState, export_weights: ExportWeights) -> dict[str, bytes]:
    return {name: b"".join(blob.parts) for name, blob in to_blobs(state, export_weights).items()}


def copying(tensors: Mapping[str, torch.Tensor]) -> Exported:
    """As `export`, but what it gives is something that was made of the state, for all that anybody can know."""
    return {"unet.w": tensors["lora.w"].clone()}, {"format": "pt"}


def test_what_the_weights_file_holds_is_not_stored_twice() -> None:
    state = state_of(3)
    bodies = bodies_of(state, export)
    assert list(deserialise(bodies[WEIGHTS_NAME])) == ["unet.w"]
    assert list(deserialise(bodies[STATE_TENSORS_NAME])) == ["optimizer.w.step"]
    assert same_state(from_bodies(bodies), state)


def averaged(tensors: Mapping[str, torch.Tensor]) -> Exported:
    return {"unet.w": tensors["lora.w"] / 2}, {}


def halved(tensors: Mapping[str, torch.Tensor]) -> Exported:
    return {"unet.w": tensors["lora.w"].half()}, {}


def turned(tensors: Mapping[str, torch.Tensor]) -> Exported:
    return {"unet.w": tensors["lora.w"].T}, {}


def in_part(tensors: Mapping[str, torch.Tensor]) -> Exported:
    return {"unet.w": tensors["lora.w"][:1]}, {}


@pytest.mark.parametrize("export_weights", [copying, averaged, halved, turned, in_part])
def test_masters_that_the_weights_file_does_not_hold_as_they_are_stay_in_the_state(
    export_weights: ExportWeights,
) -> None:
    state = state_of(3)
    bodies = bodies_of(state, export_weights)
    assert "lora.w" in deserialise(bodies[STATE_TENSORS_NAME])
    assert same_state(from_bodies(bodies), state)


def test_only_those_that_are_held_as_they_are_are_left_out() -> None:
    tensors = {"lora.a": torch.randn(3), "lora.b": torch.randn(4), "lora.empty": torch.zeros(0), "ema.a": torch.ones(3)}
    state = SavedState(step=1, tensors=tensors, scalars={})
    bodies = bodies_of(state, lambda own: ({"a": own["lora.a"], "b": own["lora.b"] * 2, "empty": torch.zeros(0)}, {}))
    assert deserialise(bodies[STATE_TENSORS_NAME]).keys() == {"lora.b", "lora.empty", "ema.a"}
    assert same_state(from_bodies(bodies), state)


def test_views_of_one_snapshot_are_found_in_it() -> None:
    """As a snapshot has them: neighbours in one piece of memory."""
    a, b, c = torch.split(torch.randn(12), 4)
    state = SavedState(step=1, tensors={"lora.a": a, "lora.b": b.view(2, 2), "optimizer.a": c}, scalars={})
    bodies = bodies_of(state, lambda own: ({"x": own["lora.b"].detach(), "y": own["lora.a"].detach()}, {}))
    assert list(deserialise(bodies[STATE_TENSORS_NAME])) == ["optimizer.a"]
    assert same_state(from_bodies(bodies), state)


def test_a_state_whose_weights_lack_what_it_refers_to_is_damaged() -> None:
    """Two files that are whole, each by itself, but of different adapters."""
    state = state_of(3)
    bodies = bodies_of(state, export)
    facts = json.loads(bodies["trainer_state.json"])
    other = b"".join(serialise({"unet.another": torch.zeros(2)}, {}).parts)
    with pytest.raises(CheckpointDamaged):
        from_bodies({**bodies, WEIGHTS_NAME: other})
    assert facts["files"].keys() == {WEIGHTS_NAME, STATE_TENSORS_NAME}


# States that lie in one place one after the other


class CountedExport:
    """An export that says how often it was asked."""

    def __init__(self, export_weights: ExportWeights) -> None:
        self.times = 0
        self._export_weights = export_weights

    def __call__(self, tensors: Mapping[str, torch.Tensor]) -> Exported:
        self.times += 1
        return self._export_weights(tensors)


def saved_one_after_the_other(export_weights: ExportWeights, steps: range) -> list[dict[str, bytes]]:
    """The files of each step, all of them snapshots in the same memory."""
    live = ToyState(steps[0])
    snapshotter = Snapshotter(live)
    saved = []
    for step in steps:
        live.train_to(step)
        snapshot = snapshotter.take()
        saved.append(bodies_of(snapshot.to_saved_state(), export_weights))
        snapshotter.give_back(snapshot)
    return saved


def test_files_in_one_place_are_worked_out_once_and_hold_the_bytes_of_each_step() -> None:
    counted = CountedExport(export)
    saved = saved_one_after_the_other(counted, range(1, 5))
    assert counted.times == 1
    assert saved == [bodies_of(state_of(step), export) for step in range(1, 5)]


@pytest.mark.parametrize("export_weights", [copying, averaged, halved, turned])
def test_files_for_which_something_is_computed_are_worked_out_at_every_save(export_weights: ExportWeights) -> None:
    saved = saved_one_after_the_other(export_weights, range(1, 4))
    assert saved == [bodies_of(state_of(step), export_weights) for step in range(1, 4)]


# Format 1


def made_by_the_first_format(home: MemoryStorage, *, steps: int) -> None:
    """A home as it was then: every tensor of the state in its own file, and 1 in every log entry."""
    attempt = begin(home)
    attempt.committer = Committer(
        home,
        attempt.adopted.writer,
        export_weights=copying,
        flush_metrics=lambda _step: None,
        total_limit=None,
        max_train_steps=attempt.max_train_steps,
    )
    for step in range(1, steps + 1):
        attempt.commit(step)
        whole = b"".join(serialise(state_of(step).tensors, {"format": "pt"}).parts)
        assert home.objects[f"checkpoint-{step}/{STATE_TENSORS_NAME}"] == whole
    for entry in attempt.log.entries:
        key = log_key(entry.number)
        home.objects[key] = sealed({**unsealed(home.objects[key]), "format": 1})


def test_a_checkpoint_of_the_first_format_loads() -> None:
    home = MemoryStorage()
    made_by_the_first_format(home, steps=2)
    log = read_log(home)
    assert {entry.format for entry in log.entries} == {1}
    for number in log.line:
        ref = ref_of(log, number)
        assert same_state(load_checkpoint(home, ref), state_of(ref.step))


def test_a_run_of_the_first_format_goes_on_and_ends_as_any_other() -> None:
    home = MemoryStorage()
    made_by_the_first_format(home, steps=2)
    run_to_the_end(home, "B")
    assert [entry.format for entry in read_log(home).entries][:4] == [1, 1, 1, 2]
    check_finished(home)
