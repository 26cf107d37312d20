"""Is what comes back what was sent? Compared as it arrives: that takes a fraction of what hashing it again does."""

from __future__ import annotations

from collections.abc import Sequence

from dreambooth_resume.storage.base import Body


class Compared:
    """A sink for the body that `parts` make. `is_same` once all of it has come, and nothing else."""

    def __init__(self, parts: Sequence[Body]) -> None:
        self._expected = [view for part in parts if len(view := memoryview(part).cast("B"))]
        self._differs = False

    @property
    def is_same(self) -> bool:
        return not self._differs and not self._expected

    def update(self, piece: bytes, /) -> None:
        import numpy as np  # lets go of the interpreter's lock while it compares

        left = memoryview(piece)
        while len(left) and not self._differs:
            if not self._expected:
                self._differs = True
                return
            expected = self._expected[0]
            size = min(len(left), len(expected))
            here, there = (np.frombuffer(view[:size], dtype=np.uint8) for view in (left, expected))
            self._differs = not np.array_equal(here, there)
            left = left[size:]
            if size == len(expected):
                self._expected.pop(0)
            else:
                self._expected[0] = expected[size:]
