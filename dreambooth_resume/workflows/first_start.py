"""What a run's first start decides where nothing was said. It is written out in run.json, and holds for good.

A run whose record lacks such an option was begun before there was one, and goes on as it was.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from dreambooth_resume.config.load import with_values
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.buckets import wished_buckets
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows.pictures import buckets_for


def decided(options: TrainOptions) -> TrainOptions:
    """What does not depend on the pictures: a seed, so that an unseeded run resumes as exactly as any; no masks.

    A new run reads captions; written out, since a run without a record of it was begun before there were any.
    """
    values: dict[str, object] = {}
    if options.training.seed is None:
        values["seed"] = secrets.randbelow(2**32)
    if options.loss.masked_training is None:
        values["masked_training"] = False
    if options.data.caption_strategy is None:
        values["caption_strategy"] = "auto"
    return with_values(options, values) if values else options


def with_buckets_decided(options: TrainOptions, pictures: PictureSet, *, as_before: bool) -> TrainOptions:
    """Buckets for pictures that belong in several, unless a run of Diffusers' script goes on `as_before`."""
    data = options.data
    if data.use_aspect_ratio_buckets is not None:
        return options
    are_several = len(set(buckets_for(pictures, wished_buckets(data)))) > 1 and not as_before
    is_wished = data.aspect_ratio_buckets is not None or are_several
    return with_values(options, {"use_aspect_ratio_buckets": is_wished})


def remark_on_squares(options: TrainOptions, pictures: PictureSet) -> str:
    """What is said when pictures of one shape that is no square are cut to squares, and nobody asked for that."""
    data = options.data
    found = buckets_for(pictures, wished_buckets(data))
    if len(set(found)) != 1 or found[0].is_square:
        return ""
    return (
        f"All pictures belong in {found[0]}, width x height, and are cut to squares of {data.resolution}: "
        "--use_aspect_ratio_buckets keeps their shape."
    )


def refuse_masks_that_are_not_there(options: TrainOptions, sources: Mapping[str, str], pictures: PictureSet) -> None:
    """Raises BadInput for masked training on pictures none of which has a mask."""
    if options.loss.masked_training and not pictures.masked:
        raise BadInput(
            f"none of the {len(pictures.pictures)} pictures has a mask",
            where=sources.get("masked_training"),
            fix="put NAME-mask.png beside NAME.jpg, white where the subject is, or leave out --masked_training",
        )
