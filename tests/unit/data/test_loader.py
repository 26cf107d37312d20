"""Steps are computed ahead within bounds, and errors come where the loop expects them."""

from __future__ import annotations

import threading
import time

import pytest

from dreambooth_resume.data.batch import Batch
from dreambooth_resume.data.loader import Loader


class Computed:
    """Remembers which steps were computed, and raises at the bad ones."""

    def __init__(self, *, bad: tuple[int, ...] = ()) -> None:
        self.steps: list[int] = []
        self.bad = bad
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, step: int) -> Batch:
        self.gate.wait(10)
        self.steps.append(step)
        self.threads.add(threading.get_ident())
        if step in self.bad:
            raise RuntimeError(f"step {step} is bad")
        return Batch(step=step, micro_batches=(), picture_names=(), slots=0, micro_batch_count=0)


def test_without_workers_a_step_is_computed_when_asked_for() -> None:
    compute = Computed()
    with Loader(compute, end_step=10) as loader:
        assert [loader[step].step for step in (0, 1, 5)] == [0, 1, 5]
    assert compute.steps == [0, 1, 5]
    assert compute.threads == {threading.get_ident()}


def test_workers_stay_within_their_bound_and_the_end() -> None:
    compute = Computed()
    with Loader(compute, end_step=10, workers=2, prefetch_factor=2) as loader:
        assert loader[0].step == 0
        time.sleep(0.05)
        assert set(compute.steps) <= {0, 1, 2, 3}
        assert loader[8].step == 8
    assert max(compute.steps) <= 9
    assert threading.get_ident() not in compute.threads


def test_a_run_computes_each_step_once() -> None:
    compute = Computed()
    with Loader(compute, end_step=50, workers=3, prefetch_factor=2) as loader:
        assert [loader[step].step for step in range(50)] == list(range(50))
    assert sorted(compute.steps) == list(range(50))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_at_its_step_and_again(workers: int) -> None:
    with Loader(Computed(bad=(3,)), end_step=10, workers=workers, prefetch_factor=4) as loader:
        assert [loader[step].step for step in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(RuntimeError, match="step 3 is bad"):
                loader[3]
        assert loader[4].step == 4


def test_close_drops_what_is_queued_and_can_be_called_again() -> None:
    compute = Computed()
    loader = Loader(compute, end_step=1000, workers=1, prefetch_factor=500)
    assert loader[0].step == 0
    compute.gate.clear()
    threading.Timer(0.05, compute.gate.set).start()
    loader.close()
    loader.close()
    assert len(compute.steps) < 500
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    with Loader(Computed(), end_step=10, workers=1) as loader, pytest.raises(IndexError, match=r"0\.\.9"):
        loader[step]
