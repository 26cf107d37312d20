"""The page Compare: one chart for all losses, pictures in rows by their prompt, and nothing hostile."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from itertools import count
from pathlib import Path

from dreambooth_resume.runs.samples import write_samples
from dreambooth_resume.ui import compare_parts
from dreambooth_resume.ui.compared import Compared
from dreambooth_resume.ui.open_run import OpenRun
from tests.fakes.watched_run import measure
from tests.unit.insight.test_report import png, run_in
from tests.unit.insight.test_side_by_side import facts_in, facts_of
from tests.unit.ui.test_markup import HOSTILE, assert_harmless


def test_all_losses_are_lines_of_one_chart_each_in_its_colour(tmp_path: Path) -> None:
    runs = [facts_in(tmp_path / "a" / "dog"), facts_in(tmp_path / "b" / "dog", steps=60)]
    (points,) = re.findall(r'data-points="([^"]*)"', compare_parts.losses(runs))
    lines = json.loads(html.unescape(points))["lines"]
    assert [line["style"] for line in lines] == ["c0", "c1"]
    assert [line["name"] for line in lines] == [run.home for run in runs], "two that are called dog"
    assert [line["points"][-1][0] for line in lines] == [80, 60]
    said = compare_parts.differences(runs)
    assert "max_train_steps" in said
    assert ">rank<" not in said


def test_pictures_of_the_same_prompt_stand_in_one_row(tmp_path: Path) -> None:
    runs = []
    for name, prompts in (("a", ("a dog", "a moon")), ("b", ("a moon",))):
        storage = run_in(tmp_path / name)
        facts = [{"prompt": prompt} for prompt in prompts]
        recipe = {"prompt": prompts[0], "seed": 0}
        pngs = (png(),) * len(prompts)
        write_samples(storage, pngs, step=40, attempt=1, recipe=recipe, facts=facts)
        runs.append(facts_of(storage))
    said = compare_parts.samples(runs, lambda place, key, small: f"{place}/{key}/{small}")
    dog, moon = (row for row in said.split("<tr>") if ">a dog<" in row or ">a moon<" in row)
    assert (dog.count("<img"), moon.count("<img")) == (1, 2)
    assert "0/samples" in moon
    assert "1/samples" in moon


def test_a_run_is_read_again_only_where_something_moved(tmp_path: Path) -> None:
    storage = run_in(tmp_path / "dog", finished=False)
    run, compared = OpenRun("dog", storage), Compared(monotonic=count(step=60).__next__)
    first = compared.facts(run)
    assert first is not None
    assert (again := compared.facts(run)) is not None
    assert again.curve is first.curve
    measure(storage, 2, dict.fromkeys(range(41, 79), 0.1))
    assert (moved := compared.facts(run)) is not None
    assert moved.curve is not first.curve


def test_hostile_names_and_prompts_stay_text(tmp_path: Path) -> None:
    run = replace(facts_in(tmp_path / "dog"), home=HOSTILE, options={"instance_prompt": HOSTILE})
    other = facts_in(tmp_path / "cat")
    for made in (
        compare_parts.head([run, other], [None, None], [compare_parts.missing(HOSTILE, HOSTILE)]),
        compare_parts.losses([run, other]),
        compare_parts.differences([run, other]),
        compare_parts.too_few(1, any_run=True),
    ):
        assert_harmless(made)
    assert compare_parts.compare_link(["a b", "s3://x/y&z"]) == "compare?home=a%20b&home=s3%3A%2F%2Fx%2Fy%26z"
