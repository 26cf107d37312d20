"""What the web page takes: 200 runs read at first and again, their first paint in a browser, a curve of 50,000 steps.

From a folder, and from a bucket that is a round trip away. In a fresh process, which prints a JSON line: memory is
counted without what else a benchmark has loaded.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreambooth_resume.ui.homes import Homes
    from dreambooth_resume.ui.view import RunRow

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
    paint_seconds: float | None
    """Until the browser has painted the page of a server that was just started; None without chromium."""
    listed_seconds: float | None
    """Until all runs are on it."""
    bucket_paint_seconds: float | None
    bucket_listed_seconds: float | None
    bucket_refresh_seconds: float
    """What a tab's look takes: the bucket itself is read beside it, four times a minute."""


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
    from dreambooth_resume.ui.open_run import OpenRun

    bucket = _in_a_bucket(folder)
    homes, few = Homes([str(folder / "runs")]), Homes([str(folder / "few")])

    def list_runs(homes: Homes) -> None:
        _table(homes, homes.look().rows)

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
    growth_bytes = float(process.memory_info().rss - before)
    paint = _painted([str(folder / "runs")], folder)
    return PageFigures(
        first_seconds=first,
        refresh_seconds=refresh,
        curve_first_seconds=curve,
        curve_again_seconds=again,
        growth_bytes=growth_bytes,
        paint_seconds=paint[0],
        listed_seconds=paint[1],
        **bucket,
    )


def _in_a_bucket(folder: Path) -> dict[str, float | None]:
    """The same runs from a bucket: what a browser sees, and what one round of the server takes later."""
    from still_s3 import StillS3

    from dreambooth_resume.storage.s3_address import S3Settings
    from dreambooth_resume.ui.homes import Homes
    from tests.fakes.s3_server import ENVIRONMENT

    with StillS3(folder) as s3:
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL_S3": s3.url})
        place = f"{s3.address}/runs"
        paint = _painted([place], folder)
        homes = Homes([place], S3Settings(endpoint_url=s3.url))
        homes.look()  # without details: those come in the rounds after it
        refresh = statistics.median(_seconds(lambda: _table(homes, homes.snapshot().rows)) for _ in range(10))
    return {
        "bucket_paint_seconds": paint[0],
        "bucket_listed_seconds": paint[1],
        "bucket_refresh_seconds": refresh,
    }


def _table(homes: Homes, found: Sequence[RunRow]) -> None:
    from dreambooth_resume.ui.markup import runs_table
    from dreambooth_resume.ui.view import chosen_rows

    rows = chosen_rows(found, words="", state="all", sort="newest")
    runs_table(rows, any_run=True, places=homes.places)


def _painted(places: list[str], cwd: Path) -> tuple[float | None, float | None]:
    """Seconds until the first paint, and until every run is in the list; None where there is no browser."""
    program = shutil.which("chromium")
    if program is None:
        return None, None
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import ARGUMENTS
    from tests.browser.serving import ServedPage

    served = ServedPage(places, cwd=cwd)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
            page = browser.new_page()
            page.goto("about:blank")
            page.goto(served.url)
            rows = f"document.querySelectorAll('table.runs tbody tr').length === {RUNS}"
            listed = page.wait_for_function(f"{rows} && performance.now()", timeout=120_000, polling="raf")
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            found = paint / 1000, listed.json_value() / 1000
            browser.close()
            return found
    finally:
        served.close()


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    if sys.argv[1] == "make":
        _make(Path(sys.argv[2]))
    else:
        figures = _look(Path(sys.argv[2]))
        print(json.dumps({name: getattr(figures, name) for name in PageFigures.__slots__}))
