"""`dbr eval`: pictures of every checkpoint, scored one by one, each score in the home before the next is begun.

Reads checkpoints and pictures of the run, and writes below `eval/` alone: nothing about it reaches a training, which
may go on meanwhile. Killed anywhere, it has lost the picture it was at.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from dreambooth_resume.checkpoint.best import FIDELITY
from dreambooth_resume.data.inputs import input_key
from dreambooth_resume.errors import BadInput, CheckpointDamaged, Interrupted, KeyNotFound
from dreambooth_resume.insight.evaluation import (
    Metric,
    PictureScore,
    Recipe,
    filled,
    read_score,
    scores_of,
    write_recipe,
    write_score,
)
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.notes import post_note
from dreambooth_resume.runs.record import RunRecord
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.generate import BaseAt, Studio, Trained, Wanted, open_studio
from dreambooth_resume.workflows.inventory import read_inputs

if TYPE_CHECKING:
    from dreambooth_resume.models.fidelity import Clip, Dino

Begun = TypeVar("Begun")

_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif")
_BEGINNINGS = ("a photo of ", "photo of ", "a picture of ", "an image of ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be evaluated, and by what."""

    metrics: tuple[Metric, ...]
    templates: tuple[str, ...]
    """Prompts with `{}` for the subject."""
    subject: str
    class_words: str
    num_images: int
    seed: int
    num_inference_steps: int
    guidance_scale: float
    dino: str
    clip: str
    pictures: Path | None = None
    """A folder of real pictures, in place of the home's copies."""
    base: BaseAt | None = None


def subject_of(prompt: str) -> str:
    """`sks dog` of `a photo of sks dog`."""
    lower = prompt.lower()
    cut = next((len(start) for start in _BEGINNINGS if lower.startswith(start)), 0)
    return prompt[cut:].strip()


def class_words_of(subject: str) -> str:
    """`dog` of `sks dog`: CLIP knows nothing of the rare word."""
    words = subject.split()
    return " ".join(words[1:]) if len(words) > 1 else subject


def evaluate(
    storage: Storage,
    log: Log,
    record: RunRecord,
    refs: Sequence[CheckpointRef],
    asked: Asked,
    *,
    should_stop: Callable[[], bool],
    tell: Callable[[str], None],
) -> Recipe:
    """Score every picture of every checkpoint that has no score yet; the recipe, under which they lie.

    Raises Interrupted when told to stop, BadInput for models or pictures that aren't there, and as `generate` does.
    """
    real = _real_pictures(storage, asked.pictures)
    scorers = _Scorers(asked, [body for _, body in real], tell)
    resolution = record.options.get("resolution")
    side = resolution if isinstance(resolution, int) else 1024
    recipe = Recipe(
        prompts=filled(asked.templates, asked.subject),
        scored_as=filled(asked.templates, asked.class_words),
        seed=asked.seed,
        num_images=asked.num_images,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        height=side,
        width=side,
        base_model=dict(record.pins.base_model),
        pictures=tuple(sorted(sha256 for sha256, _ in real)),
        scorers=scorers.digests,
    )
    write_recipe(storage, recipe)
    missing = [
        (ref, [place for place in range(recipe.pictures_made) if not _is_scored(storage, recipe, ref, place)])
        for ref in refs
    ]
    to_do = [(ref, places) for ref, places in missing if places]
    done = sum(recipe.pictures_made - len(places) for _, places in missing)
    if done:
        tell(f"{done} of {recipe.pictures_made * len(refs)} pictures are scored already.")
    for ref, places in missing:
        if not places:
            _note_score(storage, recipe, ref)
    if not to_do:
        return recipe

    def begin(log: Log, refs: Sequence[CheckpointRef]) -> tuple[Studio, list[tuple[CheckpointRef, Trained]]]:
        studio, _, trained = open_studio(storage, log, refs, _wanted(recipe), base=asked.base, tell=tell)
        return studio, list(zip(refs, trained, strict=True))

    places_of = dict(to_do)
    begun = while_it_trains(storage, log, list(places_of), begin, tell=tell)
    if begun is None:
        return recipe
    studio, opened = begun
    for ref, what in opened:
        places = places_of[ref]
        _score_checkpoint(
            storage, recipe, studio, scorers, _Job(ref=ref, places=places, trained=what), should_stop, tell
        )
        _note_score(storage, recipe, ref)
    return recipe


def _wanted(recipe: Recipe) -> Wanted:
    return Wanted(
        prompts=recipe.prompts,
        num_images=recipe.num_images,
        seed=recipe.seed,
        num_inference_steps=recipe.num_inference_steps,
        guidance_scale=recipe.guidance_scale,
        height=recipe.height,
        width=recipe.width,
    )


def while_it_trains(
    storage: Storage,
    log: Log,
    refs: Sequence[CheckpointRef],
    begin: Callable[[Log, Sequence[CheckpointRef]], Begun],
    *,
    tell: Callable[[str], None],
) -> Begun | None:
    """What `begin` makes of these checkpoints, but for those that the run retires meanwhile; None where none is left.

    Raises as `begin` does, CheckpointDamaged for one that is there to stay.
    """
    left = list(refs)
    while left:
        try:
            return begin(log, left)
        except CheckpointDamaged:
            log = read_log(storage, log)
            gone = [ref for ref in left if ref.number in log.retired]
            if not gone:
                raise
            tell(f"{', '.join(ref.folder for ref in gone)}: left out, because the run has retired it meanwhile.")
            left = [ref for ref in left if ref not in gone]
    return None


def _note_score(storage: Storage, recipe: Recipe, ref: CheckpointRef) -> None:
    """How good this checkpoint is, for `--keep_best` and for people: written once, when its last picture is scored.

    Killed before this line, the same command finds all pictures scored and writes it.
    """
    read = [read_score(storage, recipe, ref.folder, place) for place in range(recipe.pictures_made)]
    found = [score for score in read if score is not None]
    scores = scores_of(recipe, ref.folder, found, losses={})
    if scores is None or scores.fidelity is None:
        return
    shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.values.items())
    post_note(
        storage,
        "score",
        f"{ref.folder}: {shown}",
        checkpoint=ref.number,
        values={"evaluation": recipe.key, FIDELITY: scores.fidelity, **scores.values},
        nonce=hashlib.sha256(f"{recipe.key} {ref.folder}".encode()).hexdigest()[:32],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One checkpoint, and which of its pictures have no score."""

    ref: CheckpointRef
    places: Sequence[int]
    trained: Trained


def _score_checkpoint(
    storage: Storage,
    recipe: Recipe,
    studio: Studio,
    scorers: _Scorers,
    job: _Job,
    should_stop: Callable[[], bool],
    tell: Callable[[str], None],
) -> None:
    lora_sha256 = job.ref.file_named(WEIGHTS_NAME).sha256
    with studio.with_adapter(job.ref, job.trained):
        for place in job.places:
            png = None if should_stop() else studio.paint_unless(studio.specs[place], should_stop=should_stop)
            if png is None:
                raise Interrupted(
                    f"Stopped before picture {place + 1} of {job.ref.folder}; every score so far is in the home. The "
                    "same command goes on from there."
                )
            scored_as = recipe.scored_as[place // recipe.num_images]
            values = scorers.values(png, scored_as)
            score = PictureScore(
                lora_sha256=lora_sha256,
                png_sha256=hashlib.sha256(png).hexdigest(),
                prompt=studio.specs[place].prompt,
                number=studio.specs[place].number,
                values=values,
            )
            # One record a picture, written before the next is begun: killed before this line the picture is made
            # again, to the same numbers; killed after it nothing is.
            write_score(storage, recipe, job.ref.folder, place, score)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            tell(f"{job.ref.folder}: picture {place + 1} of {recipe.pictures_made}  {shown}")


def _is_scored(storage: Storage, recipe: Recipe, ref: CheckpointRef, place: int) -> bool:
    score = read_score(storage, recipe, ref.folder, place)
    return score is not None and score.lora_sha256 == ref.file_named(WEIGHTS_NAME).sha256


class _Scorers:
    """DINO and CLIP, as far as they are asked for, and what they see in the real pictures."""

    def __init__(self, asked: Asked, real: Sequence[bytes], tell: Callable[[str], None]) -> None:
        from dreambooth_resume.models.fidelity import Clip, Dino

        self._metrics = asked.metrics
        self._dino: Dino | None = None
        self._clip: Clip | None = None
        if "dino" in asked.metrics:
            tell(f"Loading {asked.dino}.")
            self._dino = Dino(asked.dino)
        if {"clip-i", "clip-t"} & set(asked.metrics):
            tell(f"Loading {asked.clip}.")
            self._clip = Clip(asked.clip)
        opened = [_opened(body) for body in real]
        self._dino_real = [self._dino.embed(picture) for picture in opened] if self._dino else []
        wants_pictures = self._clip is not None and "clip-i" in asked.metrics
        self._clip_real = [self._clip.embed(picture) for picture in opened] if self._clip and wants_pictures else []

    @property
    def digests(self) -> dict[str, str]:
        found = {"dino": self._dino.digest} if self._dino else {}
        return (
            found | ({"clip": self._clip.digest} if self._clip else {}) | {"metrics": ",".join(sorted(self._metrics))}
        )

    def values(self, png: bytes, text: str) -> dict[str, float]:
        from dreambooth_resume.models.fidelity import similarity

        picture, values = _opened(png), dict[str, float]()
        if self._dino is not None:
            made = self._dino.embed(picture)
            values["dino"] = fmean(similarity(made, one) for one in self._dino_real)
        if self._clip is not None:
            made = self._clip.embed(picture)
            if self._clip_real:
                values["clip-i"] = fmean(similarity(made, one) for one in self._clip_real)
            if "clip-t" in self._metrics:
                values["clip-t"] = similarity(made, self._clip.embed_text(text))
        return values


def _opened(body: bytes) -> Image.Image:
    with Image.open(io.BytesIO(body)) as picture:
        return picture.convert("RGB")


def _real_pictures(storage: Storage, folder: Path | None) -> list[tuple[str, bytes]]:
    """Digest and contents of the subject's pictures. Raises BadInput where there is none that can be read."""
    if folder is not None:
        files = sorted(path for path in folder.glob("*") if path.suffix.lower() in _PICTURE_ENDINGS and path.is_file())
        bodies = [path.read_bytes() for path in files]
        where, fix = f"--instance-data-dir {folder}", "name a folder with pictures of the subject"
    else:
        stored = read_inputs(storage)
        bodies = _stored(storage, [picture.sha256 for picture in stored.pictures]) if stored else []
        where, fix = storage.describe(), "--instance-data-dir FOLDER: the home has no copies of its pictures"
    found: dict[str, bytes] = {}
    for body in bodies:
        try:
            _opened(body)
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        found[hashlib.sha256(body).hexdigest()] = body
    if not found:
        raise BadInput("there are no pictures of the subject to compare with", where=where, fix=fix)
    return sorted(found.items())


def _stored(storage: Storage, digests: Sequence[str]) -> list[bytes]:
    bodies = []
    for sha256 in dict.fromkeys(digests):
        try:
            body = storage.read(input_key(sha256))
        except KeyNotFound:
            continue
        if hashlib.sha256(body).hexdigest() == sha256:
            bodies.append(body)
    return bodies
