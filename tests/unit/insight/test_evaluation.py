"""What an evaluation's numbers mean, and what counts as one: pure functions and records in a home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.insight.evaluation import (
    METRICS,
    PROMPTS,
    Evaluation,
    PictureScore,
    Recipe,
    Scores,
    filled,
    read_evaluations,
    read_score,
    score_key,
    write_recipe,
    write_score,
)
from dreambooth_resume.insight.evaluation_chart import evaluation_sections
from dreambooth_resume.runs.curves import CurvePoint
from dreambooth_resume.runs.home import evaluation_parts
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.evaluate import class_words_of, subject_of
from dreambooth_resume.workflows.inventory import take_inventory
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import record_run

pytestmark = pytest.mark.quick


def recipe(**changed: Any) -> Recipe:
    facts: dict[str, Any] = {
        "prompts": ("a sks dog in the snow", "a red sks dog"), "scored_as": ("a dog in the snow", "a red dog"),
        "seed": 0, "num_images": 1, "num_inference_steps": 2, "guidance_scale": 5.0, "height": 64, "width": 64,
        "base_model": {}, "pictures": ("ab" * 32,), "scorers": {"dino": "cd" * 32},
    }  # fmt: skip
    return Recipe(**{**facts, **changed})


def score(**values: float) -> PictureScore:
    named = {name.replace("_", "-"): value for name, value in values.items()}
    return PictureScore(lora_sha256="0" * 64, png_sha256="1" * 64, prompt="x", number=0, values=named)


def evaluation(*rows: tuple[int, float | None, float | None], **more: Any) -> Evaluation:
    def scores(step: int, dino: float | None, clip_t: float | None) -> Scores:
        values = {name: value for name, value in (("dino", dino), ("clip-t", clip_t)) if value is not None}
        return Scores(folder=f"checkpoint-{step}", step=step, pictures=2, is_whole=True, values=values)

    return Evaluation(key="0" * 16, recipe=recipe(), scores=tuple(scores(*row) for row in rows))


def test_the_papers_prompts_are_there_each_once_and_with_the_subject() -> None:
    for name in ("objects", "live"):
        assert len(set(PROMPTS[name])) == 25
        assert all(template.count("{}") == 1 for template in PROMPTS[name])
    assert "a {} on top of a purple rug in a forest" in PROMPTS["objects"]
    assert "a {} wearing a black top hat and a monocle" in PROMPTS["live"]
    assert "a cube shaped {}" in PROMPTS["live"]
    assert set(PROMPTS["short"]) <= set(PROMPTS["objects"])
    assert filled(("a {} {x} %s",), "sks dog") == ("a sks dog {x} %s",)


@pytest.mark.parametrize(
    ("prompt", "subject", "words"),
    [
        ("a photo of sks dog", "sks dog", "dog"),
        ("A photo of sks teddy bear", "sks teddy bear", "teddy bear"),
        ("sks", "sks", "sks"),
        ("", "", ""),
    ],
)
def test_the_subject_is_told_from_the_runs_prompt(prompt: str, subject: str, words: str) -> None:
    assert subject_of(prompt) == subject
    assert class_words_of(subject) == words


def test_whatever_decides_the_numbers_is_in_the_key() -> None:
    first = recipe().key
    others = [
        recipe(seed=1), recipe(num_images=2), recipe(num_inference_steps=3), recipe(guidance_scale=4.0),
        recipe(height=32), recipe(pictures=("00" * 32,)), recipe(scorers={"dino": "00" * 32}),
        recipe(scored_as=("x", "y")), recipe(base_model={"unet": "1"}),
    ]  # fmt: skip
    assert len({first, *(one.key for one in others)}) == len(others) + 1
    assert recipe().key == first


def test_the_best_hits_both_the_subject_and_the_prompt() -> None:
    best = evaluation((100, 0.4, 0.32), (200, 0.6, 0.30), (300, 0.62, 0.20)).best
    assert best is not None
    assert best.step == 200
    assert evaluation((100, 0.4, None), (200, 0.6, None)).best.step == 200  # type: ignore[union-attr]
    assert evaluation((100, 0.5, 0.3), (200, 0.5, 0.3)).best.step == 100  # type: ignore[union-attr]
    assert evaluation().best is None


def test_over_fitting_is_a_prompt_that_counts_for_less_while_the_subject_is_hit_as_well() -> None:
    told = evaluation((100, 0.4, 0.32), (200, 0.6, 0.31), (300, 0.62, 0.25)).over_fitting
    assert told is not None
    assert "highest at step 100 (0.320)" in told
    assert evaluation((100, 0.4, 0.30), (200, 0.6, 0.31), (300, 0.62, 0.31)).over_fitting is None
    assert evaluation((100, 0.7, 0.32), (200, 0.6, 0.31), (300, 0.5, 0.25)).over_fitting is None
    assert evaluation((100, 0.4, 0.32), (200, 0.6, 0.1)).over_fitting is None


def test_scores_are_read_back_as_means_with_the_loss_of_the_same_step(tmp_path: Path) -> None:
    storage, asked = LocalStorage(tmp_path), recipe()
    write_recipe(storage, asked)
    write_score(storage, asked, "checkpoint-2", 0, score(dino=0.2, clip_t=0.1))
    write_score(storage, asked, "checkpoint-2", 1, score(dino=0.4, clip_t=0.3))
    write_score(storage, asked, "checkpoint-4-a2", 0, score(dino=0.5))
    points = [CurvePoint(step=step, attempt=1, loss=1.0, val_loss=step / 10) for step in (2, 3, 4)]
    (found,) = read_evaluations(storage, points)
    first, second = found.scores
    assert first.values == pytest.approx({"dino": 0.3, "clip-t": 0.2, "loss": 0.2})
    assert (first.is_whole, second.is_whole, second.step) == (True, False, 4)
    assert found.best is first  # half an evaluation is not compared with a whole one
    inventory = take_inventory(storage)
    assert len(inventory.ours["evaluation"]) == 4
    assert not inventory.foreign
    page = "".join(evaluation_sections([found]))
    assert "The best is checkpoint-2" in page
    assert "1 of 2" in page


def test_a_score_is_written_once_and_one_that_is_damaged_is_written_again(tmp_path: Path) -> None:
    storage, asked = LocalStorage(tmp_path), recipe()
    write_score(storage, asked, "checkpoint-2", 0, score(dino=0.25))
    write_score(storage, asked, "checkpoint-2", 0, score(dino=0.75))
    assert read_score(storage, asked, "checkpoint-2", 0) == score(dino=0.25)
    file = tmp_path / score_key(asked, "checkpoint-2", 0)
    file.write_text(file.read_text().replace("0.25", "0.95"))
    assert read_score(storage, asked, "checkpoint-2", 0) is None
    write_score(storage, asked, "checkpoint-2", 0, score(dino=0.75))
    assert read_score(storage, asked, "checkpoint-2", 0) == score(dino=0.75)


def test_strange_keys_and_a_recipe_of_another_evaluation_are_passed_over(tmp_path: Path) -> None:
    storage, asked = LocalStorage(tmp_path), recipe()
    write_score(storage, asked, "checkpoint-2", 0, score(dino=0.25))
    assert read_evaluations(storage) == ()  # no recipe
    write_recipe(storage, asked)
    (tmp_path / "eval" / asked.key).rename(tmp_path / "eval" / ("f" * 16))
    assert read_evaluations(storage) == ()
    for key in ("eval/x/recipe.json", "eval/" + "0" * 16 + "/../0001.json", "eval/" + "0" * 16 + "/c-1/0001.json"):
        assert evaluation_parts(key) is None


def test_what_is_there_is_shown_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, asked = LocalStorage(tmp_path / "dog"), recipe()
    record_run(storage)
    begin(storage).commit(2)
    home = str(storage.root)
    assert main(["eval", home, "--show"]) == 0
    assert "Nothing is evaluated yet" in capsys.readouterr().out
    write_recipe(storage, asked)
    for place in (0, 1):
        write_score(storage, asked, "checkpoint-2", place, score(dino=0.5, clip_t=0.25))
    assert main(["eval", home, "--show", "--html", str(tmp_path / "x.html")]) == 0
    told = capsys.readouterr().out
    assert "0.5000" in told
    assert "The best is checkpoint-2." in told
    assert "<circle" in (tmp_path / "x.html").read_text()
    assert main(["eval", home, "--show", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["best"] == "checkpoint-2"
    assert set(METRICS) <= facts["scores"][0].keys()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--metrics", "fid"], "fid is none"),
        (["--metrics", ","], "names none"),
        (["--prompts", "no-such-file"], "is no file that can be read"),
        (["--steps", "7"], "7 is no checkpoint of this run"),
        (["--num-images", "0"], "is not a whole number"),
        (["--seed", "-1"], "is not a whole number"),
        (["--guidance-scale", "nan"], "is not a number from 0 to 100"),
        ([], "it isn't known what the subject is called"),
    ],
)
def test_bad_words_are_refused_before_a_model_is_loaded(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    begin(storage).commit(2)
    subject = ["--subject", "sks dog"] if words else []
    assert main(["eval", str(storage.root), *subject, *words]) == 2
    assert told in capsys.readouterr().err
