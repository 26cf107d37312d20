"""Words of prompts that stand for new tokens. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dreambooth_resume.config.options.tokens import TokenOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWords:
    """Each word with its tokens: TOK -> <s0>, <s1>."""

    tokens_of: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, words: Sequence[str], *, tokens_each: int) -> NewWords:
        """Tokens in the order of the words: <s0>, <s1> for the first of two each, <s2>, <s3> for the second."""
        return cls(
            tokens_of={
                word: tuple(f"<s{number * tokens_each + one}>" for one in range(tokens_each))
                for number, word in enumerate(words)
            }
        )

    @property
    def tokens(self) -> tuple[str, ...]:
        """All of them, in their order."""
        return tuple(token for tokens in self.tokens_of.values() for token in tokens)

    def in_place(self, prompt: str) -> str:
        """The prompt with every word's tokens in its place. Only whole words count: TOK is not meant in TOKYO."""
        if not self.tokens_of:
            return prompt
        return self._pattern().sub(lambda match: "".join(self.tokens_of[match[0]]), prompt)

    def missing_in(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """The words that none of the prompts has: nothing would be learned about them."""
        found = {match for prompt in prompts for match in self._pattern().findall(prompt)}
        return tuple(word for word in self.tokens_of if word not in found)

    def _pattern(self) -> re.Pattern[str]:
        # The longest first: of TOK and TOK-2 the second is meant where it is written.
        words = sorted(self.tokens_of, key=len, reverse=True)
        return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)")


def new_words(options: TokenOptions) -> NewWords | None:
    """The words that stand for new tokens; None if there are none."""
    if not options.train_text_encoder_ti:
        return None
    return NewWords.of(options.words, tokens_each=options.num_new_tokens_per_abstraction)
