"""What is called a jump at a resume, and what the log explains: on real log entries and made-up measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dreambooth_resume.insight.continuity import Joint, check_joints
from dreambooth_resume.runs.curves import CurvePoint
from dreambooth_resume.runs.entries import Adopt, ChangedOption, Segment
from dreambooth_resume.runs.history import read_history
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.status import Resumed
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin

pytestmark = pytest.mark.quick


@pytest.fixture
def home() -> MemoryStorage:
    """Attempt 1 committed step 2 and was lost; attempt 2 went on from there."""
    home = MemoryStorage()
    first = begin(home, "A")
    first.commit(1)
    first.commit(2)
    begin(home, "B").commit(3)
    return home


def points(attempt: int, steps: range, **changed: float) -> list[CurvePoint]:
    """With the changes in the last one."""
    found = [
        CurvePoint(step=step, attempt=attempt, loss=step / 10, learning_rate=1e-4, grad_norm=1.0, samples=step)
        for step in steps
    ]
    return [*found[:-1], replace(found[-1], **changed)]  # type: ignore[arg-type]


def joint(
    home: MemoryStorage,
    after: Sequence[CurvePoint],
    *,
    resumed: Resumed | None = None,
    log: Log | None = None,
    rate: float = 1e-4,
) -> Joint:
    from dreambooth_resume.runs.log import read_log

    (found,) = check_joints(
        log or read_log(home),
        read_history(home),
        {1: points(1, range(1, 5)), 2: after},
        {2: resumed} if resumed else {},
        rate_at=lambda _attempt, _step: rate,
    )
    return found


def kinds(found: Joint) -> list[str]:
    return [jump.kind for jump in found.jumps]


def changed_adopt(home: MemoryStorage, **changed: object) -> Log:
    """The log with something else in attempt 2's adopt; its state, too, where that is named."""
    from dreambooth_resume.runs.log import read_log

    entries = list(read_log(home).entries)
    place = next(one for one, entry in enumerate(entries) if isinstance(entry.body, Adopt) and entry.attempt == 2)
    entry = entries[place]
    state = entry.state.model_copy(update={"segments": changed.pop("segments", ())})
    entries[place] = entry.model_copy(update={"body": entry.body.model_copy(update=dict(changed)), "state": state})
    return Log(tuple(entries))


def test_the_same_bits_are_no_jump(home: MemoryStorage) -> None:
    found = joint(home, points(2, range(3, 5)))
    assert (found.attempt, found.step, found.compared, found.is_exact) == (2, 2, 2, True)
    assert found.jumps == ()


@pytest.mark.parametrize(
    ("steps", "changed", "kind", "cause"),
    [
        (range(3, 4), {"loss": 0.9}, "weights", "the weights are not those of the checkpoint"),
        (range(3, 4), {"loss": 0.30001}, "weights", "a kernel that does not give the same bits"),
        (range(3, 4), {"grad_norm": 2.0}, "gradient", "the backward pass is another"),
        (range(3, 5), {"loss": 0.9}, "update", "the optimizer's state is missing"),
        (range(3, 4), {"samples": 77}, "samples", "the seed, a picture, a caption or a cached latent"),
    ],
)
def test_what_differs_in_a_redone_step_is_a_jump_with_its_likely_cause(
    steps: range, changed: dict[str, float], kind: str, cause: str, home: MemoryStorage
) -> None:
    found = joint(home, points(2, steps, **changed))
    assert kinds(found) == [kind]
    assert found.jumps[0].step == steps[-1]
    assert found.jumps[0].cause.startswith(cause)
    assert found.jumps[0].fix


def test_steps_that_do_not_follow_on_are_a_jump(home: MemoryStorage) -> None:
    found = joint(home, points(2, range(5, 7)))
    assert kinds(found) == ["step"]
    assert str(found.jumps[0]).startswith("step 5: it follows on step 2.")


def test_a_rate_that_is_not_the_schedules_is_a_jump(home: MemoryStorage) -> None:
    found = joint(home, points(2, range(5, 7)), rate=2e-4)
    assert "learning rate 0.0001, and the schedule says 0.0002" in [jump.what for jump in found.jumps]


def test_what_the_attempt_saw_itself_is_a_jump(home: MemoryStorage) -> None:
    good = Resumed(step=2, epoch=1, sample=0, epoch_length=4, batch_size=2)
    assert kinds(joint(home, points(2, range(3, 5)), resumed=good)) == []
    bad = good.model_copy(update={"state": "optimizer.exp_avg.0 is missing in the checkpoint", "sample": 3})
    assert kinds(joint(home, points(2, range(3, 5)), resumed=bad)) == ["state", "data position"]


def test_another_machine_explains_rounding_and_no_more(home: MemoryStorage) -> None:
    log = changed_adopt(home, not_exact_because=("torch_threads 1 -> 2",))
    rounded = joint(home, points(2, range(3, 5), loss=0.4001), log=log)
    assert rounded.jumps == ()
    assert rounded.expected == ("another machine (torch_threads 1 -> 2)",)
    assert kinds(joint(home, points(2, range(3, 5), loss=0.9), log=log)) == ["update"]


@pytest.mark.parametrize(
    "changed",
    [
        {"changes": (ChangedOption(name="snr_gamma", before=None, after=5.0, policy="applied"),)},
        {"segments": (Segment(from_step=2, fingerprint="f", prompt="a photo"),)},
    ],
)
def test_what_was_changed_on_purpose_explains_other_losses_and_norms(
    changed: dict[str, object], home: MemoryStorage
) -> None:
    log = changed_adopt(home, **changed)
    assert joint(home, points(2, range(3, 5), loss=0.9), log=log).jumps == ()
    assert joint(home, points(2, range(3, 4), grad_norm=7.0), log=log).jumps == ()


def test_an_attempt_that_was_killed_before_its_staged_state_was_committed_has_no_jump(home: MemoryStorage) -> None:
    staged = Resumed(step=4, epoch=2, sample=0, epoch_length=4, batch_size=2)
    found = joint(home, points(2, range(5, 7)), resumed=staged)
    assert (found.step, found.jumps) == (4, ())


def test_other_pictures_and_a_changed_rate_are_explained_by_the_log(home: MemoryStorage) -> None:
    segments = (Segment(from_step=2, fingerprint="f", prompt="a photo"),)
    assert joint(home, points(2, range(3, 5), samples=77), log=changed_adopt(home, segments=segments)).jumps == ()
    change = ChangedOption(name="learning_rate", before=1e-4, after=2e-4, policy="applied")
    log = changed_adopt(home, changes=(change,))
    found = joint(home, [replace(one, learning_rate=2e-4) for one in points(2, range(3, 5))], log=log, rate=2e-4)
    assert found.jumps == ()
    assert found.expected == ("learning_rate was changed",)
