"""Where a run's pictures come from: a folder, or a data set in a folder or on the Hub."""

from __future__ import annotations

from pathlib import Path

from dreambooth_resume.config.options.data import DataOptions
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.captioned import is_picture_folder, scan_captioned
from dreambooth_resume.data.captions import CaptionChoice
from dreambooth_resume.data.dataset import PictureSet, scan_pictures
from dreambooth_resume.data.hub_dataset import load_dataset_pictures
from dreambooth_resume.data.metadata import Columns
from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.digests import default_cache_file

_KEPT = "dataset-pictures"


def source_name(options: TrainOptions) -> str:
    """As the user named it."""
    return options.data.dataset_name or str(options.data.instance_data_dir)


def is_at_hand(options: TrainOptions) -> bool:
    """Whether the pictures lie on this machine, so that they can be compared with the run's own copies."""
    return Path(source_name(options)).is_dir()


def caption_choice(data: DataOptions) -> CaptionChoice:
    """Where captions beside pictures come from. A run that has no record of it was begun before there were any."""
    return CaptionChoice(strategy=data.caption_strategy or "instanceprompt", column=data.caption_column)


def scan_source(options: TrainOptions, *, skip_bad: bool) -> PictureSet:
    """The pictures with their prompts. Raises BadInput for what is missing, unreadable or wrong in it."""
    data, masks = options.data, options.loss.masked_training
    if data.dataset_name is None:
        assert data.instance_data_dir is not None, "contradictions are refused before"
        return scan_pictures(
            Path(data.instance_data_dir),
            prompt=data.instance_prompt,
            skip_bad=skip_bad,
            captions=caption_choice(data),
            masks=masks,
        )
    folder, columns = Path(data.dataset_name), Columns(image=data.image_column, caption=data.caption_column)
    if folder.is_dir() and is_picture_folder(folder):
        if data.dataset_config_name is not None:
            raise BadInput(
                "a folder of pictures has no configurations",
                where=f"--dataset_config_name {data.dataset_config_name}",
                fix="leave it out",
            )
        return scan_captioned(folder, columns, prompt=data.instance_prompt, skip_bad=skip_bad, masks=masks)
    return load_dataset_pictures(
        data.dataset_name,
        columns,
        config=data.dataset_config_name,
        cache_dir=options.model.cache_dir,
        keep=default_cache_file().with_name(_KEPT),
        prompt=data.instance_prompt,
        skip_bad=skip_bad,
        masks=bool(masks),
    )
