"""What the web page's server takes: 200 runs read at first and again, a curve of 50,000 steps, and its memory.

In a fresh process, which prints a JSON line: memory is counted without what else a benchmark has loaded.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WANTED_FIRST_SECONDS = 1.5
WANTED_REFRESH_SECONDS = 0.3
WANTED_CURVE_SECONDS = 0.5
WANTED_GROWTH_BYTES = 20e6
RUNS = 200
STEPS = 50_000
REFRESHES = 1000
_COMMITS = 20
_FEW = 10
"""Runs in the folder that is looked at a thousand times."""
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFigures:
    """Seconds, and bytes that the process grew by over the refreshes."""

    first_seconds: float
    refresh_seconds: float
    curve_first_seconds: float
    curve_again_seconds: float
    growth_bytes: float


def measure_page() -> PageFigures:
    """Make the homes in one process, which loads torch, and look at them in another, which doesn't."""
    with tempfile.TemporaryDirectory(prefix="dbr-page-") as folder:
        for part in ("make", "look"):
            words = [sys.executable, __file__, part, folder]
            done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    return PageFigures(**json.loads(done.stdout.splitlines()[-1]))


def _make(folder: Path) -> None:
    from dreambooth_resume.storage.local import LocalStorage
    from tests.fakes.toy_run import begin
    from tests.fakes.watched_run import measure, record_run

    first = LocalStorage(folder / "runs" / "run-000")
    record_run(first)
    attempt = begin(first, steps=_COMMITS, limit=2)
    for step in range(1, _COMMITS):
        attempt.commit(step)
    attempt.stop()
    for number in range(1, RUNS):
        shutil.copytree(first.root, folder / "runs" / f"run-{number:03d}")
    for number in range(_FEW):
        shutil.copytree(first.root, folder / "few" / f"run-{number:03d}")
    long = LocalStorage(folder / "long")
    record_run(long)
    begin(long, steps=STEPS).commit(STEPS)
    measure(long, 1, {step: 1.0 / step for step in range(1, STEPS + 1)})


def _look(folder: Path) -> PageFigures:
    import psutil

    from dreambooth_resume.storage.local import LocalStorage
    from dreambooth_resume.ui.homes import Homes
    from dreambooth_resume.ui.markup import runs_table
    from dreambooth_resume.ui.open_run import OpenRun
    from dreambooth_resume.ui.view import chosen_rows

    homes, few = Homes([str(folder / "runs")]), Homes([str(folder / "few")])

    def list_runs(homes: Homes) -> None:
        rows = chosen_rows(homes.look().rows, words="", state="all", sort="newest")
        runs_table(rows, any_run=True, places=homes.places)

    first = _seconds(lambda: list_runs(homes))
    assert len(homes.look(details=True).rows) == RUNS
    refresh = statistics.median(_seconds(lambda: list_runs(homes)) for _ in range(10))
    run = OpenRun("long", LocalStorage(folder / "long"))
    curve = _seconds(lambda: run.view(fresh=True))
    again = statistics.median(_seconds(lambda: run.view(fresh=True)) for _ in range(10))
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(REFRESHES):
        list_runs(few)
        run.view(fresh=True)
    return PageFigures(
        first_seconds=first,
        refresh_seconds=refresh,
        curve_first_seconds=curve,
        curve_again_seconds=again,
        growth_bytes=float(process.memory_info().rss - before),
    )


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1] == "make":
        _make(Path(sys.argv[2]))
    else:
        figures = _look(Path(sys.argv[2]))
        print(json.dumps({name: getattr(figures, name) for name in PageFigures.__slots__}))
