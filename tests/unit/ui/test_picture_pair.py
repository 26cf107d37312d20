"""Two pictures over each other: which they are, whatever a browser asks for."""

from __future__ import annotations

import pytest

from dreambooth_resume.runs.samples import SampleSet, read_samples, write_samples
from tests.fakes.memory_storage import MemoryStorage

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'dreambooth-resume[ui]'")

from dreambooth_resume.ui.picture_pair import choices_of, pictures_of


@pytest.fixture
def sets() -> tuple[SampleSet, ...]:
    storage = MemoryStorage()
    prompts = [{"prompt": "a dog"}, {"prompt": "a dog in snow"}]
    recipe = {"prompt": "a dog", "seed": 0}
    write_samples(storage, (b"1", b"2"), step=100, attempt=1, recipe=recipe, facts=prompts)
    write_samples(storage, (b"3", b"4"), step=200, attempt=2, recipe=recipe, facts=prompts)
    write_samples(storage, (b"5",), step=200, attempt=2, recipe=recipe, facts=prompts[:1], kind="0123abcd")
    return read_samples(storage)


def test_the_sets_are_named_by_step_and_the_prompts_by_their_words(sets: tuple[SampleSet, ...]) -> None:
    named, prompts = choices_of(sets)
    assert ("step 100", "samples/100-a1/0.png") in named
    assert ("step 200 (attempt 2)", "samples/200-a2/0.png") in named
    assert any("asked for" in shown for shown, _ in named)
    assert named[-1][0] == "step 100", "the newest come first"
    assert prompts == [("1: a dog", "0"), ("2: a dog in snow", "1")]
    assert choices_of(()) == ([], [])


def test_two_of_the_same_prompt_are_laid_over_each_other(sets: tuple[SampleSet, ...]) -> None:
    first, second = "samples/100-a1/0.png", "samples/200-a2/0.png"
    assert pictures_of(sets, [first, second], "0") == [first, second]
    assert pictures_of(sets, [first, second], "1") == ["samples/100-a1/1.png", "samples/200-a2/1.png"]


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "samples/100-a1/7.png"])
def test_what_is_no_set_or_no_prompt_of_the_run_is_shown_as_nothing(sets: tuple[SampleSet, ...], name: str) -> None:
    first = "samples/100-a1/0.png"
    assert pictures_of(sets, [first, name], "0") == []
    assert pictures_of(sets, [first, "samples/200-a2-0123abcd/0.png"], "1") == [], "it has one picture only"
    assert pictures_of(sets, [first, first], "99") == []
