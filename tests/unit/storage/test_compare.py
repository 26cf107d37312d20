"""A body that comes back in pieces of any size is held against parts of any size."""

from __future__ import annotations

import random

import pytest

from dreambooth_resume.storage.compare import Compared

pytestmark = pytest.mark.quick


def cut(body: bytes, chance: random.Random) -> list[bytes]:
    places = sorted(chance.randrange(len(body) + 1) for _ in range(chance.randrange(6)))
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


def compared(parts: list[bytes], pieces: list[bytes]) -> bool:
    sink = Compared(parts)
    for piece in pieces:
        sink.update(piece)
    return sink.is_same


@pytest.mark.parametrize("seed", range(50))
def test_only_the_very_same_bytes_are_the_same(seed: int) -> None:
    chance = random.Random(seed)
    body = chance.randbytes(chance.randrange(1, 40))
    at = chance.randrange(len(body))
    changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
    assert compared(cut(body, chance), cut(body, chance))
    for other in (changed, body[:-1], body[1:], body + b"\0", body + body, b""):
        assert not compared(cut(body, chance), cut(other, chance) if other else [])


def test_nothing_is_nothing() -> None:
    assert compared([], [])
    assert compared([b"", b""], [b""])
    assert not compared([], [b"x"])
