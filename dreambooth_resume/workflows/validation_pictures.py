"""Which pictures the validation loss is measured on: the home's own copies, or else those of the folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.dataset import PictureSet, scan_held_out
from dreambooth_resume.data.fingerprint import dataset_fingerprint
from dreambooth_resume.data.inputs import VALIDATION_INPUTS_LIST, load_inputs
from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows.home import Home


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPictures:
    """The held-out pictures; `are_stored`: the home has copies of them, which no edit of the folder reaches."""

    pictures: PictureSet
    are_stored: bool
    remark: str = ""
    """What is said where the folder holds other pictures than the home."""

    @property
    def to_store(self) -> tuple[tuple[str, PictureSet], ...]:
        """The home's list and the pictures of what it has no copies of yet."""
        return () if self.are_stored else ((VALIDATION_INPUTS_LIST, self.pictures),)


def find_validation_pictures(home: Home, options: TrainOptions) -> ValidationPictures | None:
    """None without validation_data_dir. Raises BadInput for a folder that can't be used and isn't in the home."""
    folder, prompt = options.validation.validation_data_dir, options.data.instance_prompt
    if folder is None:
        return None
    stored = load_inputs(home.storage, home.place.stage, prompt=prompt, list_key=VALIDATION_INPUTS_LIST)
    if stored is not None:
        return ValidationPictures(pictures=stored, are_stored=True, remark=_remark(stored, Path(folder), options))
    found = scan_held_out(Path(folder), prompt=prompt, skip_bad=options.data.skip_bad_images)
    return ValidationPictures(pictures=found, are_stored=False)


def _remark(stored: PictureSet, folder: Path, options: TrainOptions) -> str:
    """Whoever edited the folder, or named another one, has to hear that it does not count."""
    if not folder.is_dir():
        return ""
    try:
        now = scan_held_out(folder, prompt=options.data.instance_prompt, skip_bad=True)
    except BadInput:
        return ""  # nothing usable is there any more, and nothing of it is needed
    if dataset_fingerprint(now.pictures) == dataset_fingerprint(stored.pictures):
        return ""
    return (
        f"validation_data_dir {folder} holds other pictures than at the run's first measurement. val_loss goes on with "
        f"the run's own {len(stored.pictures)}, so that its values can be compared: other ones need a new run."
    )
