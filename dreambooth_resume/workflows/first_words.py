"""What an attempt says once its model is loaded and its state is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth_resume.checkpoint.format import SavedState
from dreambooth_resume.preemption.heed import what_a_notice_needs
from dreambooth_resume.training.build import Parts
from dreambooth_resume.training.seed import what_was_taken
from dreambooth_resume.workflows import wording
from dreambooth_resume.workflows.changes import rate_of, what_changes

if TYPE_CHECKING:
    from dreambooth_resume.workflows.attempt import Attempt


def how_it_begins(attempt: Attempt, parts: Parts, *, staged: SavedState | None) -> str:
    """Lines for people: where it goes on, exactly or not, and what is otherwise than before."""
    adopted, assignment = attempt.adopted, attempt.assignment
    processes = assignment.processes_at_start
    if adopted.base is None and staged is None:
        log, end = adopted.writer.log, assignment.max_train_steps
        lines = [wording.fresh_start(attempt.number, parts.state.global_step, end, attempt.not_exact_because, log)]
    else:
        lines = [_how_it_goes_on(attempt, parts, staged)]
    if adopted.before is not None and adopted.before.save_seconds is not None:
        lines.append(what_a_notice_needs(adopted.before.save_seconds, attempt.watcher.lead()))
    if attempt.script is not None and adopted.base is None:
        rate = rate_of(assignment.options, assignment.max_train_steps, processes=processes)
        lines.append(what_was_taken(attempt.script, learning_rate=rate.at(parts.state.global_step)))
    if attempt.begins_segment:
        lines.append(f"From step {parts.state.global_step} on the run is trained on the pictures of now.")
    if attempt.before is not None:
        lines += what_changes(
            attempt.changes,
            before=attempt.before,
            now=assignment.options,
            step=parts.state.global_step,
            max_train_steps=assignment.max_train_steps,
            processes=processes,
        )
    return "\n".join(lines)


def _how_it_goes_on(attempt: Attempt, parts: Parts, staged: SavedState | None) -> str:
    return wording.resumed(
        attempt.adopted,
        step=parts.state.global_step,
        staged=staged is not None,
        assignment=attempt.assignment,
        last=parts.state.last,
        not_exact_because=attempt.not_exact_because,
    )
