"""Deleting a checkpoint on request: by whoever trains the run, or by taking it over for one entry (rules 7, 13)."""

from __future__ import annotations

from dreambooth_resume.checkpoint.deletion import delete_checkpoints
from dreambooth_resume.errors import CheckpointDamaged, RefusedToGoOn
from dreambooth_resume.runs.adoption import Adoption, Wish, ref_of, take_over
from dreambooth_resume.runs.checkpoints import find_checkpoint
from dreambooth_resume.runs.entries import CheckpointRef, Entry, EntryBody, RunState, Stopped
from dreambooth_resume.runs.history import COMMAND_EXIT_CODE
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.runs.verify import check
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.holders import Waiting, ask_holder


def choose(storage: Storage, name: str) -> CheckpointRef:
    """The checkpoint that `name` means. Raises BadInput if there is none, RefusedToGoOn if the run's log is closed."""
    log = read_log(storage)
    _refuse_if_finished(storage, log)
    return find_checkpoint(log, name, where=storage.describe())


def retire(storage: Storage, ref: CheckpointRef, waiting: Waiting) -> None:
    """Retire `ref` in the log, then delete its files.

    Raises RefusedToGoOn where it is the last whole checkpoint of the run's line or the run is finished, ComeBack if the
    training does not answer, HolderAlive and Fenced as taking over does. In all of these nothing was deleted.
    """
    summary = summarise(storage)
    if summary is not None and summary.is_live and summary.attempt is not None:
        waiting.tell(
            f"Attempt {summary.attempt} trains this run: asked it to retire {ref.folder}. "
            f"It does so with a save at its next step; waiting up to {waiting.answer_seconds:.0f} s."
        )
        if _holder_retired(storage, ref, summary.attempt, waiting):
            return
        waiting.tell(f"Attempt {summary.attempt} ended without an answer.")
    _retire_alone(storage, ref, waiting)


def _holder_retired(storage: Storage, ref: CheckpointRef, attempt: int, waiting: Waiting) -> bool:
    """Ask the holder and wait; False if it ended first."""
    ask_holder(storage, "retire", attempt, waiting, checkpoint=ref.number)
    # The log is the truth: only what an entry retires is gone.
    return ref.number in read_log(storage).retired


def _retire_alone(storage: Storage, ref: CheckpointRef, waiting: Waiting) -> None:
    log = read_log(storage)
    _refuse_if_finished(storage, log)
    # Judged before the adopt too, so that a refusal leaves no trace in the log.
    _refuse_if_last(storage, log, ref)
    assert log.last is not None
    adopted = take_over(
        storage,
        Wish(max_train_steps=log.last.state.max_train_steps),
        load=lambda candidate: check(storage, candidate),
        process=this_process(),
        patience=waiting.for_a_free_run(),
    )
    if isinstance(adopted, Log):
        raise _finished(storage)
    storage.claim(adopted.writer.attempt)
    # Adopt first, then look: only from here on can nobody else commit or retire (rule 5).
    problem = _last_of_line(storage, adopted.writer.log, ref)
    already = ref.number in adopted.writer.log.retired
    entry = _write_stopped(adopted, ref, retire=problem is None and not already)
    if problem is not None:
        raise problem
    assert isinstance(entry.body, Stopped)
    # The entry goes first: a kill here leaves files that no entry needs, and the next attempt clears them away.
    delete_checkpoints(storage, [ref])


def _write_stopped(adopted: Adoption[None], ref: CheckpointRef, *, retire: bool) -> Entry:
    def build(log: Log) -> tuple[EntryBody, RunState]:
        before = log.entries[-1].state
        what = f"dbr checkpoints delete {ref.folder}"
        if not retire:
            return Stopped(reason=f"{what}: refused", exit_code=COMMAND_EXIT_CODE), before
        left = [number for number in log.usable_line() if number != ref.number]
        state = before.model_copy(
            update={
                "step": log.commit(left[-1]).step if left else 0,
                "live": tuple(live for live in before.live if live.number != ref.number),
            }
        )
        return Stopped(reason=what, exit_code=COMMAND_EXIT_CODE, retire=(ref.number,)), state

    return adopted.writer.append(build)


def _refuse_if_last(storage: Storage, log: Log, ref: CheckpointRef) -> None:
    if (problem := _last_of_line(storage, log, ref)) is not None:
        raise problem


def _last_of_line(storage: Storage, log: Log, ref: CheckpointRef) -> RefusedToGoOn | None:
    """The refusal, if no other whole checkpoint of the line would be left to go on from."""
    if ref.number not in log.usable_line():
        return None
    for number in reversed(log.usable_line()):
        if number == ref.number:
            continue
        try:
            check(storage, ref_of(log, number))
        except CheckpointDamaged:
            continue
        return None
    return RefusedToGoOn(
        f"{ref.folder} is the only whole checkpoint that the run in {storage.describe()} can go on from; it was left "
        f"alone. To be rid of the run: dbr delete {storage.describe()}"
    )


def _refuse_if_finished(storage: Storage, log: Log) -> None:
    if log.finished is not None:
        raise _finished(storage)


def _finished(storage: Storage) -> RefusedToGoOn:
    home = storage.describe()
    return RefusedToGoOn(
        f"The run in {home} is finished: its log is closed, and nothing of it is retired any more. Its result is "
        f"{home}/pytorch_lora_weights.safetensors. To save room, copy that file away, then: dbr delete {home}"
    )
