"""Computes batches ahead of the step that needs them. How far, and in how many threads, changes only the speed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from dreambooth_resume.data.batch import Batch


class Loader:
    """`loader[step]` is `compute(step)`, mostly ready when asked for.

    With `workers` 0 it is computed when asked for; else by that many threads, which work up to workers *
    `prefetch_factor` steps ahead, never at or past `end_step`. Asked from one thread. An error of `compute` is raised
    at the step it belongs to, where the loop expects it; asking for that step again computes it again.
    """

    def __init__(
        self, compute: Callable[[int], Batch], *, end_step: int, workers: int = 0, prefetch_factor: int = 2
    ) -> None:
        self._compute = compute
        self._end_step = end_step
        self._ahead = workers * prefetch_factor
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader") if workers else None
        self._pending: dict[int, Future[Batch]] = {}

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self._end_step:
            raise IndexError(f"step {step} is outside 0..{self._end_step - 1}")
        if self._pool is None:
            return self._compute(step)
        window = range(step, min(step + max(self._ahead, 1), self._end_step))
        # Going to another step (a resume, a rollback) leaves work behind that nobody will ask for.
        for left in [other for other in self._pending if other not in window]:
            self._pending.pop(left).cancel()
        for wanted in window:
            if wanted not in self._pending:
                self._pending[wanted] = self._pool.submit(self._compute, wanted)
        return self._pending.pop(step).result()

    def go_on_with(self, compute: Callable[[int], Batch]) -> None:
        """From now on batches are what `compute` makes of their steps; what was prepared is dropped."""
        for left in self._pending.values():
            left.cancel()
        self._pending.clear()
        self._compute = compute

    def close(self) -> None:
        """Drop what is queued and wait for what is being computed. More calls do nothing."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
