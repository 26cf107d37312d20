"""Draws docs/images/: every page, filled and empty. `python -m tests.browser.screenshots docs/images [NAME …]`.

The runs are made without training, of robots that the tiny pictures draw; the page and the browser are real.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import sync_playwright

from dreambooth_resume.launch.base import Job, JobStatus
from dreambooth_resume.launch.local import say_state
from dreambooth_resume.launch.record import write_launch, write_started
from dreambooth_resume.launch.state_folder import output_file
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.runs.entries import Process, Stopped
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.home import metrics_key, metrics_segment
from dreambooth_resume.runs.samples import write_samples
from dreambooth_resume.storage.local import LocalStorage
from tests.browser.conftest import ARGUMENTS
from tests.browser.serving import ServedPage
from tests.fakes.toy_run import begin, machine
from tests.fakes.watched_run import beat, dead_process, record_run

STEPS = 800
_PROMPTS = ("a photo of sks robot on the moon", "a photo of sks robot in the rain", "sks robot, watercolour")
_SHOTS = (
    ("runs", "/", 1440, "light", ""),
    ("runs-dark", "/", 1440, "dark", ""),
    ("runs-phone", "/", 390, "light", ""),
    ("run-failed", "/run?home=", 390, "light", ""),
    ("run", "/run?home=", 1440, "light", ""),
    ("run-dark-phone", "/run?home=", 390, "dark", ""),
    ("run-samples", "/run?home=", 1440, "light", "Samples"),
    ("run-timeline", "/run?home=", 1440, "dark", "Timeline"),
    ("run-checkpoints", "/run?home=", 1440, "light", "Checkpoints"),
    ("run-configuration", "/run?home=", 1440, "light", "Configuration"),
    ("new-run", "/new-run", 1440, "light", ""),
    ("new-run-phone", "/new-run", 390, "dark", ""),
)


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"  # nobody outside is asked
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        pictures = [path.read_bytes() for path in draw_pictures(folder / "pictures")]
        _make_runs(folder / "runs", pictures)
        (folder / "empty").mkdir()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
            wanted = sys.argv[2:]
            shots = tuple(one for one in _SHOTS if not wanted or one[0] in wanted)
            _shoot(browser, ServedPage(["runs"], cwd=folder), target, shots)
            empty = (
                ("runs-empty", "/", 1440, "light", ""),
                ("run-gone", "/run?home=", 1440, "light", ""),
            )
            _shoot_more(browser, ServedPage(["runs"], cwd=folder), target, wanted)
            if not wanted:
                _shoot(browser, ServedPage(["empty"], cwd=folder), target, empty)
            browser.close()


def _shoot(browser: Any, page: ServedPage, target: Path, shots: tuple[tuple[str, str, int, str, str], ...]) -> None:
    try:
        for name, path, width, scheme, tab in shots:
            if (page.cwd / "runs" / "robot").is_dir() and "empty" not in name:
                _live(page.cwd / "runs" / "robot")
            context = browser.new_context(viewport={"width": width, "height": 820}, color_scheme=scheme)
            shown = context.new_page()
            run = "runs/blue-vase" if name == "run-failed" else "runs/robot"
            shown.goto(page.url + path + (quote(run, safe="") if path.endswith("=") else ""))
            if "run?" in path:
                shown.locator("#head .card, #head .empty").first.wait_for(timeout=120_000)
            elif path == "/":
                shown.locator("#runs table, #runs .empty").first.wait_for(timeout=120_000)
            else:
                shown.locator("#start").wait_for(timeout=120_000)
            shown.wait_for_timeout(3000)
            if tab:
                shown.get_by_role("tab", name=tab).first.click()
                shown.wait_for_timeout(2500)
            shown.screenshot(path=str(target / f"{name}.png"), full_page=width == 390 or "run?" in path)
            context.close()
    finally:
        page.close()


def _compare(shown: Any, url: str) -> None:
    shown.goto(f"{url}/compare?home=runs%2Frobot&home=runs%2Frobot-rank-8")
    shown.locator("#losses figure.chart svg path").nth(1).wait_for(timeout=120_000)
    shown.wait_for_timeout(2000)


def _compare_nothing(shown: Any, url: str) -> None:
    shown.goto(f"{url}/compare")
    shown.locator("#losses .empty").wait_for(timeout=120_000)


def _try(shown: Any, url: str) -> None:
    shown.goto(f"{url}/try?home=runs%2Frobot&step=500")
    shown.locator("#pictures .empty").wait_for(timeout=120_000)
    shown.get_by_label("Prompt", exact=True).fill(_PROMPTS[0])


def _doctor(shown: Any, url: str) -> None:
    shown.goto(f"{url}/doctor")
    shown.get_by_label("or a run file of this machine").fill("run.yaml")
    shown.get_by_role("button", name="Examine").click()
    shown.locator("#diagnosis .findings").first.wait_for(timeout=120_000)


def _doctor_nothing(shown: Any, url: str) -> None:
    shown.goto(f"{url}/doctor")
    shown.get_by_role("button", name="Examine").wait_for(timeout=120_000)


def _review(shown: Any, url: str) -> None:
    shown.goto(f"{url}/new-run")
    for name, value in (
        ("folder", "pictures"), ("option-instance_prompt", "a photo of sks robot"), ("name", "robot-2"),
        ("option-pretrained_model_name_or_path", "stabilityai/stable-diffusion-xl-base-1.0"),
        ("option-max_train_steps", "800"), ("option-resolution", "768"),
    ):  # fmt: skip
        shown.locator(f"#{name} textarea, #{name} input").first.fill(value)
    shown.locator("#check").click()
    shown.get_by_text("What it will take").wait_for(timeout=120_000)
    shown.locator("#review").scroll_into_view_if_needed()


_MORE = (
    ("compare", _compare, 1440, "light"),
    ("compare-phone", _compare, 390, "dark"),
    ("compare-empty", _compare_nothing, 1440, "light"),
    ("try", _try, 1440, "light"),
    ("try-phone", _try, 390, "dark"),
    ("doctor", _doctor, 1440, "light"),
    ("doctor-phone", _doctor, 390, "dark"),
    ("doctor-empty", _doctor_nothing, 1440, "light"),
    ("new-run-review", _review, 1440, "dark"),
)


def _shoot_more(browser: Any, page: ServedPage, target: Path, wanted: list[str]) -> None:
    """Pages that show something once they are asked for it."""
    (page.cwd / "run.yaml").write_text(
        "pretrained_model_name_or_path: stabilityai/stable-diffusion-xl-base-1.0\ninstance_data_dir: pictures\n"
        "instance_prompt: a photo of sks robot\noutput_dir: runs/robot-2\n"
    )
    try:
        for name, fill, width, scheme in _MORE:
            if wanted and name not in wanted:
                continue
            _live(page.cwd / "runs" / "robot")
            context = browser.new_context(viewport={"width": width, "height": 820}, color_scheme=scheme)
            shown = context.new_page()
            fill(shown, page.url)
            shown.wait_for_timeout(1500)
            shown.screenshot(path=str(target / f"{name}.png"), full_page=True)
            context.close()
    finally:
        page.close()


def _make_runs(runs: Path, pictures: list[bytes]) -> None:
    _robot(runs / "robot", pictures)
    _queued(runs / "fox-in-snow")
    _failed_at_once(runs / "blue-vase")
    _rival(runs / "robot-rank-8", pictures)
    for name, host, saved, how in (
        ("cat-watercolour", "spot-3f", 400, "finished"),
        ("teapot", "gpu-2", 250, "stopped"),
        ("old-lighthouse", "spot-9c", 150, "asked"),
    ):
        storage = LocalStorage(runs / name)
        record_run(storage)
        attempt = begin(storage, host, steps=400)
        attempt.commit(saved)
        _measure(storage, 1, 1, saved)
        if how == "finished":
            attempt.finish()
        elif how == "stopped":
            attempt.stop()
        else:
            attempt.committer.append(Stopped(reason="asked by anna@desk", exit_code=76))


def _queued(home: Path) -> None:
    """Waits for its turn behind another run."""
    launch_id = _launch(LocalStorage(home), this_process())
    say_state(launch_id, JobStatus(state="waiting", because="waits for its turn on this machine"))


def _failed_at_once(home: Path) -> None:
    """Came to nothing at its first start."""
    launch_id = _launch(LocalStorage(home), dead_process())
    say_state(launch_id, JobStatus(state="ended", because="its supervisor ended with exit code 77", exit_code=77))
    said = "dbr: some/model is gated, and this machine has no token\n  fix: hf auth login\n"
    output_file(launch_id).write_text(f"Loading the base model some/model\n{said}dbr supervise: exit code 77\n")


def _launch(storage: LocalStorage, process: Process) -> str:
    launch_id = uuid.uuid4().hex
    write_launch(storage, launch_id, launcher="local", settings={}, words=(), version="0.1.0")
    values = {"launch": launch_id, "process": process.model_dump_json()}
    write_started(storage, launch_id, launcher="local", job=Job(name=f"pid {process.pid}", values=values))
    return launch_id


def _robot(home: Path, pictures: list[bytes]) -> None:
    """Trains on its third machine; the first was taken back, the second lost."""
    storage = LocalStorage(home)
    record_run(storage)
    first = begin(storage, "spot-1a", steps=STEPS)
    first.commit(200)
    first.stop()
    second = begin(storage, "spot-7d", steps=STEPS)
    second.commit(300)
    beat(storage, 2, step=340, process=machine("spot-7d"))
    third = begin(storage, "spot-2e", steps=STEPS)
    third.commit(500)
    for attempt, low, high in ((1, 1, 200), (2, 201, 340), (3, 301, 540)):
        _measure(storage, attempt, low, high)
    facts = [{"prompt": prompt} for prompt in _PROMPTS]
    for number, (step, attempt) in enumerate(((200, 1), (300, 2), (500, 3))):
        shown = tuple(pictures[(number + place) % len(pictures)] for place in range(3))
        recipe = {"prompt": _PROMPTS[0], "seed": 0}
        write_samples(storage, shown, step=step, attempt=attempt, recipe=recipe, facts=facts)


def _rival(home: Path, pictures: list[bytes]) -> None:
    """The robot's run with other options, to be compared with."""
    storage = LocalStorage(home)
    record_run(storage, rank=8, learning_rate=5e-5, lr_scheduler="cosine")
    attempt = begin(storage, "gpu-2", steps=600)
    attempt.commit(600)
    _measure(storage, 1, 1, 600, slower=1.6)
    facts = [{"prompt": prompt} for prompt in _PROMPTS[:2]]
    shown = tuple(pictures[place] for place in (5, 6))
    write_samples(storage, shown, step=600, attempt=1, recipe={"prompt": _PROMPTS[0], "seed": 0}, facts=facts)
    attempt.finish()


def _live(home: Path) -> None:
    """A heartbeat of now: a run on another machine lives by it."""
    beat(LocalStorage(home), 3, step=540, process=machine("spot-2e"))


def _measure(storage: LocalStorage, attempt: int, low: int, high: int, *, slower: float = 1.0) -> None:
    noise = random.Random(attempt)
    lines: dict[int, list[str]] = {}
    for step in range(low, high + 1):
        loss = 0.09 + 0.1 * math.exp(-step / (160 * slower)) + noise.gauss(0, 0.018)
        values = {
            "step": step,
            "loss": loss,
            "learning_rate": 1e-4 * min(1, step / 60),
            "seconds": noise.uniform(1.9, 2.2),
            "memory_bytes": 11_200_000_000 + 40_000_000 * min(3, (step - low) // 30),
        }
        lines.setdefault(metrics_segment(step), []).append(json.dumps(values))
    for segment, found in lines.items():
        storage.write(metrics_key(attempt, segment), ["\n".join(found).encode() + b"\n"])


if __name__ == "__main__":
    main()
