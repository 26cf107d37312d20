"""Does a run go on after each resume as if nothing had been? Judged from the log, the metrics and the heartbeats alone.

Steps that two attempts made are compared value by value. In an exact resume they are the same bits; where the log says
why they can't be (another machine, a changed option, other pictures), only what that doesn't explain is a jump.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dreambooth_resume.insight.differences import (
    StepDifference,
    compared_steps,
    first_difference,
    relative_difference,
)
from dreambooth_resume.runs.curves import CurvePoint
from dreambooth_resume.runs.entries import Adopt, Commit, Entry
from dreambooth_resume.runs.history import STAGED_REASON, Attempt
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.status import Resumed

Kind = Literal["step", "learning rate", "data position", "state", "samples", "weights", "gradient", "update"]
_SCHEDULE_ROUNDING = 1e-9
_LAST_BITS = 1e-3
"""Up to such a share of a value, other last bits are what made the difference."""

_OTHER_MACHINE = "another machine"
_SHORT_MEMORY = "smaller micro-batches, since memory ran out"
"""Both round otherwise and do no more; every other reason may change what a step makes."""

_VERIFY = "dbr verify-resume with the run's options shows whether this machine resumes exactly"
_GO_BACK = (
    "go back to before it with --resume STEP if it matters (dbr checkpoints list HOME shows the steps), and report it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """Something that did not go on as it was, where nothing in the log says that it should not."""

    kind: Kind
    step: int
    what: str
    cause: str
    fix: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.what}. Likely cause: {self.cause}. What to do: {self.fix}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Where an attempt went on from the one before. `compared` steps were made by both."""

    attempt: int
    step: int
    compared: int
    is_exact: bool
    """Nothing in the log explains a difference, so there may be none."""
    expected: tuple[str, ...]
    jumps: tuple[Jump, ...]


def check_joints(
    log: Log,
    history: Sequence[Attempt],
    values: Mapping[int, Sequence[CurvePoint]],
    resumed: Mapping[int, Resumed],
    *,
    rate_at: Callable[[int, int], float | None],
) -> tuple[Joint, ...]:
    """Every joint of the run, oldest first. `rate_at(attempt, step)` is the schedule's rate of the update `step`.

    `resumed` are what attempts said of themselves. Attempts of which no step is known have no joint.
    """
    joints: list[Joint] = []
    trained = [one for one in history if one.ending not in ("command", "retried") and values.get(one.number)]
    for attempt in trained[1:]:
        begun_at = first_step(log, attempt, resumed.get(attempt.number))
        points = values[attempt.number]
        before = made_before(values, attempt.number, above_step=begun_at)
        expected = explained(log, attempt.number, before)
        rounded = bool(expected)
        difference = first_difference(before, points, base_step=begun_at, rounded=rounded)
        found = [
            _step_jump(points, begun_at),
            _rate_jump(attempt.number, points, rate_at),
            *_told_jumps(log, resumed.get(attempt.number)),
            None if difference is None else jump_of(difference, expected),
        ]
        joints.append(
            Joint(
                attempt=attempt.number,
                step=begun_at,
                compared=compared_steps(before, points),
                is_exact=not expected,
                expected=expected,
                jumps=tuple(jump for jump in found if jump is not None),
            )
        )
    return tuple(joints)


def first_step(log: Log, attempt: Attempt, resumed: Resumed | None) -> int:
    """The step whose state an attempt trained on from: what was staged, or else the checkpoint that it adopted.

    What it said itself goes first: killed before what was staged was committed, the log doesn't know of it.
    """
    if resumed is not None:
        return resumed.step
    own = (entry.body for entry in log.entries if entry.attempt == attempt.number and isinstance(entry.body, Commit))
    first = next(own, None)
    is_staged = first is not None and first.reason.startswith(STAGED_REASON)
    return first.step if first is not None and is_staged else attempt.base_step


def made_before(values: Mapping[int, Sequence[CurvePoint]], attempt: int, *, above_step: int) -> list[CurvePoint]:
    """What earlier attempts measured of the steps above `above_step`: of each step the newest."""
    newest: dict[int, CurvePoint] = {}
    for number, points in sorted(values.items()):
        if number < attempt:
            newest.update({point.step: point for point in points if point.step > above_step})
    return [newest[step] for step in sorted(newest)]


def explained(
    log: Log, attempt: int, before: Sequence[CurvePoint], *, ran_out_of_memory: bool = False
) -> tuple[str, ...]:
    """Why the log says that steps need not be what they were: all that came up since `before` was measured.

    `ran_out_of_memory`: this attempt did, which the log may not know yet.
    """
    since = min((point.attempt for point in before), default=attempt)
    adopts = {entry.attempt: entry for entry in log.entries if isinstance(entry.body, Adopt)}
    if attempt not in adopts or since not in adopts:
        return ()
    then, now = _numerics(adopts[since]), _numerics(adopts[attempt])
    reasons = [f"{_OTHER_MACHINE} ({', '.join(sorted(then ^ now))})"] if then != now else []
    for number in range(since + 1, attempt + 1):
        if (entry := adopts.get(number)) is not None:
            reasons += _reasons(log, entry)
    memory = [_memory(log, number) for number in (since, attempt)]
    if ran_out_of_memory or memory[0] != memory[1]:
        reasons.append(_SHORT_MEMORY)
    return tuple(dict.fromkeys(reasons))


def jump_of(difference: StepDifference, expected: Sequence[str]) -> Jump | None:
    """The jump that a difference is; None if the log explains it."""
    part = difference.part
    if any(reason != _SHORT_MEMORY and not reason.startswith(_OTHER_MACHINE) for reason in expected):
        return None
    if part in ("samples", "learning rate") and expected:
        return None
    if part == "learning rate":
        return Jump(
            kind="learning rate", step=difference.step,
            what=f"learning rate {difference.after:.4g}, and {difference.before:.4g} when it was made before",
            cause="an option of the schedule was changed outside of dbr, or another release computes it otherwise",
            fix="compare dbr --version on both machines; run.json has the options",
        )  # fmt: skip
    if part == "samples":
        return Jump(
            kind="samples", step=difference.step,
            what="it trained on other samples than when it was made before",
            cause="the seed, a picture, a caption or a cached latent in the home was changed, or another release draws "
            "otherwise",
            fix="compare the home with a copy of it, and dbr --version on both machines",
        )  # fmt: skip
    kind: Kind = part
    return Jump(kind=kind, step=difference.step, what=_what(difference), cause=_cause(difference), fix=_fix(difference))


def _what(difference: StepDifference) -> str:
    return (
        f"{difference.what} {difference.after!r}, and {difference.before!r} when it was made before "
        f"({difference.relative:.2g} of it apart)"
    )


def _cause(difference: StepDifference) -> str:
    is_rounding = difference.relative <= _LAST_BITS
    if difference.part == "weights" and not is_rounding:
        return "the weights are not those of the checkpoint, the base model is another, or the precision"
    if difference.part == "update":
        return "the optimizer's state is missing or not that of the checkpoint"
    if difference.part == "gradient" and not is_rounding:
        return "the backward pass is another: precision, gradient checkpointing or hardware"
    return "a kernel that does not give the same bits each time, or hardware whose difference the run doesn't know of"


def _fix(difference: StepDifference) -> str:
    return _VERIFY if difference.relative <= _LAST_BITS else _GO_BACK


def _step_jump(points: Sequence[CurvePoint], begun_at: int) -> Jump | None:
    """Steps follow on, one by one, from the state that was loaded."""
    expected = begun_at + 1
    for point in points:
        if point.step != expected:
            return Jump(
                kind="step", step=point.step, what=f"it follows on step {expected - 1}",
                cause="the checkpoint is not of the step that the log says, or lines of metrics/ are lost",
                fix="dbr checkpoints verify HOME reads the checkpoints back",
            )  # fmt: skip
        expected += 1
    return None


def _rate_jump(attempt: int, points: Sequence[CurvePoint], rate_at: Callable[[int, int], float | None]) -> Jump | None:
    for point in points:
        wanted = rate_at(attempt, point.step - 1)
        if wanted is None or point.learning_rate is None:
            continue
        if relative_difference(wanted, point.learning_rate) > _SCHEDULE_ROUNDING:
            return Jump(
                kind="learning rate", step=point.step,
                what=f"learning rate {point.learning_rate:.4g}, and the schedule says {wanted:.4g}",
                cause="run.json or the log was changed, or another release computes the schedule otherwise",
                fix="compare dbr --version with that of the attempt's machine",
            )  # fmt: skip
    return None


def _told_jumps(log: Log, resumed: Resumed | None) -> list[Jump]:
    """What the attempt itself saw when it began."""
    found: list[Jump] = []
    if resumed is None:
        return found
    if resumed.state is not None:
        found.append(state_jump(resumed.step, resumed.state))
    has_segments = log.last is not None and log.last.state.segments
    position = resumed.epoch * resumed.epoch_length + resumed.sample
    if not has_segments and position != resumed.step * resumed.batch_size:
        found.append(
            Jump(
                kind="data position",
                step=resumed.step,
                what=f"it went on at sample {position} of the run, and {resumed.step} steps of {resumed.batch_size} "
                f"end at sample {resumed.step * resumed.batch_size}",
                cause="the pictures, their repeats or the batch were changed outside of dbr",
                fix="dbr history HOME shows what was changed on a resume; inputs.json, what the pictures were",
            )
        )
    return found


def jumps_said(resumed: Resumed) -> list[str]:
    """What an attempt has said of its own resume, in words."""
    state = None if resumed.state is None else str(state_jump(resumed.step, resumed.state))
    return [jump for jump in (state, resumed.jump) if jump is not None]


def state_jump(step: int, problem: str) -> Jump:
    """What was to train is not what was committed."""
    return Jump(
        kind="state", step=step, what=f"the state that began to train is not the committed one: {problem}",
        cause="an optimizer or precision that does not take back all that it gave to be saved",
        fix=f"train no further with it: {_GO_BACK}",
    )  # fmt: skip


def _numerics(adopt: Entry) -> frozenset[str]:
    assert isinstance(adopt.body, Adopt)
    return frozenset(adopt.body.not_exact_because)


def _reasons(log: Log, adopt: Entry) -> list[str]:
    """What this attempt began to do otherwise, on purpose."""
    body = adopt.body
    assert isinstance(body, Adopt)
    reasons = [f"{change.name} was changed" for change in body.changes if change.changes_the_result]
    before = log.entries[adopt.number - 2].state if adopt.number > 1 else None
    if before is not None and before.segments != adopt.state.segments:
        reasons.append("other pictures, as asked for")
    if before is not None and before.skipped != adopt.state.skipped:
        reasons.append("steps that train on other samples, since a number was not finite")
    return reasons


def _memory(log: Log, attempt: int) -> int | None:
    """The micro-batch that memory allowed, as the attempt's last entry says."""
    own = [entry for entry in log.entries if entry.attempt == attempt]
    smaller = own[-1].state.smaller_micro_batch if own else None
    return smaller.size if smaller else None
