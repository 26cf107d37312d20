"""From the start of a process to the first step, in its parts; and the commands that should answer at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench_model import train_words
from distant_s3 import DistantS3

PARTS = ("imports", "reading", "caching", "loading", "first step", "all", "of a processor")
"""What is reported of a start; "of a processor" is what all of it would take on a machine that does nothing else."""
_STEPS = 100
_SECONDS_MAX = 300


def measure_starts(folder: Path, *, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each of PARTS at a run's first start and at the next one, after a kill.

    Of `repeats` pairs the quickest of each: what else the machine does can only add to a start.
    """
    # Nobody has read the libraries yet after an install or a boot; that is the disk's speed and not ours.
    place = _fresh(folder)
    _start_once(folder, place, str(place / "home"))
    firsts, seconds = [], []
    for _ in range(repeats):
        place = _fresh(folder)
        firsts.append(_start_once(folder, place, str(place / "home")))
        seconds.append(_start_once(folder, place, str(place / "home")))
    return _quickest(firsts), _quickest(seconds)


def measure_starts_in_a_bucket(
    folder: Path, service: DistantS3, *, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """As `measure_starts`, for a home in a bucket; the second start is on a machine that holds nothing of the run."""
    firsts, seconds = [], []
    for _ in range(repeats):
        home = service.new_home()
        firsts.append(_start_once(folder, _fresh(folder), home, service.url))
        seconds.append(_start_once(folder, _fresh(folder), home, service.url))
    return _quickest(firsts), _quickest(seconds)


def _quickest(starts: list[dict[str, float]]) -> dict[str, float]:
    return min(starts, key=lambda one: one["all"])


def measure_command(words: list[str], *, repeats: int) -> float:
    """Seconds from start to end of `dbr WORDS`, the quickest of `repeats`."""
    return min(_command_seconds(words) for _ in range(repeats))


def _command_seconds(words: list[str]) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "dreambooth_resume", *words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def _fresh(folder: Path) -> Path:
    """Where a run's home and this user's cache (of the model's digests) will be."""
    place = folder / "starts"
    shutil.rmtree(place, ignore_errors=True)
    return place


def _start_once(folder: Path, place: Path, home: str, endpoint_url: str | None = None) -> dict[str, float]:
    driver = Path(__file__).with_name("start_once.py")
    words = train_words(folder, home, steps=_STEPS, checkpointing_steps=1)
    if endpoint_url is not None:
        words += ["--s3_endpoint_url", endpoint_url, "--stage_dir", str(place / "stage")]
    done = subprocess.run(
        [sys.executable, str(driver), repr(time.monotonic()), *words],
        env={**os.environ, "XDG_CACHE_HOME": str(place / "cache")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=_SECONDS_MAX,
    )
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return parts
