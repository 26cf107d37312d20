"""Random numbers that are a function of where they are used, so that there is no generator state to save or lose.

Each use has a stream, and within it coordinates (step, slot, draw) which become the counter of a Philox generator
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A generator is made for one draw of a fixed shape
and then dropped. Never slice or join draws: the first 15 of `standard_normal(16)` are not `standard_normal(15)`.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_WORD = 1 << 64


class Stream(IntEnum):
    """What the numbers are for. A number here is part of every run ever made: never reuse or change one.

    The draws of a stream at (step, slot), where it has more than draw 0:

    SHUFFLE (step is the epoch): 0 the pictures' order, 1 the class pictures', 2 with buckets the order of the blocks.
    AUGMENT: 0 a slot's variant, 1 a variant's crop (step is the picture's content, slot the variant), 2 a free crop;
    3 and 4 are the variant and the free crop of the class picture in that slot; 5 and 6 how a variant and a free crop
    are turned and in their colours changed.
    CAPTION: 0 whether a slot's caption is dropped, and in which order its tags are; 1 one of these orders (step is the
    caption's content, slot the number of the order).
    TIMESTEP, NOISE, VAE: 0 the picture in the slot, 1 the class picture.
    NOISE: 2 and 3 are their noise offsets, a number a channel; 4 and 5 what perturbs their inputs.
    INIT: 0 a LoRA's matrix A (step is its number), 1 the embeddings of new tokens (step is the text encoder's number).
    SAMPLE (step 0): 1 the latents that the class picture of the number `slot` is made from, 3 those of the validation
    picture of that number.
    VALIDATION (step is the noise level, slot the held-out picture): 0 the noise of the validation loss.
    """

    SHUFFLE = 0
    AUGMENT = 1
    CAPTION = 2
    TIMESTEP = 3
    NOISE = 4
    VAE = 5
    DROPOUT = 6
    INIT = 7
    SAMPLE = 8
    VALIDATION = 9


def generator(seed: int, stream: Stream, *, step: int = 0, slot: int = 0, draw: int = 0) -> np.random.Generator:
    """A fresh generator for one draw: Philox with key (seed, stream) and counter (0, draw, slot, step).

    All of `seed`, `step`, `slot` and `draw` are whole numbers from 0 to 2**64 - 1, else ValueError. The counter's
    lowest word is Philox's own: it counts up while numbers are drawn, 2**66 of them before they meet the next draw's.
    """
    for name, value in (("seed", seed), ("step", step), ("slot", slot), ("draw", draw)):
        if not 0 <= value < _WORD:
            raise ValueError(f"{name} is {value}; it must be at least 0 and below 2**64")
    key = np.array([seed, int(stream)], dtype=np.uint64)
    counter = np.array([0, draw, slot, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def raw_words(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """`count` plain 64-bit words.

    numpy promises these for ever, but not what `integers` or `permutation` make of them. What must survive an update
    of numpy in mid-run (an epoch's order, the crops) is computed from words; for noise another draw is as good.
    """
    words: np.ndarray[tuple[int], np.dtype[np.uint64]] = rng.bit_generator.random_raw(count)
    return words
