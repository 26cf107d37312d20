"""A data set that the `datasets` library loads: one on the Hub, or a folder of Parquet and the like.

Its pictures are kept as files under their digests on this machine, and then treated as pictures in a folder are.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from dreambooth_resume.data.dataset import FoundFile, PictureSet, look_at_files
from dreambooth_resume.data.metadata import Columns
from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack, DbrError

_SPLIT = "train"


def load_dataset_pictures(
    name: str,
    columns: Columns,
    *,
    config: str | None,
    cache_dir: str | None,
    keep: Path,
    prompt: str,
    skip_bad: bool,
    masks: bool = False,
) -> PictureSet:
    """The pictures of the data set's `train` part in its order, with their captions, kept as files in `keep`.

    With `masks` their transparency says what of them is trained.
    Raises BadInput for a data set, a configuration or a column that isn't there, and for what isn't a picture;
    AccessDenied for a gated one; ComeBack if the Hub is needed and doesn't answer.
    """
    split = _train_part(name, config=config, cache_dir=cache_dir)
    columns.check(split.column_names, name=name)
    split = _undecoded(split, columns, name)
    found = []
    for number, row in enumerate(split):
        where = f"{name}, row {number}"
        cell = row[columns.image]
        if cell is None:
            raise BadInput("has no picture", where=where, fix="choose another column: --image_column …")
        body = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        title = PurePosixPath(cell["path"]).name if cell["path"] else "picture"
        found.append(
            FoundFile(
                name=f"{number:06d}-{title}", path=_kept(keep, body), caption=columns.caption_of(row, where=where)
            )
        )
    if not found:
        raise BadInput("the data set has no rows", where=f"dataset_name: {name}", fix="choose another one")
    if masks:
        found = [replace(one, is_masked=True) for one in found]
    return look_at_files(found, where=f"dataset_name: {name}", prompt=prompt, skip_bad=skip_bad)


def _train_part(name: str, *, config: str | None, cache_dir: str | None) -> Any:
    if name.startswith(("/", ".", "~")) and not Path(name).expanduser().exists():
        raise BadInput(
            "there is no such folder",
            where=f"--dataset_name {name}",
            fix="name the folder with metadata.jsonl, or an id on the Hub such as owner/dogs",
        )
    try:
        import datasets
    except ImportError as error:
        raise BadInput(
            "data sets of this kind are read by the datasets library, which is not installed",
            where=f"--dataset_name {name}",
            fix="pip install datasets (or pip install 'dreambooth-resume[datasets]')",
        ) from error
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        parts = datasets.load_dataset(name, config, cache_dir=cache_dir)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise translated(error, name) from error
    finally:
        if not bars:
            datasets.enable_progress_bars()
    if _SPLIT not in parts:
        raise BadInput(
            f"the data set has no part {_SPLIT}; it has {', '.join(parts)}",
            where=f"--dataset_name {name}",
            fix="choose another one",
        )
    return parts[_SPLIT]


def _undecoded(split: Any, columns: Columns, name: str) -> Any:
    import datasets

    kind = split.features[columns.image]
    if not isinstance(kind, datasets.Image):
        pictures = [column for column, one in split.features.items() if isinstance(one, datasets.Image)]
        raise BadInput(
            f"the column {columns.image} of {name} holds {getattr(kind, 'dtype', kind)}, not pictures",
            where="--image_column",
            fix=f"--image_column {pictures[0]}" if pictures else "choose a data set with pictures",
        )
    return split.cast_column(columns.image, datasets.Image(decode=False))


def _kept(folder: Path, body: bytes) -> Path:
    path = folder / hashlib.sha256(body).hexdigest()
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        temporary.write_bytes(body)
        temporary.replace(path)
    return path


def translated(error: Exception, name: str) -> DbrError:
    import datasets

    text = " ".join(str(error).split())
    where = f"--dataset_name {name}"
    if "gated" in text.lower():
        return AccessDenied(
            f"{name} is gated. Accept its terms at https://huggingface.co/datasets/{name}, then: hf auth login (or set "
            "HF_TOKEN)"
        )
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return BadInput(
            f"the Hub has no data set {name} that you may see, and there is no folder of that name",
            where=where,
            fix="correct the name; for a private one: hf auth login (or set HF_TOKEN)",
        )
    if isinstance(error, ConnectionError):
        return ComeBack(
            f"The Hub can't be asked for {name} ({text}). Start the same command again when the network is back."
        )
    return BadInput(
        f"the data set can't be loaded: {text}", where=where, fix="see --dataset_config_name and --cache_dir"
    )
