"""Which prompt a sample is trained with: its picture's, the picture's with its tags in another order, or none.

Like everything about a sample this is a function of the seed, the step and the slot. All prompts that may come up are
known ahead, and they are few: embeddings can be computed once and kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from dreambooth_resume.config.options.data import DataOptions
from dreambooth_resume.data.dataset import Picture, PictureSet
from dreambooth_resume.data.plan import Plan, Slot
from dreambooth_resume.data.random import Stream, generator, raw_words

ORDERS = 8
"""Orders of a caption's tags that come up in a run, as there are 8 crops of a picture: each is encoded once."""
DROPPED = ""
"""The prompt of a sample whose caption is dropped. No picture has it: where a caption is blank, another stands in."""
# CAPTION's draws (`random.Stream`).
_SLOT_DRAW, _ORDER_DRAW = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDraws:
    """How often captions are dropped (0 to 1), and whether the tags behind the first `keep_tokens` are shuffled.

    Class pictures are left alone.
    """

    dropout: float = 0.0
    shuffle: bool = False
    keep_tokens: int = 0
    separator: str = ","

    def prompt(self, picture: Picture, slot: Slot, *, seed: int) -> str:
        """What the picture in `slot` is trained with."""
        if slot.is_class or not (self.dropout or self.shuffle):
            return picture.prompt
        # Always two words, so that turning one option on leaves what the other does as it was.
        words = raw_words(generator(seed, Stream.CAPTION, step=slot.step, slot=slot.slot, draw=_SLOT_DRAW), 2)
        if int(words[0]) / 2**64 < self.dropout:
            return DROPPED
        return (
            self._in_order(picture.prompt, int(words[1] % np.uint64(ORDERS)), seed) if self.shuffle else picture.prompt
        )

    def prompts(self, pictures: PictureSet, plan: Plan) -> tuple[str, ...]:
        """All that may come up, sorted: `MicroBatch.prompt_index` counts in this order. At most 8 a picture."""
        own = {picture.prompt for picture in pictures.pictures[: plan.pictures_in_all]}
        ridden = {picture.prompt for picture in pictures.pictures[plan.pictures_in_all :]}
        if self.shuffle:
            own = {self._in_order(prompt, number, plan.seed) for prompt in own for number in range(ORDERS)}
        return tuple(sorted(own | ridden | ({DROPPED} if self.dropout else set())))

    def _in_order(self, prompt: str, number: int, seed: int) -> str:
        """The prompt in one of its orders. It hangs on the text alone: another picture more changes no other's."""
        tags = [tag.strip() for tag in prompt.split(self.separator) if tag.strip()]
        kept, others = tags[: self.keep_tokens], tags[self.keep_tokens :]
        if len(others) < 2:
            return prompt
        content = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])
        words = raw_words(generator(seed, Stream.CAPTION, step=content, slot=number, draw=_ORDER_DRAW), len(others))
        shuffled = [others[place] for place in np.argsort(words, kind="stable").tolist()]
        return f"{self.separator.strip()} ".join([*kept, *shuffled])


def prompt_draws_of(data: DataOptions) -> PromptDraws:
    """What the options of a run ask for."""
    return PromptDraws(
        dropout=data.caption_dropout,
        shuffle=data.shuffle_caption,
        keep_tokens=data.keep_tokens,
        separator=data.caption_separator,
    )
