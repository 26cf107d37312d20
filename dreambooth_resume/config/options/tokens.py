"""Options: new tokens for the subject, trained beside the LoRA (pivotal tuning, as in Diffusers' advanced script)."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from dreambooth_resume.config.options.declaration import FINITE, SECTION_CONFIG, applied, never

_TOKENS = "the new tokens are there from the first step or not at all; start a new run"
_TOKEN = re.compile(r"<s\d+>")


def _joined(value: object) -> object:
    # A list in YAML.
    return ",".join(str(one) for one in value) if isinstance(value, list) else value


def _words(value: str) -> str:
    """Words with commas between them and without blanks, as Diffusers' script reads them."""
    words = "".join(value.split()).split(",")
    if not all(words):
        raise ValueError("must be a word, or several with commas between them")
    if len(set(words)) < len(words):
        raise ValueError("has a word twice")
    for word in words:
        if _TOKEN.search(word):
            raise ValueError(f"has {word}: <s0>, <s1> and so on are the names of the new tokens themselves")
    return ",".join(words)


class TokenOptions(BaseModel):
    """New tokens in both text encoders that stand for the subject (pivotal tuning)."""

    model_config = SECTION_CONFIG

    train_text_encoder_ti: Annotated[bool, never(_TOKENS)] = False
    """Give the subject new tokens, and train their embeddings in both text encoders beside the UNet's LoRA: textual
    inversion, then the LoRA alone. Prompts and captions write TOK where the subject is meant. Not with
    train_text_encoder."""

    token_abstraction: Annotated[str, BeforeValidator(_joined), AfterValidator(_words), never(_TOKENS)] = "TOK"
    """The word that stands for the new tokens in prompts and captions, or several with commas: TOK,TOK2."""

    num_new_tokens_per_abstraction: Annotated[int, Field(ge=1, le=32), never(_TOKENS)] = 2
    """New tokens for each of these words: TOK becomes <s0><s1>."""

    train_text_encoder_ti_frac: Annotated[
        float, FINITE, Field(gt=0, le=1), applied("the new tokens are trained up to this part of the run")
    ] = 0.5
    """Part of the run's steps in which the new tokens are trained. After it they stay as they are, and the LoRA goes
    on."""

    @property
    def words(self) -> tuple[str, ...]:
        """`token_abstraction` one by one."""
        return tuple(self.token_abstraction.split(","))


def pivot_step(part: float, *, max_train_steps: int) -> int | None:
    """The first step in which nothing of the text encoders is trained any more; None if that never comes.

    A pure function of the run's length, so a resume anywhere knows it. At least one step comes before it.
    """
    # 0.29 of 100 steps are 29, which floats would make 28.
    return None if part >= 1 else max(1, int(Fraction(str(part)) * max_train_steps))
