"""The files that a finished run leaves for its user, in the home and in the output folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth_resume.checkpoint.publish import Conversion, publish
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.home import EMBEDDINGS_NAME, KOHYA_NAME, STATE_TENSORS_NAME, WEIGHTS_NAME
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.home import Place

if TYPE_CHECKING:
    from dreambooth_resume.checkpoint.tensors import Blob


def result_names(options: TrainOptions) -> tuple[str, ...]:
    """The files that these options ask for, the one that Diffusers loads first."""
    kohya = (KOHYA_NAME,) if options.lora.output_kohya_format else ()
    embeddings = (EMBEDDINGS_NAME,) if options.tokens.train_text_encoder_ti else ()
    return (WEIGHTS_NAME, *kohya, *embeddings)


def publish_results(place: Place, options: TrainOptions, log: Log) -> CheckpointRef:
    """Put in place what is missing of the result; returns the checkpoint that it is made from."""
    conversions = {name: _CONVERSIONS[name] for name in result_names(options) if name != WEIGHTS_NAME}
    return publish(place.storage, log, conversions=conversions)


def to_kohya(weights: bytes) -> Blob:
    """The LoRA file of kohya's format, from the one that Diffusers loads. Raises ValueError for another program's."""
    # torch takes a second to import, and a run without this file is answered without it.
    from dreambooth_resume.checkpoint.tensors import deserialise, metadata_of, serialise
    from dreambooth_resume.models.families import family_of_adapter

    tensors = deserialise(weights)
    converted, header = family_of_adapter(tensors).kohya_format(tensors, metadata_of(weights))
    return serialise(converted, header)


def to_embeddings(state: bytes) -> Blob:
    """The new tokens' embeddings, for `load_textual_inversion` and for A1111 and ComfyUI, from a saved state."""
    from dreambooth_resume.checkpoint.tensors import deserialise, serialise
    from dreambooth_resume.models.export import embedding_tensors
    from dreambooth_resume.training.state import result_tokens

    return serialise(embedding_tensors(result_tokens(deserialise(state))), {"format": "pt"})


def result_folder(place: Place, names: Sequence[str]) -> Path:
    """The folder of this machine with these files of the result: the home, or copies where people look for them."""
    if not place.is_remote:
        return place.stage
    local = LocalStorage(place.stage)
    for name in names:
        wanted = place.storage.read(name)
        try:
            is_there = local.digest(name).sha256 == hashlib.sha256(wanted).hexdigest()
        except KeyNotFound:
            is_there = False
        if not is_there:
            local.write(name, [wanted])
    return place.stage


_CONVERSIONS = {
    KOHYA_NAME: Conversion(source=WEIGHTS_NAME, convert=to_kohya),
    EMBEDDINGS_NAME: Conversion(source=STATE_TENSORS_NAME, convert=to_embeddings),
}
