"""What a launch leaves in the home: enough to start it again anywhere, and nothing that nobody started."""

from __future__ import annotations

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.record import forget_launch, read_launch, read_launches, write_launch, write_started
from dreambooth_resume.runs.notes import post_note, read_notes
from tests.fakes.memory_storage import MemoryStorage

ID = "0123456789abcdef0123456789abcdef"


def written(storage: MemoryStorage, launch_id: str = ID) -> None:
    write_launch(
        storage, launch_id, launcher="aws", settings={"region": "eu-west-1", "on_demand": False}, words=("--rank", "8"),
        version="0.1.0",
    )  # fmt: skip


def test_a_launch_comes_back_as_it_was_with_its_job() -> None:
    storage = MemoryStorage()
    written(storage)
    assert read_launch(storage, ID).job is None
    job = Job(name="dbr-dog-01234567", values={"group": "dbr-dog-01234567"})
    write_started(storage, ID, launcher="aws", job=job)
    (launch,) = read_launches(storage)
    assert (launch.id, launch.launcher, launch.words, launch.version) == (ID, "aws", ("--rank", "8"), "0.1.0")
    assert launch.settings == {"region": "eu-west-1", "on_demand": False}
    assert launch.job == job


def test_a_launch_that_was_taken_back_is_gone() -> None:
    storage = MemoryStorage()
    written(storage)
    forget_launch(storage, ID)
    assert read_launches(storage) == ()
    with pytest.raises(BadInput, match="no such launch"):
        read_launch(storage, ID)


def test_an_evaluation_is_no_launch_of_the_training() -> None:
    storage, other = MemoryStorage(), "f" * 32
    written(storage)
    write_launch(storage, other, launcher="slurm", settings={}, words=("--steps=all",), version="1", purpose="eval")
    write_started(storage, other, launcher="slurm", job=Job(name="Slurm job 7"))
    assert [launch.id for launch in read_launches(storage)] == [ID]
    (evaluation,) = read_launches(storage, "eval")
    assert (evaluation.id, evaluation.purpose, evaluation.words) == (other, "eval", ("--steps=all",))
    assert evaluation.job == Job(name="Slurm job 7")
    assert [read_launch(storage, one).purpose for one in (ID, other)] == ["train", "eval"]
    # An earlier release looks for notes of this kind, and must not take the evaluation for the training either.
    assert [note.nonce for note in read_notes(storage, "launch")] == [ID]
    forget_launch(storage, other, purpose="eval")
    assert read_launches(storage, "eval") == ()


def test_what_other_programs_left_among_the_notes_is_passed_over() -> None:
    storage = MemoryStorage()
    written(storage)
    post_note(storage, "launch", "of a later release", values={"launcher": 7})
    post_note(storage, "launched", "of a later release", values={})
    post_note(storage, "score", "CLIP-I", values={"launcher": "aws"})
    storage.write("notes/launch-x.json", [b"{"])
    assert [launch.id for launch in read_launches(storage)] == [ID]
