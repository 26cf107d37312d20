"""Which class pictures a run has: found in its home or in the folder, the others still to be made."""

from __future__ import annotations

from pathlib import Path

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.class_images import MADE_LIST, ClassPictures
from dreambooth_resume.data.dataset import Picture, scan_class_pictures
from dreambooth_resume.data.fingerprint import dataset_fingerprint
from dreambooth_resume.data.inputs import CLASS_INPUTS_LIST, load_inputs, read_list
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.workflows.home import Home

_BYTES_PER_PIXEL = 3  # a PNG of noise is no smaller


def find_class_pictures(home: Home, options: TrainOptions) -> ClassPictures | None:
    """None without prior preservation. Raises BadInput for a folder that can't be used, RefusedToGoOn for another one.

    On a resume the home's own copies count, which no edit of the folder reaches; that it was edited is said.
    """
    prior = options.prior
    if not prior.with_prior_preservation:
        return None
    assert prior.class_prompt is not None, "contradictions are refused before"
    folder = None if prior.class_data_dir is None else Path(prior.class_data_dir)
    stored = None
    # Without a run yet and without the folder: another machine launched this one, and may have put copies here.
    if home.record is not None or (folder is not None and not folder.is_dir()):
        stored = load_inputs(home.storage, home.place.stage, prompt=prior.class_prompt, list_key=CLASS_INPUTS_LIST)
    in_folder: tuple[Picture, ...] = ()
    # The home's copies do without the folder, so nothing that is wrong with it may end a resume.
    if folder is not None and (stored is None or folder.is_dir()):
        in_folder = scan_class_pictures(
            folder,
            prompt=prior.class_prompt,
            at_most=prior.num_class_images,
            skip_bad=options.data.skip_bad_images or stored is not None,
            masks=options.loss.masked_training,
        ).pictures
    found = in_folder if stored is None else stored.pictures
    fingerprint = dataset_fingerprint(found)
    if home.record is not None and home.record.pins.class_pictures != fingerprint:
        raise RefusedToGoOn(
            f"The class pictures in {prior.class_data_dir} are not those that the run in {home.storage.describe()} was "
            "begun with, and the home has no copy of them. Put the first ones back, or begin a new run with another "
            "--output_dir."
        )
    there = folder is not None and folder.is_dir()
    return ClassPictures(
        prompt=prior.class_prompt,
        count=prior.num_class_images,
        found=found,
        stage=home.place.stage,
        folder_changed=there and dataset_fingerprint(in_folder) != fingerprint,
    )


def class_picture_bytes(home: Home, class_pictures: ClassPictures | None, *, side: int) -> int:
    """Room in the home that the class pictures will still take, at most."""
    if class_pictures is None or read_list(home.storage, MADE_LIST) is not None:
        return 0
    found = sum(picture.size_bytes for picture in class_pictures.found) if home.record is None else 0
    return found + class_pictures.to_make * side * side * _BYTES_PER_PIXEL
