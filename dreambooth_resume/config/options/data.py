"""Options: the pictures and what is done to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from dreambooth_resume.config.options.declaration import (
    FINITE,
    NOT_BLANK,
    SECTION_CONFIG,
    TILDE_EXPANDED,
    any_case,
    free,
    refused,
)

CaptionStrategy = Literal["auto", "textfile", "metadata", "filename", "instanceprompt"]
Interpolation = Literal["lanczos", "bilinear", "bicubic", "nearest", "nearest_exact", "box", "hamming"]

_SHAPES = "it decides the shapes and the order of the pictures; start a new run"
_SMALLEST_SIDE, _SIDE_STEP = 32, 8


def _bucket_list(value: str | None) -> str | None:
    """As `height,width;height,width` without spaces; raises ValueError for anything else."""
    if value is None:
        return None
    pairs = [[side.strip() for side in pair.split(",")] for pair in value.split(";") if pair.strip()]
    if not pairs or any(
        len(pair) != 2 or not all(side.isascii() and side.isdigit() for side in pair) for pair in pairs
    ):
        raise ValueError('must be "height,width;height,width", in pixels, such as "1024,1024;1216,832"')
    for side in (int(side) for pair in pairs for side in pair):
        if side < _SMALLEST_SIDE or side % _SIDE_STEP:
            raise ValueError(f"must have sides of at least {_SMALLEST_SIDE}, in multiples of {_SIDE_STEP}, not {side}")
    return ";".join(f"{int(height)},{int(width)}" for height, width in pairs)


_COLOURS = "start a new run for other changes of its pictures"
_CAPTIONS = "all steps of a run draw their captions in one way; start a new run"


class DataOptions(BaseModel):
    """The pictures of the subject, and how they are cut."""

    model_config = SECTION_CONFIG

    # Free: the run pins the pictures' contents, and has them in its home.
    instance_data_dir: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free(common=True)] = None
    """Folder with the pictures of the subject; this or dataset_name has to be given. They are copied into the run's
    home, so a resumed run needs only the home; where the folder is there, its pictures are compared by their bytes."""

    dataset_name: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free()] = None
    """Data set in place of instance_data_dir: a folder with metadata.jsonl or metadata.csv, or one on the Hub. In a
    folder, pictures in sub folders count, too. Hub ids and Parquet need the package datasets (pip install datasets);
    the Hub itself was not run in the tests."""

    dataset_config_name: Annotated[str | None, NOT_BLANK, free()] = None
    """Configuration of the data set, where it has several."""

    image_column: Annotated[str, NOT_BLANK, free()] = "image"
    """Column of the data set that holds the pictures; in a folder with metadata it is image."""

    caption_column: Annotated[str | None, NOT_BLANK, free()] = None
    """Column of the data set that holds a caption for each picture. Where one is blank, and without this option,
    instance_prompt is the picture's prompt. The run keeps pictures and captions; others are other pictures. Of metadata
    in instance_data_dir: null is text, caption or prompt, the first that is there."""

    caption_strategy: Annotated[
        CaptionStrategy | None,
        any_case("auto", "textfile", "metadata", "filename", "instanceprompt"),
        free(null_is_unset=True),
    ] = None
    """Where the captions of pictures in instance_data_dir come from. textfile: NAME.txt or NAME.caption beside the
    picture NAME.png. metadata: metadata.jsonl or metadata.csv there. auto: the first of these that has one. filename:
    the picture's own name. instanceprompt: none. A picture without a caption has instance_prompt. null: auto for a new
    run; runs of earlier releases go on without captions. Class pictures always have class_prompt."""

    caption_dropout: Annotated[float, FINITE, Field(ge=0, le=1), refused(_CAPTIONS)] = 0.0
    """How often a picture is trained without its caption (0.05 to 0.1 is usual), so that the LoRA also learns what the
    pictures have in common beside the words. A dropped caption is zeros where the base model was made so, as SDXL was,
    else the empty prompt. Class pictures keep theirs."""

    shuffle_caption: Annotated[bool, refused(_CAPTIONS)] = False
    """Train each caption with its tags in changing order: 8 orders are drawn for it, and a step picks one."""

    keep_tokens: Annotated[int, Field(ge=0), refused(_CAPTIONS)] = 0
    """So many tags stay in front, in their order, when shuffle_caption shuffles the others."""

    caption_separator: Annotated[str, NOT_BLANK, refused(_CAPTIONS)] = ","
    """What stands between the tags of a caption, for shuffle_caption."""

    instance_prompt: Annotated[
        str,
        NOT_BLANK,
        refused("the run was trained on its first prompt; for another, start a new run", common=True, in_fork=False),
    ]
    """Prompt that names the subject by a rare word and its class, for example "a photo of sks dog"."""

    resolution: Annotated[
        int, Field(ge=32, multiple_of=8), refused("start a new run for another picture size", common=True)
    ] = 1024
    """Edge of the square training pictures, in pixels; a multiple of 8. With buckets, of the square among them."""

    use_aspect_ratio_buckets: Annotated[bool | None, refused(_SHAPES, null_is_unset=True)] = None
    """Cut each picture to the nearest of several shapes of at most resolution x resolution pixels, in place of a
    square. All samples of a micro-batch have one shape. null: decided at a run's first start, on if its pictures belong
    in different shapes."""

    aspect_ratio_buckets: Annotated[str | None, AfterValidator(_bucket_list), refused(_SHAPES)] = None
    """The shapes themselves, as "height,width;height,width" in pixels, multiples of 8; turns use_aspect_ratio_buckets
    on. null: those of SDXL, in steps of 64 pixels (below resolution 512 of an eighth of it)."""

    center_crop: Annotated[bool, refused("start a new run for other crops")] = False
    """Cut the middle of each picture. Off: cut at random."""

    random_flip: Annotated[bool, refused("start a new run for other flips")] = False
    """Mirror pictures left to right at random. Not for faces, or for anything with writing on it."""

    random_rotate: Annotated[float, FINITE, Field(ge=0, le=180), refused(_COLOURS)] = 0.0
    """Turn pictures at random by up to so many degrees either way; their masks turn along. A turned picture is
    enlarged until the crop lies within it, so that no empty corner is trained: at 10 degrees a square by a sixth.
    Class pictures are never turned, and never changed in their colours."""

    random_brightness: Annotated[float, FINITE, Field(ge=0, le=1), refused(_COLOURS)] = 0.0
    """Make pictures brighter or darker at random, by a factor that differs from 1 by at most this. 0.1 is little."""

    random_contrast: Annotated[float, FINITE, Field(ge=0, le=1), refused(_COLOURS)] = 0.0
    """Give pictures more or less contrast at random, by a factor that differs from 1 by at most this."""

    random_saturation: Annotated[float, FINITE, Field(ge=0, le=1), refused(_COLOURS)] = 0.0
    """Give pictures stronger or weaker colours at random, by a factor that differs from 1 by at most this."""

    random_hue: Annotated[float, FINITE, Field(ge=0, le=1), refused(_COLOURS)] = 0.0
    """Move the colours of pictures along the colour circle at random, at most by this part of half of it. 0.05 is
    little; 1 makes any colour of any other. Not for a subject whose colours matter."""

    repeats: Annotated[int, Field(ge=1), refused("it decides the order of the pictures; start a new run")] = 1
    """How often each picture comes in an epoch."""

    image_interpolation_mode: Annotated[
        Interpolation,
        any_case("lanczos", "bilinear", "bicubic", "nearest", "nearest_exact", "box", "hamming"),
        refused("it decides every pixel; start a new run"),
    ] = "lanczos"
    """How pictures are made larger or smaller."""

    cache_latents: Annotated[bool, refused("cached and free crops are other pictures; start a new run")] = True
    """Encode every picture once, in 8 variants of crop, flip and change, and keep the results in the run's home. Off:
    encode freely drawn ones in every step; slower, and the VAE stays in memory."""

    skip_bad_images: Annotated[bool, free()] = False
    """Go on without pictures that can't be read, and name them. Off: the first one ends the start."""

    store_inputs: Annotated[bool, free()] = True
    """Copy the pictures into the run's home. Off: every machine that resumes the run needs the folder itself."""

    on_data_change: Annotated[Literal["refuse", "continue"], free(recorded=False)] = "refuse"
    """What a resume does when pictures or captions were added, removed or edited since the run began. refuse names
    them and stops. continue trains on them as they are from here on, and keeps in the log from which step; the home
    gets copies of them, and the steps before stay what they were."""
