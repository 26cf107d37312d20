"""What the page Try it asks of `dbr generate`: words of ours alone, and pictures under names of ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.checkpoints import list_checkpoints
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.ui.served import Served
from dreambooth_resume.ui.try_out import Idea, checkpoint_choices, chosen, idea_words, keep_pictures
from dreambooth_resume.ui.try_parts import nothing_yet, pair, refused, try_address
from tests.unit.insight.test_report import png, run_in
from tests.unit.ui.test_markup import HOSTILE, assert_harmless

IDEA = Idea(home="runs/dog", checkpoint="checkpoint-40", prompt="--out=/etc; $(id)")


def words_of(idea: Idea) -> list[str]:
    return idea_words(
        idea, home="s3://b/dog", folder="checkpoint-40", out=Path("/tmp/out"), s3_words=["--s3-region", "x"],
        may_use=lambda path: path == "models/sdxl",
    )  # fmt: skip


def test_what_is_typed_never_becomes_a_flag_and_what_is_empty_is_left_to_the_command() -> None:
    words = words_of(replace(IDEA, seed="7", steps="20", negative_prompt="blue", model="models/sdxl"))
    assert words[:4] == ["generate", "s3://b/dog", "--step=checkpoint-40", "--prompt=--out=/etc; $(id)"]
    assert set(words[4:8]) == {
        "--seed=7", "--steps=20", "--negative-prompt=blue", "--pretrained-model-name-or-path=models/sdxl",
    }  # fmt: skip
    assert words[8:] == ["--s3-region", "x", "--out=/tmp/out", "--json"]


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"prompt": " \0 "}, "prompt"), ({"prompt": "x" * 5000}, "prompt"), ({"seed": "-1"}, "seed"),
        ({"steps": "0"}, "denoising steps"), ({"steps": "1e9"}, "denoising steps"), ({"width": "99999"}, "width"),
        ({"height": "six"}, "height"), ({"guidance": "nan"}, "guidance"), ({"guidance": "--out"}, "guidance"),
        ({"model": "/etc"}, "/etc"),
    ],
)  # fmt: skip
def test_what_can_not_be_painted_is_refused_before_a_process_begins(changed: dict[str, str], where: str) -> None:
    with pytest.raises(BadInput) as refused_:
        words_of(replace(IDEA, **changed))
    assert refused_.value.where == where
    assert refused_.value.fix


def test_the_newest_checkpoint_comes_first_and_an_address_names_one_by_step_or_folder(tmp_path: Path) -> None:
    choices = checkpoint_choices(list_checkpoints(read_log(run_in(tmp_path / "dog"))))
    assert choices == [("step 80 (the result)", "checkpoint-80-a2"), ("step 40", "checkpoint-40")]
    assert chosen(choices, "40") == chosen(choices, "checkpoint-40") == "checkpoint-40"
    assert chosen(choices, "80") == chosen(choices, "") == chosen(choices, "../x") == "checkpoint-80-a2"
    assert chosen([], "40") == ""
    assert try_address("runs/a b", "checkpoint-40") == "try?home=runs%2Fa%20b&step=checkpoint-40"


def test_pictures_are_kept_under_names_that_say_what_they_are(tmp_path: Path) -> None:
    served = Served()
    made = served.scratch("1")
    made.mkdir()
    facts = {
        "prompt": HOSTILE, "negative_prompt": "", "width": 64, "height": 64, "num_inference_steps": 2,
        "guidance_scale": 5.0, "seed": 7, "number": 0,
    }  # fmt: skip
    listed = []
    for name, checkpoint in (("base-0.png", None), ("checkpoint-40-0.png", "checkpoint-40")):
        (made / name).write_bytes(png())
        listed.append({"file": str(made / name), "checkpoint": checkpoint, **facts})
    kept = keep_pictures(served, json.dumps(listed), run="../dog <b>", mark="1")
    assert [one.path.name for one in kept] == ["base-model-seed-7.png", "-dog--b--checkpoint-40-seed-7.png"]
    assert all(one.path.is_relative_to(served.folder) and one.path.read_bytes() == png() for one in kept)
    said = pair(kept, lambda path: f"file={path.name}", "dbr generate")
    assert said.count("<img") == said.count("download=") == 2
    assert "seed 7, 2 steps, guidance 5, 64 × 64" in said
    (made / "base-0.png").write_bytes(b"<html>")
    for output in (json.dumps(listed), "not json", "{}"):
        with pytest.raises(ValueError, match=r"picture|Expecting"):
            keep_pictures(served, output, run="dog", mark="2")
    served.close()


def test_hostile_words_stay_text() -> None:
    assert_harmless(nothing_yet(any_run=False) + refused(HOSTILE, HOSTILE) + pair([], str, HOSTILE))
