"""The LoRA of a checkpoint as a file for other programs, with what they want to know of it in its header.

Reads the home alone: no base model, no GPU. Kill anywhere: the file gets its name once it is whole.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dreambooth_resume.data.inputs import INPUTS_LIST, read_list
from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.home import STATE_TENSORS_NAME, WEIGHTS_NAME
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.record import RunRecord, read_record
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.export_header import Layout, export_header

if TYPE_CHECKING:
    import torch
    from pydantic import JsonValue

    from dreambooth_resume.checkpoint.tensors import Blob

ExportDtype = Literal["fp16", "bf16", "fp32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is wanted of a checkpoint."""

    layout: Layout
    dtype: ExportDtype
    title: str


def export_weights(storage: Storage, log: Log, ref: CheckpointRef, export: Export) -> Blob:
    """The file: the same bytes for the same weights, options and title.

    Raises CheckpointDamaged if the checkpoint isn't what its log entry says, BadInput for a dtype that is too small.
    """
    from dreambooth_resume.checkpoint.reader import read_checked
    from dreambooth_resume.checkpoint.tensors import content_sha256, deserialise, metadata_of, serialise
    from dreambooth_resume.models.families import family_of_adapter

    body = read_checked(storage, ref.file_named(WEIGHTS_NAME))
    tensors, metadata = deserialise(body), metadata_of(body)
    options = recorded_at(storage, log, ref)
    converted, family_header = family_of_adapter(tensors).kohya_format(tensors, metadata)
    said = export_header(
        family_header,
        options,
        layout=export.layout,
        title=export.title,
        step=ref.step,
        prompts=_prompts(storage, options),
    )
    wanted = _cast(converted if export.layout == "kohya" else tensors, export.dtype)
    digest = content_sha256(wanted)
    # sd-scripts has its own name for the same digest, without the prefix; its readers look for that.
    digests = {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}
    reading = {"format": "pt"} if export.layout == "kohya" else metadata
    return serialise(wanted, {**said, **digests, **reading})


def export_embeddings(storage: Storage, log: Log, ref: CheckpointRef, dtype: ExportDtype) -> Blob | None:
    """The new tokens of the checkpoint, for `load_textual_inversion`, AUTOMATIC1111 and ComfyUI; None if it has none.

    Raises what `export_weights` raises.
    """
    if not recorded_at(storage, log, ref).get("train_text_encoder_ti"):
        return None
    from dreambooth_resume.checkpoint.reader import read_checked
    from dreambooth_resume.checkpoint.tensors import deserialise, serialise
    from dreambooth_resume.workflows.results import to_embeddings

    made = to_embeddings(read_checked(storage, ref.file_named(STATE_TENSORS_NAME)))
    return serialise(_cast(deserialise(_body(made)), dtype), {"format": "pt"})


def recorded_at(storage: Storage, log: Log, ref: CheckpointRef) -> dict[str, JsonValue]:
    """`options_at` of a run that certainly is one: it has a checkpoint."""
    record = read_record(storage)
    assert record is not None, "a run with checkpoints has a record"
    return options_at(log, ref, record)


def options_at(log: Log, ref: CheckpointRef, record: RunRecord) -> dict[str, JsonValue]:
    """The options that the run had when it made the checkpoint."""
    return {**record.options, **log.entries[ref.number - 1].state.changed_options}


def write_export(blob: Blob, path: Path) -> None:
    """The file under its name, whole or not at all. Raises BadInput for another file there, or a folder that isn't."""
    if path.exists() and (path.is_dir() or path.stat().st_size != blob.size_bytes or path.read_bytes() != _body(blob)):
        raise BadInput(
            "is there already and is something else", where=f"--to {path}", fix="name another file with --to"
        )
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            for part in blob.parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(
            f"can't be written: {error.strerror or error}",
            where=f"--to {path}",
            fix="name a folder that you can write to",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _body(blob: Blob) -> bytes:
    return b"".join(blob.parts)


def _prompts(storage: Storage, options: Mapping[str, JsonValue]) -> list[str]:
    """Of each picture that the home lists; none where it keeps no copies."""
    listed = read_list(storage, INPUTS_LIST)
    default = str(options.get("instance_prompt") or "")
    return [picture.caption or default for picture in listed.pictures] if listed else []


def _cast(tensors: Mapping[str, torch.Tensor], dtype: ExportDtype) -> dict[str, torch.Tensor]:
    """The weights in another precision. A layer's alpha stays as it is: it is a number of the format, not a weight."""
    import torch

    target = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    cast = {name: tensor if name.endswith(".alpha") else tensor.to(target) for name, tensor in tensors.items()}
    lost = [name for name, tensor in cast.items() if not torch.isfinite(tensor).all()]
    if lost:
        raise BadInput(
            f"{lost[0]} has numbers that {dtype} can't hold (and {len(lost) - 1} more)",
            where=f"--dtype {dtype}",
            fix="--dtype bf16, or fp32, which is how it was trained",
        )
    return cast
