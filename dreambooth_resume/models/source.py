"""Where a base model's files are: a local Diffusers folder, a repository on the Hub pinned to a commit, or one file.

A folder or file in a bucket is one on this machine once it was fetched (`in_a_bucket`).

Only names and sizes are looked at here; weights are read by `digests` (to name them) and by the family (to load them).
Pickled weights (`.bin`) are never used.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.families import PIPELINE_CLASSES, family_named
from dreambooth_resume.models.hub import Hub, HubUnreachable, is_full_commit
from dreambooth_resume.models.in_a_bucket import ModelsInBuckets, is_in_a_bucket
from dreambooth_resume.models.single_file import is_file_name, single_file

logger = logging.getLogger(__name__)

MODEL_FLAG = "--pretrained_model_name_or_path"
VAE_FLAG = "--pretrained_vae_model_name_or_path"
BASE_CONFIG_FLAG = "--base_config"
BASE_CONFIG = "stabilityai/stable-diffusion-xl-base-1.0"
"""Whose configurations and tokenizers a single file gets if nothing else is said."""
_IN_SINGLE_FILE = "single_file.safetensors"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_READ_AGAIN = "download or save the base model again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One sub folder of a Diffusers model.

    `weights` is the stem of its weight files (None: it has none). Of `files` the first group that is there complete is
    taken; `optional` ones are taken where they exist.
    """

    name: str
    weights: str | None
    files: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file that training reads. `name` is its path inside the model ("unet/config.json")."""

    component: str
    name: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A base model whose files are all on this machine.

    `name` is what the user wrote, `folder` where it is, `commit` the Hub's commit (None for a folder). The VAE may come
    from elsewhere: its files lie in `vae_folder` itself, not in a sub folder of it. Weights that are all in one
    `single_file` are in neither; folder and commit are then those of its configurations.
    """

    name: str
    family: str
    folder: Path
    commit: str | None
    variant: str | None
    vae_folder: Path
    vae_commit: str | None
    vae_variant: str | None
    files: tuple[ModelFile, ...]
    single_file: Path | None = None

    def files_of(self, component: str) -> tuple[ModelFile, ...]:
        return tuple(file for file in self.files if file.component == component)

    def single_file_of(self, component: str) -> Path | None:
        """The single file that holds this component's weights; None if they lie in a folder."""
        return next((file.path for file in self.files_of(component) if file.path == self.single_file), None)

    @property
    def size_bytes(self) -> int:
        return sum({file.path: file.size_bytes for file in self.files}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    name: str
    vae_name: str | None
    revision: str | None
    vae_revision: str | None
    variant: str | None
    base_config: str | None
    hub: Hub
    buckets: ModelsInBuckets


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a name leads: a folder on this machine, or (folder None) one in a bucket or a Hub repository.

    `names` are all files in it.
    """

    folder: Path | None
    repo: str
    commit: str | None
    names: tuple[str, ...]
    fetch: Callable[[Sequence[str]], Path] | None = None
    """In a bucket: makes copies of these files; the folder that has them."""


def resolve_source(
    name: str,
    *,
    vae_name: str | None = None,
    revision: str | None = None,
    vae_revision: str | None = None,
    variant: str | None = None,
    base_config: str | None = None,
    hub: Hub,
    buckets: ModelsInBuckets | None = None,
) -> ModelSource:
    """Find every file that training will read, downloading what the Hub or a bucket has and this machine lacks.

    `name` may be a single file; `base_config` is then the folder or Hub id with the rest of such a model, of which the
    weights are not fetched, and `revision` is that of it.

    With revisions that are full commits (as run.json pins them) and files that are all here, the network isn't touched;
    without a network, what was downloaded before is used. Raises BadInput for a name that leads nowhere or to a model
    that can't be used, AccessDenied for a gated or private one, HubUnreachable if the Hub is needed and doesn't answer.
    """
    request = _Request(
        name=name,
        vae_name=vae_name,
        revision=revision,
        vae_revision=vae_revision,
        variant=variant,
        base_config=base_config,
        hub=hub,
        buckets=buckets or ModelsInBuckets(),
    )
    if is_full_commit(revision) and (vae_name is None or is_full_commit(vae_revision) or _has_no_commit(vae_name)):
        try:
            return _resolve(request, cached=True)
        except BadInput:
            logger.debug("%s at %s is not complete in this machine's cache; asking the Hub", name, revision)
    try:
        return _resolve(request, cached=False)
    except HubUnreachable as unreachable:
        try:
            source = _resolve(request, cached=True)
        except BadInput:
            raise unreachable from None
        logger.info("the Hub does not answer; using %s as downloaded before, at %s", name, source.commit)
        return source


def _resolve(request: _Request, *, cached: bool) -> ModelSource:
    variant, whole = request.variant, _whole_in_one_file(request)
    name, flag = (request.name, MODEL_FLAG) if whole is None else (request.base_config or BASE_CONFIG, BASE_CONFIG_FLAG)
    where = name if whole is None else f"{flag} {name}"
    place = _find(request, name, flag=flag, revision=request.revision, cached=cached)
    family_name = _family_name(name, place, flag=flag, hub=request.hub)
    components = family_named(family_name).components
    wanted = [
        (component.name, file)
        for component in components
        if request.vae_name is None or component.name != "vae"
        for file in _component_files(
            component if whole is None else replace(component, weights=None),
            place.names,
            folder=component.name,
            variant=variant,
            where=where,
        )
    ]
    folder = _fetched(place, ["model_index.json", *(file for _, file in wanted)], hub=request.hub)
    files = [_model_file(component, file, folder / file) for component, file in wanted]
    if whole is not None:
        # One entry a part, so that each part's digest is that of the file that it comes from.
        inside = {component for component, _ in wanted} & {one.name for one in components if one.weights is not None}
        files.extend(_model_file(component, f"{component}/{_IN_SINGLE_FILE}", whole) for component in inside)
    vae_folder, vae_commit, vae_variant = folder / "vae", place.commit, variant
    if request.vae_name is not None:
        vae = next(component for component in components if component.name == "vae")
        vae_place = _find(request, request.vae_name, flag=VAE_FLAG, revision=request.vae_revision, cached=cached)
        vae_folder, vae_variant, vae_files = _separate_vae(
            request.vae_name, vae, vae_place, variant=variant, hub=request.hub
        )
        vae_commit = vae_place.commit
        files.extend(vae_files)
    return ModelSource(
        name=request.name,
        family=family_name,
        folder=folder,
        commit=place.commit,
        variant=variant,
        vae_folder=vae_folder,
        vae_commit=vae_commit,
        vae_variant=vae_variant,
        files=tuple(sorted(files, key=lambda file: file.name)),
        single_file=whole,
    )


def _whole_in_one_file(request: _Request) -> Path | None:
    """The file that is the base model; None for a folder or Hub id."""
    if not is_file_name(request.name):
        if request.base_config is not None:
            raise BadInput(
                "is for a base model in a single .safetensors file",
                where=f"{BASE_CONFIG_FLAG} {request.base_config}",
                fix="leave it out: a folder or Hub id has its own configurations",
            )
        return None
    if request.variant is not None and request.vae_name is None:
        raise BadInput("a single file has no variants", where=f"--variant {request.variant}", fix="leave --variant out")
    fetch = partial(request.buckets.fetched_file, request.name, flag=MODEL_FLAG)
    return single_file(
        request.name,
        flag=MODEL_FLAG,
        with_vae=request.vae_name is None,
        fetch=fetch if is_in_a_bucket(request.name) else None,
    )


def _component_files(
    component: Component, names: Iterable[str], *, folder: str, variant: str | None, where: str
) -> list[str]:
    """Which of `names` belong to `component` lying in `folder` ("" for the top). Raises BadInput if one is missing."""
    prefix = f"{folder}/" if folder else ""
    present = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    group = next((files for files in component.files if present.issuperset(files)), None)
    if group is None:
        wanted = " or ".join(" + ".join(files) for files in component.files)
        raise BadInput(
            f"{_what(where)} has no {prefix}{wanted}",
            where=where,
            fix=f"point {_flag(where)} to a complete Diffusers folder (the one with model_index.json) or a Hub id",
        )
    chosen = {*group, *(name for name in component.optional if name in present)}
    if component.weights is not None:
        chosen.update(_weight_files(component.weights, present, prefix=prefix, variant=variant, where=where))
    return [prefix + name for name in sorted(chosen)]


def _weight_files(stem: str, present: set[str], *, prefix: str, variant: str | None, where: str) -> list[str]:
    middle = f".{variant}" if variant else ""
    single = f"{stem}{middle}.safetensors"
    if single in present:
        return [single]
    # In shards: the index carries the variant in either of two places, the shards likewise, depending on who wrote
    # them.
    names = [f"{stem}.safetensors.index{middle}.json", f"{stem}{middle}.safetensors.index.json"]
    numbered = r"-\d+-of-\d+"
    shard = re.compile(rf"{re.escape(stem)}({re.escape(middle)}{numbered}|{numbered}{re.escape(middle)})\.safetensors")
    shards = [name for name in present if shard.fullmatch(name)]
    index = next((name for name in names if name in present), None)
    if index is not None and shards:
        return [index, *shards]
    pattern = re.compile(rf"{re.escape(stem)}\.(\w+)\.safetensors")
    variants = sorted(found.group(1) for name in present if (found := pattern.fullmatch(name)) is not None)
    if variant and f"{stem}.safetensors" in present:
        fix = f"leave --variant {variant} out: there is the plain file"
    elif variants:
        fix = " or ".join(f"--variant {found}" for found in variants)
    elif any(name.endswith(".bin") for name in present):
        fix = "only .safetensors weights are read (a .bin can run code): save the model anew with save_pretrained()"
    else:
        fix = f"point {_flag(where)} to a complete Diffusers folder or a Hub id"
    raise BadInput(f"{_what(where)} has no {prefix}{single}", where=where, fix=fix)


def _flag(where: str) -> str:
    return next((flag for flag in (VAE_FLAG, BASE_CONFIG_FLAG) if where.startswith(flag)), MODEL_FLAG)


def _what(where: str) -> str:
    return {VAE_FLAG: "the VAE's model", BASE_CONFIG_FLAG: "the model of the configurations"}.get(
        _flag(where), "the base model"
    )


def _has_no_commit(name: str) -> bool:
    return _is_folder(name) or is_in_a_bucket(name)


def _is_folder(name: str) -> bool:
    return Path(name).expanduser().is_dir()


def _find(request: _Request, name: str, *, flag: str, revision: str | None, cached: bool) -> _Place:
    if _is_folder(name):
        folder = Path(name).expanduser()
        return _Place(folder=folder, repo=name, commit=None, names=_names_in(folder))
    if is_in_a_bucket(name):
        fetch = partial(request.buckets.fetched, name, flag=flag)
        return _Place(folder=None, repo=name, commit=None, names=request.buckets.names(name, flag=flag), fetch=fetch)
    if _HUB_ID.fullmatch(name) is None:
        raise BadInput(
            f"there is no folder {name}",
            where=flag,
            fix="give a Diffusers folder (the one that holds model_index.json), a single .safetensors file or a Hub id "
            "(owner/name)",
        )
    if not cached:
        commit, names = request.hub.list_files(name, revision=revision, flag=flag)
        return _Place(folder=None, repo=name, commit=commit, names=names)
    found = request.hub.cached_folder(name, revision=revision)
    if found is None:
        raise BadInput(f"{name} was never downloaded to this machine", where=flag)
    commit, folder = found
    return _Place(folder=folder, repo=name, commit=commit, names=_names_in(folder))


def _names_in(folder: Path) -> tuple[str, ...]:
    """Files of the folder and of the folders in it, which is how deep a model goes."""
    found = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file()]
    return tuple(sorted(path.relative_to(folder).as_posix() for path in found))


def _fetched(place: _Place, names: list[str], *, hub: Hub) -> Path:
    if place.folder is not None:
        return place.folder
    if place.fetch is not None:
        return place.fetch(names)
    assert place.commit is not None
    return hub.download(place.repo, commit=place.commit, names=names)


def _family_name(name: str, place: _Place, *, flag: str, hub: Hub) -> str:
    if "model_index.json" not in place.names:
        raise BadInput(
            f"{name} has no model_index.json, so it is not a Diffusers model",
            where=flag,
            fix="give the folder that pipe.save_pretrained() wrote, or a Hub id with model_index.json at its top",
        )
    index = read_json(_fetched(place, ["model_index.json"], hub=hub) / "model_index.json")
    pipeline = str(index.get("_class_name"))
    if pipeline not in PIPELINE_CLASSES:
        raise BadInput(
            f"{name} is a {pipeline}; dbr trains {', '.join(sorted(PIPELINE_CLASSES))}",
            where=flag,
            fix="choose an SDXL model, such as stabilityai/stable-diffusion-xl-base-1.0",
        )
    return PIPELINE_CLASSES[pipeline]


def _separate_vae(
    name: str, component: Component, place: _Place, *, variant: str | None, hub: Hub
) -> tuple[Path, str | None, list[ModelFile]]:
    """Folder that holds the VAE's config.json, the variant that it has, its files."""
    sub_folder = "" if "config.json" in place.names else "vae"
    where = f"{VAE_FLAG} {name}"
    try:
        wanted = _component_files(component, place.names, folder=sub_folder, variant=variant, where=where)
    except BadInput:
        # A VAE that is published by itself seldom has the variants of the model that it is used with.
        if variant is None:
            raise
        variant = None
        wanted = _component_files(component, place.names, folder=sub_folder, variant=None, where=where)
    folder = _fetched(place, wanted, hub=hub)
    files = [_model_file("vae", f"vae/{Path(file).name}", folder / file) for file in wanted]
    return folder / sub_folder, variant, files


def _model_file(component: str, name: str, path: Path) -> ModelFile:
    return ModelFile(component=component, name=name, path=path, size_bytes=path.stat().st_size)


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of the model. Raises BadInput if it isn't a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"can't read {path.name}: {error}", where=str(path), fix=_READ_AGAIN) from error
    if not isinstance(content, dict):
        raise BadInput(f"{path.name} is not a JSON object", where=str(path), fix=_READ_AGAIN)
    return content
