"""Exact, equivalent or different: the verdict on a run that was killed beside one that was not, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dreambooth_resume.insight.differences import ROUNDING, Part, StepDifference
from dreambooth_resume.insight.sameness import Sameness

Word = Literal["exact", "equivalent", "different"]
"""`equivalent`: the same samples and noise, and the numbers differ by rounding. `different`: by more than that."""

_REPORT = "report it with this output and what `dbr --version` prints; until then keep to machines that don't vanish"

# Option -> (its value that is known for other last bits each time, what to type for the same bits).
_INEXACT_OPTIONS: Mapping[str, tuple[object, str]] = {
    "enable_xformers_memory_efficient_attention": (True, "--no-enable_xformers_memory_efficient_attention"),
    "use_8bit_adam": (True, "--no-use_8bit_adam"),
    "base_precision": ("nf4", "--base_precision none"),
}

_PARTS: Mapping[Part, str] = {
    "samples": "it was trained on other samples or noise: something was drawn that is no function of the step",
    "learning rate": "the learning rate was another",
    "weights": "the weights were not those of the checkpoint, or the same weights gave another loss in a new process",
    "gradient": "the loss was the same, its gradient was not: the backward pass does not give the same bits each time",
    "update": "the step before it ended in other weights: the optimizer's state was not restored as it was, or its "
    "update does not give the same bits each time",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`because` are facts, `cause` is what they point to, `fix` what to type or do."""

    word: Word
    because: tuple[str, ...]
    cause: str | None = None
    fix: str | None = None

    @property
    def is_exact(self) -> bool:
        return self.word == "exact"


def judge(
    found: Sameness, *, repeated: Sameness | None, not_as_at_start: tuple[str, ...], options: Mapping[str, object]
) -> Verdict:
    """The verdict on `found`. `repeated` compares two runs that nobody killed, where that was done.

    `not_as_at_start` is what this machine has otherwise than the one that the run began on.
    """
    if found.is_exact:
        if not not_as_at_start:
            return Verdict(word="exact", because=())
        return Verdict(
            word="equivalent",
            because=(f"this machine is not as that of the run's start: {'; '.join(not_as_at_start)}",),
            cause="kills change no byte here, but the bytes are not those of the machine that the run began on",
            fix="go on here, or on a machine as the first one; both train on the same samples and noise",
        )
    return Verdict(
        word="equivalent" if _is_rounding(found) else "different",
        because=tuple(_facts(found)),
        **_cause(found, repeated, options),
    )


def describe_difference(difference: StepDifference) -> str:
    """The first value that differs, as a sentence's beginning."""
    if difference.what == "samples":
        return f"step {difference.step}: other samples than without the kills"
    return (
        f"step {difference.step}: {difference.what} {difference.before!r} without the kills, {difference.after!r} with "
        f"them ({_share(difference.relative)})"
    )


def _facts(found: Sameness) -> list[str]:
    facts = []
    if found.difference is not None:
        facts.append(f"first at {describe_difference(found.difference)}")
    else:
        facts.append(f"all {found.steps_compared} steps measured the same")
    differing = [file.name for file in found.files if not file.is_same]
    if differing:
        facts.append(f"at step {found.step} other bytes in {', '.join(differing)}")
    if found.tensors:
        one = found.tensors[0]
        facts.append(
            f"{found.tensors_differing} of {found.tensors_in_all} tensors differ, the first is {one.name} "
            f"({one.differing:,} of {one.numbers:,} numbers, by at most {one.largest:.3g})"
        )
    return facts


def _is_rounding(found: Sameness) -> bool:
    difference = found.difference
    if difference is not None and difference.what in ("samples", "learning rate"):
        return False
    return found.greatest_loss_difference <= ROUNDING


def _cause(found: Sameness, repeated: Sameness | None, options: Mapping[str, object]) -> dict[str, str]:
    named = [fix for name, (value, fix) in _INEXACT_OPTIONS.items() if options.get(name) == value]
    if repeated is not None and not repeated.is_exact:
        advice = f"try it again with {' '.join(named)}" if named else _fewer_threads(options)
        return {
            "cause": "two runs that nobody killed differ as well: on this machine the same step does not give the same "
            "bits each time, so it is not the resume that loses something",
            "fix": advice,
        }
    if found.difference is not None:
        what = _PARTS[found.difference.part]
    elif found.tensors:
        what = f"{_owner(found.tensors[0].name)} is not what it was, and no step's loss shows it yet"
    else:
        what = "numbers beside the tensors differ (trainer_state.json)"
    also = "" if repeated is None else "; two runs that nobody killed are the same to the byte, so it is the resume"
    return {"cause": f"{what}{also}", "fix": _REPORT}


def _fewer_threads(options: Mapping[str, object]) -> str:
    if options.get("torch_threads") != 1:
        return f"try it again with --torch_threads 1; if it still differs, {_REPORT}"
    return _REPORT


def _owner(tensor: str) -> str:
    parts = {"optimizer": "the optimizer's state", "ema": "the average of the weights", "tokens": "a new token"}
    return f"{parts.get(tensor.partition('.')[0], 'a weight')} ({tensor})"


def _share(relative: float) -> str:
    return f"{relative:.1%} apart" if relative >= 0.001 else f"{relative:.1e} of it"
