"""What this machine holds of a run whose home can't be reached: the newest state that could not be committed.

Only for homes elsewhere, and only while saving fails: a home on this machine's disk would fail just as well. Nobody
commits it under the name it was written with (DESIGN: rule 9); a later attempt on this machine loads it in place of
training those steps again.
"""

from __future__ import annotations

import logging

from dreambooth_resume.checkpoint.format import ExportWeights, SavedState, to_blobs
from dreambooth_resume.checkpoint.reader import load_staged
from dreambooth_resume.errors import DbrError
from dreambooth_resume.runs.home import CHECKPOINT_PREFIX, checkpoint_folder, checkpoint_name
from dreambooth_resume.storage.base import Storage

logger = logging.getLogger(__name__)


class Stage:
    """One run's folder on this machine. `storage` holds nothing else."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def keep(self, state: SavedState, export_weights: ExportWeights, *, attempt: int) -> None:
        """Write the state, then drop older ones. A stage that can't be written is logged, and training goes on.

        The state file goes last and names the others' digests: a kill before it leaves a folder that nobody takes.
        """
        try:
            for name, blob in to_blobs(state, export_weights).items():
                self._storage.write(f"{checkpoint_folder(state.step, attempt)}/{name}", blob.parts)
            self._drop(keep=(state.step, attempt))
        except DbrError as error:
            logger.warning("Step %d could not be kept on this machine either: %s", state.step, error)

    def load(self, *, attempt: int, above_step: int) -> SavedState | None:
        """The state that `attempt` left here above `above_step`, if it is whole."""
        return load_staged(self._storage, attempt=attempt, above_step=above_step)

    def clear(self) -> None:
        """Drop everything: it was committed, or is of no use any more."""
        try:
            self._drop(keep=None)
        except DbrError as error:
            logger.warning("What was staged on this machine could not be removed: %s", error)

    def _drop(self, *, keep: tuple[int, int] | None) -> None:
        for found in self._storage.list(CHECKPOINT_PREFIX):
            if (name := checkpoint_name(found.key.partition("/")[0])) is not None and name != keep:
                self._storage.delete(found.key)
