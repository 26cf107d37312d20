"""A run that goes on from where Diffusers' own script was: which checkpoint of it is meant, and is it there.

Kill anywhere: `run.json` names the checkpoint before anything is trained, and until its step is committed here, every
start wants that folder again. From then on the home is a run like any other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import BadInput, RefusedToGoOn
from dreambooth_resume.runs.home import STATE_NAME, WEIGHTS_NAME, checkpoint_name
from dreambooth_resume.runs.record import SeedOrigin
from dreambooth_resume.workflows.home import Home

OPTIMIZER_NAME = "optimizer.bin"
_NEEDED = {
    WEIGHTS_NAME: "the LoRA",
    OPTIMIZER_NAME: "the optimizer's moments",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A checkpoint folder of Diffusers' script, of that step."""

    folder: Path
    step: int
    files: dict[str, str]
    """Name to SHA-256 of what is taken from it."""

    @property
    def origin(self) -> SeedOrigin:
        return SeedOrigin(folder=str(self.folder), step=self.step, files=self.files)


def find_seed(home: Home, options: TrainOptions) -> Seed | None:
    """The checkpoint that this run begins from; None if it begins otherwise, or has committed that step already.

    Raises BadInput for a folder that isn't such a checkpoint, and for a home with another run.
    """
    folder, begun = options.checkpoints.seed_folder, home.record.seeded_from if home.record else None
    where = f"--resume_from_checkpoint {folder}"
    if home.record is not None and begun is None:
        if folder is None:
            return None
        raise BadInput(
            "the folder holds a run already, which did not begin from that checkpoint",
            where=home.place.flag,
            fix="--resume latest to go on with it, or another --output_dir for a new run",
        )
    if home.log.line:
        return None
    if folder is None:
        if begun is None:
            return None
        raise RefusedToGoOn(
            f"This run begins from {begun.folder}, and that step was not yet committed. Give it again: "
            f"--resume_from_checkpoint {begun.folder}"
        )
    named = checkpoint_name(folder.name)
    if not folder.is_dir():
        raise BadInput("there is no such folder", where=where, fix="name a checkpoint folder of Diffusers' script")
    if named is None or (folder / STATE_NAME).exists():
        raise BadInput(
            "is a checkpoint of dbr, and a run resumes from its home",
            where=where,
            fix=f"--output_dir {folder.parent} --resume {folder.name}",
        )
    files = {name: _digest(folder / name, what, where) for name, what in _NEEDED.items()}
    if begun is not None and begun.files != files:
        raise BadInput(
            f"holds other files than the {begun.folder} that this run was begun from",
            where=where,
            fix="give the first one, or another --output_dir for a new run",
        )
    seed = Seed(folder=folder, step=named[0], files=files)
    steps = options.training.max_train_steps
    if steps is not None and steps <= seed.step:
        raise BadInput(
            f"the run has made {seed.step} steps already",
            where=f"--max_train_steps {steps}",
            fix=f"give more steps than {seed.step}",
        )
    return seed


def _digest(path: Path, what: str, where: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(
            f"has no {path.name} ({what}): {error.strerror}",
            where=where,
            fix="name a whole checkpoint folder of Diffusers' script, copied with all its files",
        ) from None
