"""What `dbr train` says at its turns: what was found, what happens, what to type. Read at three in the morning."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth_resume.config.messages import plain as plain_value
from dreambooth_resume.data.buckets import summary
from dreambooth_resume.data.class_images import ClassPictures
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.errors import DbrError
from dreambooth_resume.runs.adoption import Adoption
from dreambooth_resume.runs.entries import Adopt, CheckpointRef, SkippedSteps, Totals
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.preflight import Inputs

if TYPE_CHECKING:  # these need torch, and what a finished run says does not
    from dreambooth_resume.checkpoint.format import SavedState
    from dreambooth_resume.training.build import Assignment
    from dreambooth_resume.training.step import StepMetrics

_ORDINALS = {1: "first", 2: "second", 3: "third"}
_NAMED_AT_MOST = 5
_EXACT = "Exact: same device, libraries and threads as at the run's start"


def plan(storage: Storage, inputs: Inputs, plan: Plan, steps: int, fencing: str) -> str:
    """The run in a few lines, before anything is loaded."""
    pictures = inputs.pictures
    skipped = f" ({len(pictures.skipped)} unreadable ones left out)" if pictures.skipped else ""
    repeated = f" ({sum(pictures.times)} with the repeats of their folders)" if pictures.times else ""
    epochs = steps * plan.batch_size / plan.epoch_length
    ridden = class_pictures(inputs.class_pictures) if inputs.class_pictures else ""
    return (
        f"{_count(len(pictures.pictures), 'picture')}{repeated}{skipped}, {_count(steps, 'step')} of "
        f"{_count(plan.batch_size, 'sample')} "
        f"({epochs:.1f} epochs), base model {inputs.source.name}\n"
        f"{ridden}{_buckets(plan)}{_masks(pictures)}{_animated(pictures)}"
        f"Home {storage.describe()}: {fencing}"
    )


def _masks(pictures: PictureSet) -> str:
    """How many pictures have one, as a line with its end; nothing where none has."""
    if not pictures.masked:
        return ""
    return f"Masks: {pictures.masked} of {_count(len(pictures.pictures), 'picture')}; the others are trained whole\n"


def _animated(pictures: PictureSet) -> str:
    """Which files hold several pictures, as a line with its end; nothing where none does, or they are the home's."""
    if not pictures.animated:
        return ""
    named = ", ".join(pictures.animated[:_NAMED_AT_MOST])
    more = len(pictures.animated) - _NAMED_AT_MOST
    return f"Animated, so the first frame is taken: {named}{f' and {more} more' if more > 0 else ''}\n"


def _buckets(plan: Plan) -> str:
    """How many pictures have which shape, as a line with its end; nothing for squares."""
    if not plan.buckets:
        return ""
    squares = "" if len(set(plan.buckets)) == 1 else "; for squares begin a run with --no-use_aspect_ratio_buckets"
    return f"{summary(plan.buckets)}, width x height{squares}\n"


def class_pictures(ridden: ClassPictures) -> str:
    """How prior preservation comes by its pictures, as a line with its end."""
    found, made = len(ridden.found), ridden.to_make
    origin = f"{found} from the folder" if found else "none from a folder"
    line = f"{_count(ridden.count, 'class picture')} ({origin}, {made} of the base model's making)"
    kept = "; the folder has changed, and the run goes on with its own copies" if ridden.folder_changed else ""
    return f"{line}: {ridden.prompt}{kept}\n"


def exactness(not_exact_because: Sequence[str], log: Log) -> str:
    """`Exact`, or `Equivalent` and why: because of this attempt, or of one whose checkpoint it goes on from.

    The bytes of an undisturbed run are promised only to a run whose options are those that it was begun with.
    """
    if not_exact_because:
        return f"Equivalent: same samples and noise, but not the same last bits ({'; '.join(not_exact_because)})."
    in_line = {log.entries[number - 1].attempt for number in log.line}
    for entry in log.entries:
        if isinstance(entry.body, Adopt) and entry.attempt in in_line and entry.body.not_exact_because:
            why = "; ".join(entry.body.not_exact_because)
            return f"Equivalent: exact from here on, but attempt {entry.attempt} before it was not ({why})."
    if log.last is not None and (smaller := log.last.state.smaller_micro_batch) is not None:
        return (
            f"Equivalent: {smaller.who} ran out of memory; from step {smaller.from_step + 1} on at most "
            f"{_count(smaller.size, 'sample')} of a step {'is' if smaller.size == 1 else 'are'} computed at once."
        )
    if changed := options_changed_on_the_way(log):
        return f"{_EXACT}, but the result has not the bytes of an unchanged run: {changed}."
    return f"{_EXACT}, so the result has the same bytes."


def options_changed_on_the_way(log: Log) -> str:
    """Which attempts changed what, if the run can't end in the bytes that it would have ended in without that."""
    made = {
        (entry.attempt, change.name): change
        for entry in log.entries
        if isinstance(entry.body, Adopt)
        for change in entry.body.changes
        if change.changes_the_result
    }
    return "; ".join(
        [
            *(
                f"attempt {attempt} changed {name} from {plain_value(change.before)} to {plain_value(change.after)}"
                for (attempt, name), change in made.items()
            ),
            *(f"other pictures from step {step} on" for step in segment_steps(log)),
        ]
    )


def segment_steps(log: Log) -> list[int]:
    """The steps from which on the run was trained on other pictures than before."""
    return [segment.from_step for segment in log.last.state.segments] if log.last else []


def changed_pictures(drift: str, *, count: int) -> str:
    """What a resume says that goes on with other pictures."""
    return f"The pictures have changed ({drift}). The run goes on with the {_count(count, 'picture')} of now."


def fresh_start(attempt: int, step: int, max_train_steps: int, not_exact_because: Sequence[str], log: Log) -> str:
    """Where a run begins, or begins again because no attempt came to its first checkpoint."""
    begins = f"Attempt {attempt} begins at step {step} of {max_train_steps}."
    if attempt == 1:
        return f"{begins} Interrupt it whenever you like; the same command with --resume latest goes on."
    before = f"No checkpoint was committed by the {attempt - 1} before it."
    return f"{begins} {before}\n{exactness(not_exact_because, log)}"


def resumed(
    adopted: Adoption[SavedState],
    *,
    step: int,
    staged: bool,
    assignment: Assignment,
    last: StepMetrics | None,
    not_exact_because: Sequence[str],
) -> str:
    """A resume in three lines."""
    plan = assignment.plan
    epoch, sample = plan.position(step)
    found = _found(adopted, staged=staged)
    rate = f"learning rate {last.learning_rate:.3g}, loss {last.loss:.4f} at step {step}; " if last else ""
    lines = [
        *(f"Set aside: {aside.folder}: {aside.reason}." for aside in adopted.set_aside),
        f"Resuming from {found} as attempt {adopted.writer.attempt}: step {step} of {assignment.max_train_steps}.",
        f"Restored: {rate}optimizer moments; data position {sample} of {plan.epoch_length} in epoch {epoch + 1}.",
        exactness(not_exact_because, adopted.writer.log),
        *(f"{_other_samples(window)} ({window.why})." for window in adopted.writer.log.entries[-1].state.skipped),
    ]
    return "\n".join(lines)


def rolled_back(window: SkippedSteps, adopted: Adoption[SavedState]) -> str:
    """A guard's return, when it happens."""
    back = f"step {adopted.base.step} ({adopted.base.folder})" if adopted.base else "step 0"
    return (
        f"Step {window.last + 1}: {window.why}. Nothing of it was saved. Going back to {back} as attempt "
        f"{adopted.writer.attempt}, for the {_ORDINALS[window.number]} time of 3. {_other_samples(window)}."
    )


def _other_samples(window: SkippedSteps) -> str:
    steps = (
        f"Step {window.last + 1} trains"
        if window.first == window.last
        else (f"Steps {window.first + 1} to {window.last + 1} train")
    )
    return f"{steps} on other samples from now on, in every attempt"


def went_back_before(log: Log, request: str, resume: str) -> str:
    """A start-up script that goes back at each start must lose nothing; a person should know how to do it again."""
    attempt = next(
        entry.attempt for entry in log.entries if isinstance(entry.body, Adopt) and entry.body.going_back == request
    )
    return (
        f"--resume {resume} was carried out by attempt {attempt} already; going on from the latest. To go back again: "
        f"--resume {resume} --resume-request-id again-{log.highest_attempt}"
    )


def finished(storage: Storage, log: Log, ref: CheckpointRef, *, folder: Path, names: Sequence[str]) -> str:
    """Where everything is, and what to type next. `names` are the files of the result, Diffusers' first."""
    assert log.last is not None
    state = log.last.state
    weights = ref.file_named(WEIGHTS_NAME)
    home = storage.describe()
    attempts = len({entry.attempt for entry in log.entries})
    totals = state.totals
    in_other_formats = "".join(f"For other programs: {home}/{name}\n" for name in names if name != WEIGHTS_NAME)
    copy = f" (a copy: {folder / WEIGHTS_NAME})" if str(folder) != home else ""
    return (
        f"Finished: step {state.step} of {state.max_train_steps}, {attempts} attempt{'s' if attempts > 1 else ''}, "
        f"{totals.redone_steps} steps made twice, {totals.training_seconds:.0f} s of training{_paid(totals)}.\n"
        f"LoRA: {home}/{WEIGHTS_NAME}{copy}\n"
        f"SHA-256: {weights.sha256}\n"
        f"{in_other_formats}"
        f"Use it: pipe.load_lora_weights({str(folder)!r}); look at the run: dbr status {shlex.quote(home)}"
    )


def _paid(totals: Totals) -> str:
    return f", ${totals.cost:.2f} for {totals.machine_seconds / 3600:.2f} hours of machines" if totals.cost else ""


def _found(adopted: Adoption[SavedState], *, staged: bool) -> str:
    base = adopted.base
    if staged:
        return f"what attempt {adopted.writer.attempt - 1} had written and not yet committed (verified)"
    assert base is not None
    return f"{base.folder} (attempt {base.attempt}, {len(base.files)} files verified)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def in_a_line(error: BaseException | None) -> str | None:
    """What ended an attempt, for its last words: a bug by its kind, too, since its message alone may say nothing."""
    if error is None:
        return None
    told = str(error).partition("\n")[0]
    return told if isinstance(error, DbrError) else f"{type(error).__name__}: {told}"[:300]
