"""What an evaluation asks for, what it found, and what that means. Nothing here needs a model.

As in the DreamBooth paper (arXiv:2208.12242): subject fidelity is the mean cosine similarity between pictures made
with the LoRA and the real ones, by DINO (`dino`) and by CLIP (`clip-i`); prompt fidelity that between a picture and its
prompt by CLIP (`clip-t`).

An evaluation has a key of its own in the home, made of all that decides its numbers. Below it every picture of every
checkpoint has one record, written once and sealed with its own digest: killed at any moment, an evaluation goes on with
the next picture, and ends in the same numbers. A record that is damaged counts as none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Literal

from pydantic import JsonValue, ValidationError

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.curves import CurvePoint
from dreambooth_resume.runs.entries import Record, sealed, unsealed
from dreambooth_resume.runs.home import EVALUATION_PREFIX, checkpoint_name, evaluation_key, evaluation_parts
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.side_by_side import side_by_side

Metric = Literal["dino", "clip-i", "clip-t", "loss"]
METRICS: tuple[Metric, ...] = ("dino", "clip-i", "clip-t", "loss")
RECIPE_NAME = "recipe.json"
_FORMAT = 1
_WORSE_PROMPT = 0.95
"""Prompt fidelity below so much of its best, with a subject that is hit no worse, is over-fitting."""

_PLACES = """in the jungle|in the snow|on the beach|on a cobblestone street|on top of pink fabric
|on top of a wooden floor|with a city in the background|with a mountain in the background
|with a blue house in the background
|on top of a purple rug in a forest"""
_MORE_PLACES = """with a wheat field in the background|with a tree and autumn leaves in the background
|with the Eiffel Tower in the background|floating on top of water|floating in an ocean of milk
|on top of green grass with sunflowers around it|on top of a mirror|on top of the sidewalk in a crowded street
|on top of a dirt road|on top of a white rug"""
_CLOTHES = """wearing a red hat|wearing a santa hat|wearing a rainbow scarf|wearing a black top hat and a monocle
|in a chef outfit|in a firefighter outfit|in a police outfit|wearing pink glasses|wearing a yellow shirt
|in a purple wizard outfit"""
_LOOKS = tuple(f"a {look} {{}}" for look in ("red", "purple", "shiny", "wet", "cube shaped"))


def _with_subject(places: str) -> tuple[str, ...]:
    return tuple(f"a {{}} {place.strip()}" for place in places.split("|"))


PROMPTS: Mapping[str, tuple[str, ...]] = {
    "objects": (*_with_subject(_PLACES), *_with_subject(_MORE_PLACES), *_LOOKS),
    "live": (*_with_subject(_PLACES), *_with_subject(_CLOTHES), *_LOOKS),
    "short": ("a {} in the snow", "a {} on the beach", "a {} with a city in the background", "a red {}"),
}
"""`objects` and `live`: the paper's 25 prompts for objects and for live subjects; `short`: four of them."""


class Recipe(Record):
    """All that decides the numbers but the LoRA. Models and pictures by their digests, wherever they lie."""

    format: int = _FORMAT
    prompts: tuple[str, ...]
    """With which the pictures are made."""
    scored_as: tuple[str, ...]
    """What `clip-t` compares them with: the same without the rare word, which CLIP doesn't know."""
    seed: int
    num_images: int
    num_inference_steps: int
    guidance_scale: float
    height: int
    width: int
    base_model: dict[str, str]
    pictures: tuple[str, ...]
    """SHA-256 of the real ones."""
    scorers: dict[str, str]
    """`dino` and `clip`: the digest of their weights and settings."""

    @property
    def key(self) -> str:
        """Sixteen digits that stand for all of it."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def pictures_made(self) -> int:
        return len(self.prompts) * self.num_images


class PictureScore(Record):
    """One picture of one checkpoint."""

    lora_sha256: str
    png_sha256: str
    prompt: str
    number: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The means of one checkpoint."""

    folder: str
    step: int
    pictures: int
    is_whole: bool
    """All pictures of the recipe are among them."""
    values: Mapping[str, float]

    @property
    def subject(self) -> float | None:
        return _mean_of([self.values[name] for name in ("dino", "clip-i") if name in self.values])

    @property
    def prompt(self) -> float | None:
        return self.values.get("clip-t")

    @property
    def fidelity(self) -> float | None:
        """Subject times prompt, or the one that is known: a tenth less of either counts the same."""
        known = [value for value in (self.subject, self.prompt) if value is not None]
        return math.prod(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One recipe's results, by step."""

    key: str
    recipe: Recipe
    scores: tuple[Scores, ...]

    @property
    def best(self) -> Scores | None:
        """The one with the highest fidelity; where none has such a number, the one with the lowest loss."""
        whole = [one for one in self.scores if one.is_whole]
        judged = [(one.fidelity, -one.step, one) for one in whole if one.fidelity is not None]
        if judged:
            return max(judged, key=lambda pair: pair[:2])[2]
        with_loss = [one for one in whole if "loss" in one.values]
        return min(with_loss, key=lambda one: (one.values["loss"], one.step)) if with_loss else None

    @property
    def over_fitting(self) -> str | None:
        """From which step on the prompt counts for less and less while the subject is hit no better; else None."""
        judged = [one for one in self.scores if one.is_whole and one.subject is not None and one.prompt is not None]
        if len(judged) < 3:
            return None
        peak = max(judged, key=lambda one: (one.prompt or 0.0, -one.step))
        last = judged[-1]
        fell = (last.prompt or 0.0) < _WORSE_PROMPT * (peak.prompt or 0.0)
        if last.step <= peak.step or not fell or (last.subject or 0.0) < (peak.subject or 0.0):
            return None
        return (
            f"prompt fidelity was highest at step {peak.step:,} ({peak.prompt:.3f}) and is {last.prompt:.3f} at step "
            f"{last.step:,}, while the subject is hit as well: over-fitting after step {peak.step:,}"
        )


def filled(templates: Sequence[str], words: str) -> tuple[str, ...]:
    """The prompts with the subject in place of `{}`; nothing else in them has a meaning."""
    return tuple(template.replace("{}", words) for template in templates)


def write_recipe(storage: Storage, recipe: Recipe) -> None:
    """Once; a second evaluation of the same kind finds it there."""
    body = sealed(recipe.model_dump(mode="json"))
    storage.put_if_absent(evaluation_key(recipe.key, RECIPE_NAME), body)


def write_score(storage: Storage, recipe: Recipe, folder: str, place: int, score: PictureScore) -> None:
    """Once. What lies there already and is whole has the same numbers; what is damaged is written over."""
    key, body = score_key(recipe, folder, place), sealed(score.model_dump(mode="json"))
    if not storage.put_if_absent(key, body) and read_score(storage, recipe, folder, place) is None:
        storage.write(key, [body])


def read_score(storage: Storage, recipe: Recipe, folder: str, place: int) -> PictureScore | None:
    """None: not there, or not what was written."""
    return _read_score(storage, score_key(recipe, folder, place))


def score_key(recipe: Recipe, folder: str, place: int) -> str:
    return evaluation_key(recipe.key, f"{folder}/{place:04d}.json")


def read_evaluations(storage: Storage, points: Sequence[CurvePoint] = ()) -> tuple[Evaluation, ...]:
    """Every evaluation in the home; `points` are the run's curve, from which the loss comes.

    The one with the most checkpoints comes first. What can't be read is passed over.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for listed in storage.list(EVALUATION_PREFIX):
        if (parts := evaluation_parts(listed.key)) is not None:
            key, folder, _ = parts
            if folder:
                found.setdefault(key, {}).setdefault(folder, []).append(listed.key)
    losses = {point.step: point.val_loss for point in points if point.val_loss is not None}
    evaluations = []
    for key, folders in found.items():
        if (recipe := _read_recipe(storage, key)) is None:
            continue
        each = (_scores(storage, recipe, folder, keys, losses) for folder, keys in folders.items())
        scores = sorted((one for one in each if one is not None), key=lambda one: (one.step, one.folder))
        evaluations.append(Evaluation(key=key, recipe=recipe, scores=tuple(scores)))
    return tuple(sorted(evaluations, key=lambda one: (-len(one.scores), one.key)))


def _scores(
    storage: Storage, recipe: Recipe, folder: str, keys: Sequence[str], losses: Mapping[int, float]
) -> Scores | None:
    # Together, since a home in a bucket answers each with the same delay.
    found = side_by_side(storage, partial(_read_score, storage), sorted(keys))
    return scores_of(recipe, folder, [score for score in found if score is not None], losses=losses)


def scores_of(
    recipe: Recipe, folder: str, read: Sequence[PictureScore], *, losses: Mapping[int, float]
) -> Scores | None:
    """The means of a checkpoint's pictures, and the loss of its step; None without any."""
    name = checkpoint_name(folder)
    if name is None or not read:
        return None
    values: dict[str, float] = {}
    for metric in METRICS:
        if (mean := _mean_of([one.values[metric] for one in read if metric in one.values])) is not None:
            values[metric] = mean
    if name[0] in losses:
        values["loss"] = losses[name[0]]
    return Scores(
        folder=folder, step=name[0], pictures=len(read), is_whole=len(read) == recipe.pictures_made, values=values
    )


def _mean_of(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _read_recipe(storage: Storage, key: str) -> Recipe | None:
    try:
        recipe = Recipe.model_validate(unsealed(storage.read(evaluation_key(key, RECIPE_NAME))))
    except (KeyNotFound, ValueError, ValidationError):
        return None
    return recipe if recipe.key == key else None


def _read_score(storage: Storage, key: str) -> PictureScore | None:
    try:
        return PictureScore.model_validate(unsealed(storage.read(key)))
    except (KeyNotFound, ValueError, ValidationError):
        return None


def rows_of(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """A row for each checkpoint, for people: step, the metrics in order, and what is to be said of it."""
    best = evaluation.best
    return [
        (
            f"{one.step:,}",
            *(f"{one.values[metric]:.4f}" if metric in one.values else "-" for metric in METRICS),
            "the best"
            if one is best
            else ""
            if one.is_whole
            else f"{one.pictures} of {evaluation.recipe.pictures_made}",
        )
        for one in evaluation.scores
    ]


def facts_of(evaluation: Evaluation) -> dict[str, JsonValue]:
    """For programs."""
    best = evaluation.best
    return {
        "evaluation": evaluation.key,
        "recipe": evaluation.recipe.model_dump(mode="json"),
        "scores": [
            {"checkpoint": one.folder, "step": one.step, "pictures": one.pictures, "is_whole": one.is_whole,
             **{metric: one.values.get(metric) for metric in METRICS}}
            for one in evaluation.scores
        ],
        "best": best.folder if best else None,
        "over_fitting": evaluation.over_fitting,
    }  # fmt: skip
