"""The order of a pass over pictures of several shapes: each sample once, and as many as possible beside others of its
shape, since what is computed at once has to have one.

A step's samples are cut into blocks of the micro-batch's size. A shape's samples fill as many whole blocks as they can;
those left over, fewer than a block for each shape, are put into mixed blocks. A mixed block is computed in several
smaller micro-batches, so nothing is dropped and nothing repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

_Word = np.ndarray[tuple[int], np.dtype[np.uint64]]
_Item = TypeVar("_Item")


def order_in_blocks(
    kinds: Sequence[int], *, block_size: int, begun: int, words: _Word, block_words: _Word
) -> list[int]:
    """The samples 0 to len(kinds)-1, in an order in which blocks of `block_size` have one kind wherever that can be.

    kinds: the shape of each sample, as a number. `begun`: how many places of the first block the pass before has
    taken, 0 to block_size-1. words, block_words: uint64 [samples], random; samples and blocks are shuffled by them.
    """
    by_kind: dict[int, list[int]] = {}
    for sample in np.argsort(words, kind="stable").tolist():
        by_kind.setdefault(kinds[sample], []).append(sample)
    whole: list[list[int]] = []
    left_over: list[int] = []
    for samples in by_kind.values():
        end = len(samples) // block_size * block_size
        whole += _cut(samples[:end], block_size)
        left_over += samples[end:]
    # The pass begins and ends within blocks that it shares with those before and behind it.
    lead = min(-begun % block_size, len(kinds))
    tail = (len(kinds) - lead) % block_size
    while len(left_over) < lead + tail:
        left_over += whole.pop()
    behind = len(left_over) - tail
    blocks = whole + _cut(left_over[lead:behind], block_size)
    shuffled = [blocks[number] for number in np.argsort(block_words[: len(blocks)], kind="stable").tolist()]
    return [*left_over[:lead], *(sample for block in shuffled for sample in block), *left_over[behind:]]


def portions(shapes: Sequence[_Item], *, size: int) -> tuple[tuple[int, ...], ...]:
    """The places of a step's samples, cut into micro-batches: each of one shape, in order, of at most `size`."""
    places: dict[_Item, list[int]] = {}
    for place, shape in enumerate(shapes):
        places.setdefault(shape, []).append(place)
    return tuple(tuple(portion) for same in places.values() for portion in _cut(same, size))


def _cut(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
