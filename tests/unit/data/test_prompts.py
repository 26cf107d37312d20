"""Which prompt a sample gets: a function of the step, out of few, with class pictures left alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_resume.data.dataset import Picture, PictureSet
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.data.prompts import DROPPED, ORDERS, PromptDraws

TAGS = "sks dog, snow, red ball , running,, side view"


def picture(prompt: str) -> Picture:
    return Picture(name="a.png", path=Path("a.png"), sha256="0" * 64, size_bytes=1, width=8, height=8, prompt=prompt)


def plan(prompts: tuple[str, ...] = (TAGS,), *, class_count: int = 0) -> tuple[Plan, PictureSet]:
    pictures = tuple(map(picture, (*prompts, *["class, prompt, of, many, tags"] * class_count)))
    return Plan(seed=5, picture_count=len(prompts), batch_size=4, class_count=class_count), PictureSet(
        pictures=pictures
    )


def drawn(draws: PromptDraws, steps: int = 200) -> list[str]:
    order, pictures = plan()
    return [
        draws.prompt(pictures.pictures[slot.picture], slot, seed=order.seed)
        for step in range(steps)
        for slot in order.batch(step)
    ]


def test_without_options_it_is_the_pictures_own() -> None:
    assert set(drawn(PromptDraws())) == {TAGS}
    order, pictures = plan(("b", "a"))
    assert PromptDraws().prompts(pictures, order) == ("a", "b")


def test_shuffled_tags_are_all_there_behind_those_that_are_kept() -> None:
    draws = PromptDraws(shuffle=True, keep_tokens=1)
    found = Counter(drawn(draws))
    assert 4 < len(found) <= ORDERS
    for prompt in found:
        first, *others = prompt.split(", ")
        assert first == "sks dog"
        assert sorted(others) == ["red ball", "running", "side view", "snow"]
    order, pictures = plan()
    assert set(found) == set(draws.prompts(pictures, order))


def test_golden_prompts() -> None:
    """Part of every run: a change here changes runs that go on."""
    assert drawn(PromptDraws(shuffle=True, keep_tokens=1, dropout=0.3), 2) == GOLDEN


GOLDEN = [
    "sks dog, running, side view, snow, red ball",
    "sks dog, running, side view, snow, red ball",
    "sks dog, snow, side view, running, red ball",
    "",
    "sks dog, running, snow, red ball, side view",
    "sks dog, snow, side view, running, red ball",
    "",
    "sks dog, running, snow, red ball, side view",
]


def test_captions_are_dropped_as_often_as_asked_and_not_others_with_shuffling() -> None:
    plain, both = drawn(PromptDraws(dropout=0.25)), drawn(PromptDraws(dropout=0.25, shuffle=True))
    assert 0.2 < plain.count(DROPPED) / len(plain) < 0.3
    assert [one == DROPPED for one in plain] == [one == DROPPED for one in both]
    assert set(drawn(PromptDraws(dropout=1.0), 20)) == {DROPPED}


def test_class_pictures_keep_their_prompt() -> None:
    draws = PromptDraws(dropout=0.5, shuffle=True)
    order, pictures = plan(class_count=3)
    ridden = [slot for step in range(20) for slot in order.class_batch(step)]
    kept = "class, prompt, of, many, tags"
    assert {draws.prompt(pictures.pictures[slot.picture], slot, seed=5) for slot in ridden} == {kept}
    among = draws.prompts(pictures, order)
    assert kept in among
    assert len(among) <= ORDERS + 2


@pytest.mark.parametrize(("prompt", "keep"), [("a photo of sks dog", 0), ("sks dog, snow", 1), ("sks dog,", 0)])
def test_what_cannot_be_shuffled_stays_as_it_is(prompt: str, keep: int) -> None:
    order, pictures = plan((prompt,))
    assert PromptDraws(shuffle=True, keep_tokens=keep).prompts(pictures, order) == (prompt,)


def test_another_separator() -> None:
    order, pictures = plan(("one; two, too; three",))
    found = PromptDraws(shuffle=True, separator=";").prompts(pictures, order)
    assert all(sorted(prompt.split("; ")) == ["one", "three", "two, too"] for prompt in found)


def test_orders_hang_on_the_caption_and_not_on_its_place() -> None:
    draws = PromptDraws(shuffle=True)
    order, pictures = plan()
    more, others = plan(("x, y, z", TAGS))
    assert set(draws.prompts(pictures, order)) < set(draws.prompts(others, more))
    assert draws.prompts(pictures, replace(order, seed=6)) != draws.prompts(pictures, order)
