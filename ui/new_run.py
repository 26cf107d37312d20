"""What the page New run and the API's start_run do: from a wish to a started run. No Gradio here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dreambooth_resume.data.inputs import INPUTS_LIST
from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.launch.record import read_launches
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.storage.access import check_access
from dreambooth_resume.storage.probe import probe
from dreambooth_resume.storage.urls import open_storage
from dreambooth_resume.ui import markup
from dreambooth_resume.ui.draft import FieldError, Review, home_of, review, store_pictures
from dreambooth_resume.ui.new_run_parts import is_within
from dreambooth_resume.ui.site import Site
from dreambooth_resume.ui.uploads import keep, tidy

UPLOADS = ".dbr-pictures"
"""Beside the homes, hidden from the list of runs: pictures that were uploaded for runs (uploads.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A run that somebody wants. `values` are options of `dbr train` and of the launcher, as typed."""

    place: str
    name: str
    where: str = "local"
    values: Mapping[str, str] = field(default_factory=dict)
    preset: str | None = None
    folder: str = ""
    """Of pictures, on this machine; used where nothing was uploaded."""
    uploads: tuple[Path, ...] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    """Of the uploads, by the names that they get (draft.py)."""


def review_of(site: Site, wish: Wish) -> Review:
    """Look at everything; nothing is started, and nothing written but a copy of uploads that goes with the page.

    What is shown names the folder in which a start keeps them.
    """
    try:
        if wish.place not in site.homes.places:
            raise BadInput("is none of the places of this page", where="place", fix=", ".join(site.homes.places))
        home = home_of(wish.place, wish.name)
        if not site.homes.allows(home):
            raise BadInput("leads elsewhere", where=home, fix="choose another name")
        if _is_taken(site, home):
            what = f"{home} holds a run"
            taken = FieldError(name="name", what=what, fix="open it to resume it, or choose another name")
            return Review(errors=(taken,), home=home)
        values = dict(wish.values)
        if wish.uploads or wish.folder:
            values["instance_data_dir"] = str(pictures_of(site, wish))
        made = review(
            values,
            where=wish.where,
            home=home,
            preset=wish.preset,
            may_use=lambda path: may_use(path, [*site.files, *site.homes.places, str(_looked_at(site))]),
            s3_words=site.s3_words,
        )
        return _as_kept(site, made) if wish.uploads else made
    except BadInput as error:
        where = f"{error.where}: " if error.where else ""
        return Review(errors=(FieldError(name="", what=f"{where}{error.what}", fix=error.fix or ""),))
    except DbrError as error:
        return Review(errors=(FieldError(name="", what=str(error), fix=""),))


def begin_run(site: Site, wish: Wish) -> Review:
    """Check, and start if nothing is wrong. Asked twice while it starts, it is started once."""
    made = review_of(site, wish)
    if not made.words:
        return made
    if wish.uploads:
        folder = _uploads_folder(site)
        try:
            tidy(folder, lambda home: _needs_its_uploads(site, home))
            keep(pictures_of(site, wish), folder, _wherever_served(made.home))
        except OSError as error:
            what = f"can't be kept: {error.strerror or error}"
            fix = "make room there, or name the folder of the pictures"
            return Review(errors=(FieldError(name="", what=f"{folder}: {what}", fix=fix),), home=made.home)
    try:
        # The command adds nothing to its words: those for the bucket are in them.
        site.commands.begin(made.home, "start", made.words)
    except BadInput as error:
        return Review(errors=(FieldError(name="", what=error.what, fix=error.fix or ""),), home=made.home)
    return made


def _is_taken(site: Site, home: str) -> bool:
    """Does the home hold a run? `dbr launch` would go on with it, whatever was asked for here."""
    if any(one.verb == "start" and one.state == "running" for one in site.commands.of(home)):
        return False  # a second click on Start: it is told of the first one
    return read_record(open_storage(home, site.homes.s3)) is not None


def pictures_of(site: Site, wish: Wish) -> Path:
    """The folder of the wish's pictures; of uploads, that of a copy which goes with the page.

    Raises BadInput for uploads that are no pictures, and for a folder that this page may not read.
    """
    if wish.uploads:
        return store_pictures(wish.uploads, wish.captions, _looked_at(site))
    if not wish.folder:
        raise BadInput("are missing", where="pictures", fix="drop some, or name a folder")
    if not may_use(wish.folder, [*site.files, *site.homes.places]):
        raise BadInput(
            "is outside of the folders that this page may read",
            where=wish.folder[:200],
            fix="start dbr ui with --files FOLDER",
        )
    return Path(wish.folder)


def may_use(path: str, folders: list[str]) -> bool:
    """May a browser name this? An address may; a path only within `folders`. A Hub's id is a path that isn't there."""
    if "://" in path:
        return path.startswith("s3://")
    local = [folder for folder in folders if "://" not in folder]
    looks_like_an_id = not path.startswith(("/", "~", ".")) and ".." not in Path(path).parts and not Path(path).exists()
    return looks_like_an_id or is_within(path, local)


def test_access(site: Site, place: str) -> str:
    """HTML: may runs be kept in this place? Writes, reads and deletes one small key."""
    if place not in site.homes.places:
        return f'<div class="dbr">{markup.problem("That is none of the places of this page.")}</div>'
    try:
        storage = open_storage(place, site.homes.s3)
        check_access(storage)
        said = probe(storage, allow_unfenced=False)
    except DbrError as error:
        return f'<div class="dbr">{markup.problem(str(error), getattr(error, "fix", "") or "")}</div>'
    free = storage.free_bytes()
    room = f"; {free / 1e9:,.0f} GB free" if free is not None else ""
    told = f"✓ {place} can be read and written; {said}{room}."
    return f'<div class="dbr"><p class="say">{markup.text(told)}</p></div>'


def _looked_at(site: Site) -> Path:
    return site.served.folder / "looked-at"


_OF_UPLOADS = """\
# The pictures were dropped into the page: instance_data_dir is there once Start is clicked, and is tidied away from a
# day later on, when the run has copies of its own. For other runs name a folder that you keep.
"""


def _as_kept(site: Site, made: Review) -> Review:
    """With the folder in which a start keeps the uploads in place of the one that was looked at.

    `train_words` go on naming that one, which is there already: an estimate and an examination read it.
    """
    before, kept = str(_looked_at(site)), str(_uploads_folder(site).absolute())
    return replace(
        made,
        words=tuple(word.replace(before, kept) for word in made.words),
        differs=tuple((name, was, now.replace(before, kept)) for name, was, now in made.differs),
        yaml=f"{_OF_UPLOADS}{made.yaml.replace(before, kept)}",
        plan=made.plan.replace(before, kept),
    )


def _wherever_served(home: str) -> str:
    return home if "://" in home else str(Path(home).absolute())


def _needs_its_uploads(site: Site, home: str) -> bool:
    """Is there a run in `home` that has no copy of its own of the pictures? Yes, too, where that can't be told."""
    if "://" not in home and not Path(home).parent.is_dir():
        return True
    try:
        storage = open_storage(home, site.homes.s3)
        if read_record(storage) is None and not read_launches(storage):
            return False
        return not any(stored.key == INPUTS_LIST for stored in storage.list(INPUTS_LIST))
    except DbrError:
        return True


def _uploads_folder(site: Site) -> Path:
    """Beside the first folder of homes; where all are in buckets, in this user's cache."""
    local = next((place for place in site.homes.places if "://" not in place), None)
    if local is not None:
        return Path(local) / UPLOADS
    base = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    mark = hashlib.sha256(site.homes.places[0].encode()).hexdigest()[:16]
    return cache / "dreambooth_resume" / "pictures" / mark


def with_options(wish: Wish, values: Mapping[str, object]) -> Wish:
    """The wish with options as programs give them."""
    typed = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    return replace(wish, values=typed)
