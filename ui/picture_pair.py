"""Two pictures of a run over each other, with a slider between them: what did the steps in between change?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dreambooth_resume.runs.samples import SampleSet
from dreambooth_resume.ui.site import PRIVATE

Choices = list[tuple[str, str]]
"""What is shown, and what it stands for, as a dropdown takes them."""
_PROMPT_SHOWN = 90


def choices_of(sets: Sequence[SampleSet]) -> tuple[Choices, Choices]:
    """The sets of pictures, the newest first, by the key of their first one; and the prompts, by their place."""
    named = [(_name(one), one.pictures[0]) for one in reversed(sets) if one.pictures]
    prompts = max((one.prompts for one in sets), key=len, default=())
    return named, [(f"{place + 1}: {prompt[:_PROMPT_SHOWN]}", str(place)) for place, prompt in enumerate(prompts)]


def pictures_of(sets: Sequence[SampleSet], chosen: Sequence[str], prompt: str) -> list[str]:
    """The keys of the two that are meant; none where a set lacks that prompt, or there is no such set (any more)."""
    by_name = {one.pictures[0]: one.pictures for one in sets if one.pictures}
    place = int(prompt) if prompt.isdecimal() else 0
    found = [by_name[name][place] for name in chosen if name in by_name and place < len(by_name[name])]
    return found if len(found) == len(chosen) else []


def build(home: Any, sets_of: Callable[[str], Sequence[SampleSet]], path_of: Callable[[str, str], str | None]) -> None:
    """Puts it into the Blocks that are open. It is filled when it is opened, so that it costs nothing before.

    `home` is the State with the run's address; `sets_of` gives its pictures, `path_of` the served copy of one.
    """
    with gr.Accordion("Two pictures over each other", open=False, elem_id="pair") as box:
        with gr.Row():
            left = gr.Dropdown([], label="Left", scale=1, elem_id="pair-left")
            right = gr.Dropdown([], label="Right", scale=1, elem_id="pair-right")
            prompt = gr.Dropdown([], label="Prompt", scale=2, elem_id="pair-prompt")
        slider = gr.ImageSlider(
            type="filepath", interactive=False, show_label=False, buttons=["fullscreen"], max_height=640, visible=False,
            elem_id="pair-slider",
        )  # fmt: skip

    def laid(address: str, *chosen: str) -> Any:
        *sides, wanted = (str(one or "") for one in chosen)
        keys = pictures_of(sets_of(address), sides, wanted)
        paths = [path for key in keys if (path := path_of(address, key)) is not None]
        return gr.update(value=tuple(paths), visible=True) if len(paths) == 2 else gr.update(value=None, visible=False)

    def opened(address: str) -> list[Any]:
        named, prompts = choices_of(sets_of(address))
        first = named[-1][1] if named else ""
        newest = named[0][1] if named else ""
        place = prompts[0][1] if prompts else ""
        fields = [(named, first), (named, newest), (prompts, place)]
        return [
            *(gr.update(choices=choices, value=value or None) for choices, value in fields),
            laid(address, first, newest, place),
        ]

    box.expand(opened, [home], [left, right, prompt, slider], **PRIVATE)
    gr.on([left.input, right.input, prompt.input], laid, [home, left, right, prompt], [slider], **PRIVATE)


def _name(one: SampleSet) -> str:
    remark = ", the result" if one.is_final else ", asked for" if one.asked else ""
    return f"step {one.step:,}{remark}{f' (attempt {one.attempt})' if one.attempt > 1 else ''}"
