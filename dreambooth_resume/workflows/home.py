"""A run's home as a start finds it: opened by what was typed, read, and checked for what else may lie there."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import JsonValue

from dreambooth_resume.config.option import options_of
from dreambooth_resume.config.options.checkpoints import CheckpointOptions
from dreambooth_resume.config.options.storage import StorageOptions
from dreambooth_resume.errors import AccessDenied, BadInput, KeyNotFound, RefusedToGoOn
from dreambooth_resume.runs.home import CHECKPOINT_PREFIX, LOG_PREFIX, WEIGHTS_NAME
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.record import RunRecord, read_record
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.side_by_side import side_by_side
from dreambooth_resume.storage.urls import open_storage

if TYPE_CHECKING:
    from dreambooth_resume.config.load import GivenOptions

STAGED = "staged"
"""Where a stage keeps, by run, what could not be committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run lives: its home, and this machine's folder for what is on its way there or was fetched from it.

    `flag` is how the user named it. Where the home is a folder of this machine, the stage is that folder. `above` are
    the folders that the home lies in, the innermost first.
    """

    storage: Storage
    stage: Path
    flag: str
    above: tuple[Storage, ...] = ()

    @property
    def is_remote(self) -> bool:
        return not isinstance(self.storage, LocalStorage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A run's home as this start found it. `record` is None where there is no run yet."""

    place: Place
    record: RunRecord | None
    log: Log

    @property
    def storage(self) -> Storage:
        return self.place.storage

    @property
    def recorded(self) -> dict[str, JsonValue] | None:
        """The run's options with the changes that were made since; None where there is no run yet."""
        if self.record is None:
            return None
        changed = self.log.last.state.changed_options if self.log.last else {}
        return {**self.record.options, **changed}


def find_place(given: GivenOptions) -> Place:
    """Where the run of these options lives. Raises BadInput for two homes, and for folders that can't be written."""
    output_dir, uri = str(given.value("output_dir")), cast("str | None", given.value("storage_uri"))
    if uri is not None and "://" in output_dir and output_dir != uri:
        raise BadInput(
            f"the home is {uri} by storage_uri and {output_dir} by output_dir",
            where=given.sources.get("output_dir"),
            fix="give one of them, and as output_dir a folder of this machine",
        )
    address = uri or output_dir
    flag = f"--storage_uri {address}" if uri else f"--output_dir {address}"
    if "://" not in address:
        _check_folder(Path(address), flag)
        above = tuple(open_storage(str(folder)) for folder in Path(address).absolute().parents)
        return Place(storage=open_storage(address), stage=Path(address), flag=flag, above=above)
    stage_dir = cast("str | None", given.value("stage_dir"))
    if stage_dir is None:
        stage_dir = output_dir if "://" not in output_dir else str(cache_folder_for(address))
    _check_folder(Path(stage_dir), f"--stage_dir {stage_dir}")
    settings = s3_settings(given.value)
    above = tuple(open_storage(one, settings) for one in _addresses_above(address))
    return Place(storage=open_storage(address, settings), stage=Path(stage_dir), flag=flag, above=above)


def _addresses_above(address: str) -> list[str]:
    bucket, *parts = address.partition("://")[2].strip("/").split("/")
    scheme = address.partition("://")[0]
    return ["/".join([f"{scheme}://{bucket}", *parts[:depth]]) for depth in reversed(range(len(parts)))]


def open_home(place: Place) -> Home:
    """Read what lies there. Raises BadInput for what another program made, RefusedToGoOn for half a run."""
    storage = place.storage
    record = read_record(storage)
    if record is not None:
        return Home(place=place, record=record, log=read_log(storage))
    entries, *others = side_by_side(storage, storage.list, [LOG_PREFIX, CHECKPOINT_PREFIX, WEIGHTS_NAME])
    if entries:
        raise RefusedToGoOn(
            f"{storage.describe()} has a commit log but no run.json. Put run.json back from a copy, or begin a new run "
            "in another folder."
        )
    foreign = [found.key for listed in others for found in listed]
    if foreign:
        raise BadInput(
            f"the folder holds {foreign[0]}, which another program made, and no run of dbr",
            where=place.flag,
            fix="name a new folder, so that nothing of it is overwritten",
        )
    _refuse_within_something_else(place)
    return Home(place=place, record=None, log=Log())


def _refuse_within_something_else(place: Place) -> None:
    """Raises BadInput for a new home within another run's, which would take its files for its own, or at an object."""
    for above, is_run in zip(place.above, side_by_side(place.storage, _is_run, place.above), strict=True):
        if is_run:
            raise BadInput(
                f"lies inside the home of another run, {above.describe()}",
                where=place.flag,
                fix=f"name a folder beside it, or that run itself: --output_dir {above.describe()} --resume latest",
            )
    if place.is_remote and place.above and _is_object(place.above[0], place.storage.describe().rpartition("/")[2]):
        raise BadInput(
            "is an object; a home is a folder of them, and no run lies here",
            where=place.flag,
            fix=f"name a new one, such as {place.storage.describe()}-run",
        )


def _is_run(storage: Storage) -> bool:
    try:
        return read_record(storage) is not None
    except (AccessDenied, RefusedToGoOn):
        return False  # a policy for one prefix alone shows nothing above it, and other programs have a run.json too


class _ThereError(Exception):
    """A body has begun to arrive."""


class _FirstPiece:
    def update(self, _piece: bytes, /) -> None:
        raise _ThereError


def _is_object(storage: Storage, key: str) -> bool:
    try:
        storage.download(key, _FirstPiece)
    except _ThereError:
        return True
    except (KeyNotFound, AccessDenied):
        return False
    return False  # an empty one: consoles make such for a folder


HUB_ORIGIN = "https://huggingface.co/"
"""Begins the origin of a run that began from a checkpoint on the Hub."""


def refuse_half_a_fork(home: Home) -> None:
    """Raises RefusedToGoOn for a fork whose checkpoint is not there yet: trained now, it would begin at step 0."""
    origin = home.record.forked_from if home.record else None
    if origin is not None and origin.home.startswith(HUB_ORIGIN) and not home.log.line:
        raise RefusedToGoOn(
            f"{home.storage.describe()}: this run was interrupted before its checkpoint was fetched. Begin it again: "
            f"--resume_from_checkpoint {origin.home.removeprefix(HUB_ORIGIN)}/{origin.folder}"
        )
    if origin is not None and not home.log.line:
        raise RefusedToGoOn(
            f"{home.storage.describe()}: this fork was interrupted before its checkpoint was copied. The same command "
            f"ends it: dbr fork {shlex.quote(origin.home)} --step {origin.folder} --to "
            f"{shlex.quote(home.storage.describe())}"
        )


def stage_of(place: Place, run_id: str) -> LocalStorage | None:
    """The run's own folder in this machine's stage; None where the home itself is on this machine."""
    return LocalStorage(place.stage / STAGED / run_id) if place.is_remote else None


S3_OPTIONS = {
    name: option
    for section, model in (("storage", StorageOptions), ("checkpoints", CheckpointOptions))
    for name, option in options_of(section, model).items()
    if name.startswith("s3_") or name == "unfenced"
}
"""The options that say how an S3 service is reached. Not from the table of all options: `dbr status` needs no other."""


def s3_settings(value: Callable[[str], object]) -> S3Settings:
    """How S3 is reached by `value` of each of S3_OPTIONS. Raises BadInput for an endpoint that is no address."""

    def text(name: str) -> str | None:
        return cast("str | None", value(name))

    return S3Settings(
        endpoint_url=text("s3_endpoint_url"),
        region=text("s3_region"),
        path_style={"path": True, "virtual": False}.get(str(value("s3_addressing_style"))),
        sse=text("s3_sse"),
        kms_key_id=text("s3_kms_key_id"),
        unfenced=bool(value("unfenced")),
    )


def cache_folder_for(address: str) -> Path:
    """This machine's stage for a home in a bucket, where the user named none."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return folder / "dreambooth_resume" / "stages" / hashlib.sha256(address.encode()).hexdigest()[:16]


def _check_folder(folder: Path, flag: str) -> None:
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    problem = None
    if not existing.is_dir():
        problem = f"{existing} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = f"you may not write to {existing}"
    if problem is not None:
        raise BadInput(problem, where=flag, fix="name a folder that you can write to")
