"""The verdict of `dbr verify-resume`, on every kind of finding."""

from __future__ import annotations

from dataclasses import replace

from dreambooth_resume.insight.differences import StepDifference
from dreambooth_resume.insight.sameness import OtherTensor, SameFile, Sameness
from dreambooth_resume.insight.verdict import Verdict, judge

SAME = Sameness(
    step=12,
    files=(SameFile(name="trainer_state.safetensors", size_bytes=9, first_sha256="a", second_sha256="a"),),
    steps_compared=12,
    difference=None,
    greatest_loss_difference=0.0,
)
OTHER_FILE = (replace(SAME.files[0], second_sha256="b"),)


def differing(*, after: float = 0.5000001, greatest: float = 1e-6, **changed: object) -> Sameness:
    difference = StepDifference(step=7, what="loss", before=0.5, after=after, part="update")
    return replace(SAME, files=OTHER_FILE, difference=difference, greatest_loss_difference=greatest, **changed)  # type: ignore[arg-type]


def judged(found: Sameness, repeated: Sameness | None = SAME, **options: object) -> Verdict:
    return judge(found, repeated=repeated, not_as_at_start=(), options=options)


def test_the_same_bytes_and_steps_are_exact() -> None:
    assert judged(SAME, None) == Verdict(word="exact", because=())


def test_on_another_machine_than_the_first_one_it_is_equivalent_and_says_why() -> None:
    verdict = judge(SAME, repeated=None, not_as_at_start=("torch_threads 1 -> 2",), options={})
    assert verdict.word == "equivalent"
    assert "torch_threads 1 -> 2" in verdict.because[0]


def test_rounding_is_equivalent_and_more_is_different() -> None:
    assert judged(differing()).word == "equivalent"
    assert judged(differing(after=0.6, greatest=0.2)).word == "different"


def test_other_samples_are_different_however_small_it_shows() -> None:
    samples = StepDifference(step=7, what="samples", before=1, after=2, part="samples")
    verdict = judged(replace(differing(), difference=samples))
    assert verdict.word == "different"
    assert verdict.because[0] == "first at step 7: other samples than without the kills"


def test_the_first_step_file_and_tensor_are_named() -> None:
    one = OtherTensor(name="optimizer.exp_avg.3", numbers=100, differing=7, largest=0.25)
    verdict = judged(differing(tensors=(one,), tensors_differing=2, tensors_in_all=9))
    step, file, tensor = verdict.because
    assert step.startswith("first at step 7: loss 0.5 without the kills, 0.5000001 with them")
    assert file == "at step 12 other bytes in trainer_state.safetensors"
    assert tensor == "2 of 9 tensors differ, the first is optimizer.exp_avg.3 (7 of 100 numbers, by at most 0.25)"


def test_a_tensor_that_no_loss_has_shown_yet_is_the_cause() -> None:
    one = OtherTensor(name="ema.unet.x", numbers=100, differing=7, largest=0.25)
    found = replace(SAME, files=OTHER_FILE, tensors=(one,), tensors_differing=1, tensors_in_all=9)
    cause = judged(found).cause
    assert cause is not None
    assert cause.startswith("the average of the weights (ema.unet.x) is not what it was")


def test_a_machine_that_gives_other_bits_each_time_is_told_what_to_leave_out() -> None:
    inexact = judged(differing(), differing(), enable_xformers_memory_efficient_attention=True)
    assert inexact.fix == "try it again with --no-enable_xformers_memory_efficient_attention"
    threads = judged(differing(), differing(), torch_threads=None)
    assert threads.fix is not None
    assert threads.fix.startswith("try it again with --torch_threads 1")
