"""Which checkpoint is the best so far, for retention: `--keep_best` never retires it.

Judged by the newest evaluation's scores (`dbr eval` leaves a note for each checkpoint), and without any by the loss on
held-out pictures at the checkpoint's step. It only ever keeps what would have gone: no bit of the training depends on
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dreambooth_resume.errors import AccessDenied, StorageUnavailable
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.notes import Note, read_notes
from dreambooth_resume.storage.base import Storage

FIDELITY = "fidelity"
"""Of a score note's values: the higher the better."""


def best_of(
    line: Mapping[int, int], *, new_step: int, scores: Mapping[int, float], val_losses: Mapping[int, float]
) -> int | None:
    """The number of the best checkpoint that is to be kept; None: nothing is known, or the new one is the best.

    `line` are the usable checkpoints, number to step; `scores` are by number, `val_losses` by step. Of equals the
    earlier one is the better: it was trained less.
    """
    scored = [number for number in line if number in scores]
    if scored:
        return max(scored, key=lambda number: (scores[number], -number))
    known = {step: loss for step, loss in val_losses.items() if step == new_step or step in line.values()}
    if not known:
        return None
    best_step = min(known, key=lambda step: (known[step], step))
    return max((number for number, step in line.items() if step == best_step), default=None)


def scores_of(notes: Sequence[Note]) -> dict[int, float]:
    """Of the evaluation that was written to last: scores of two are not of one scale."""
    found: dict[str, dict[int, float]] = {}
    last = ""
    for note in notes:
        evaluation, fidelity = note.values.get("evaluation"), note.values.get(FIDELITY)
        if isinstance(evaluation, str) and isinstance(fidelity, int | float) and note.checkpoint is not None:
            found.setdefault(evaluation, {})[note.checkpoint] = float(fidelity)
            last = evaluation
    return found.get(last, {})


class BestKept:
    """Knows the best checkpoint of a run while it trains. `observe` is called by the training, `keep` by the saver."""

    def __init__(self, storage: Storage, *, is_wanted: bool, earlier_losses: Callable[[], Mapping[int, float]]) -> None:
        """`earlier_losses` reads those of the steps before, by step: by the saver, at its first save."""
        self._storage = storage
        self._is_wanted = is_wanted
        self._read_earlier_losses = earlier_losses
        self._earlier_losses: Mapping[int, float] | None = None
        self._val_losses: dict[int, float] = {}
        self._scores: dict[int, float] | None = None

    def observe(self, step: int, values: Mapping[str, float]) -> None:
        if (loss := values.get("val_loss")) is not None:
            self._val_losses[step] = loss

    def keep(self, log: Log, new_step: int) -> frozenset[int]:
        """Numbers that the commit of `new_step` may not retire. Never raises for a storage that doesn't answer.

        All of them until it has answered once: what isn't known to be worse may be the best.
        """
        if not self._is_wanted:
            return frozenset()
        line = {number: log.commit(number).step for number in log.usable_line()}
        try:
            if self._earlier_losses is None:
                self._earlier_losses = self._read_earlier_losses()
            self._scores = scores_of(read_notes(self._storage, "score"))
        except (StorageUnavailable, AccessDenied):
            # What was known stays known: a commit must not fail for a note.
            if self._earlier_losses is None or self._scores is None:
                return frozenset(line)
        losses = {**self._earlier_losses, **dict(self._val_losses)}
        best = best_of(line, new_step=new_step, scores=self._scores, val_losses=losses)
        return frozenset() if best is None else frozenset({best})
