"""The promise, shown: a run that is killed three times ends in the bytes of one that was left alone.

Everything is real: child processes of the same program, real signals, the same command line after every kill.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.models.tiny import build_tiny_sdxl
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.runs.curves import Curve, read_curve
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.workflows.chart import draw_loss_curve

MODEL, PICTURES, UNDISTURBED, HOME, CHART = "model", "pictures", "undisturbed", "home", "loss.png"
MARKER = ".made-by-dbr-demo"
_OURS = (MODEL, PICTURES, UNDISTURBED, HOME, CHART)
_CHILD_SECONDS_MAX = 300.0
_TAIL_LINES = 15
_STEP = re.compile(r"step (\d+)/(\d+) ")
Interruptions = Sequence[tuple[signal.Signals, float, float]]
# Sent, in this order, when the child has shown a step drawn from these parts of the run. The rest is trained in peace.
INTERRUPTIONS: Interruptions = (
    (signal.SIGKILL, 0.15, 0.3),
    (signal.SIGKILL, 0.4, 0.55),
    (signal.SIGTERM, 0.65, 0.8),
)
_EXIT_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75}


class DemoFailed(DbrError):
    """The demo could not show what it is there to show."""

    exit_code = 1
    anchor = "the-demo-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What was seen of one child process. Steps are those that it printed."""

    exit_code: int
    began_step: int
    reached_step: int
    sent: signal.Signals | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SameFile:
    """One file of both runs."""

    name: str
    undisturbed_sha256: str
    killed_sha256: str

    @property
    def is_same(self) -> bool:
        return self.undisturbed_sha256 == self.killed_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo showed. `others` are the last checkpoint's files besides the LoRA."""

    folder: Path
    lives: tuple[Life, ...]
    lora: SameFile
    others: tuple[SameFile, ...]
    seconds: float

    @property
    def weights(self) -> Path:
        return self.folder / HOME / WEIGHTS_NAME

    @property
    def chart(self) -> Path:
        return self.folder / CHART

    @property
    def is_exact(self) -> bool:
        return self.lora.is_same and all(file.is_same for file in self.others)

    def redone_steps(self, life: int) -> int:
        """Steps of that life that the next one had to train again."""
        return self.lives[life].reached_step - self.lives[life + 1].began_step if life + 1 < len(self.lives) else 0


def run_demo(
    folder: Path, reporter: Reporter, *, rng: random.Random, interruptions: Interruptions = INTERRUPTIONS
) -> DemoResult:
    """Train once in peace and once while being killed, and compare. `rng` draws the steps of the kills.

    Raises BadInput if `folder` holds anything that the demo didn't make, DemoFailed if a child did what it should not.
    """
    started = time.monotonic()
    start_afresh(folder)
    reporter.phase("building a tiny SDXL and eight pictures", 0, 1)
    build_tiny_sdxl(folder / MODEL)
    draw_pictures(folder / PICTURES)
    reporter.phase("building a tiny SDXL and eight pictures", 1, 1)
    with as_file(files("dreambooth_resume.configs") / "demo.yaml") as config:
        _live(_command(config, folder, UNDISTURBED), "undisturbed", reporter, cut=None)
        command = _command(config, folder, HOME)
        lives = []
        for number, cut in enumerate([*_draw_cuts(interruptions, _steps(config), rng), None], start=1):
            lives.append(_live(command, f"attempt {number}", reporter, cut=cut))
    lora, *others = _compare(folder)
    result = DemoResult(
        folder=folder, lives=tuple(lives), lora=lora, others=tuple(others), seconds=time.monotonic() - started
    )
    (folder / CHART).write_bytes(draw_loss_curve(_curve(folder, lives), title=f"{folder / HOME}: killed and resumed"))
    return result


def start_afresh(folder: Path) -> None:
    """An empty folder for the demo: removes what an earlier demo made in it, and nothing else.

    Raises BadInput if something else lies there, or if a run of an earlier demo is being trained.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInput("is a file", where=f"--dir {folder}", fix="name a new folder")
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    foreign = [name for name in found if name != MARKER and (MARKER not in found or name not in _OURS)]
    if foreign:
        raise BadInput(
            f"holds {', '.join(foreign[:3])}, which the demo did not make",
            where=f"--dir {folder}",
            fix="name a new folder",
        )
    for home in (folder / UNDISTURBED, folder / HOME):
        summary = summarise(LocalStorage(home)) if home.is_dir() else None
        if summary is not None and summary.is_live and summary.attempt is not None:
            raise BadInput("a run of the demo is being trained", where=str(home), fix=f"dbr stop {home}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text(
            "`dbr demo` made this folder, and removes what it made in it when it is run again.\n"
        )
    except OSError as error:
        raise BadInput(
            f"can't be written: {error.strerror}", where=f"--dir {folder}", fix="name a folder that you can write to"
        ) from None
    for path in (folder / name for name in _OURS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _draw_cuts(interruptions: Interruptions, steps: int, rng: random.Random) -> list[tuple[signal.Signals, int]]:
    """Which signal is sent once which step was seen."""
    return [(sent, rng.randint(round(low * steps), round(high * steps))) for sent, low, high in interruptions]


def _steps(config: Path) -> int:
    steps = parse_train(["--config", str(config)]).values["max_train_steps"]
    assert isinstance(steps, int)
    return steps


def _command(config: Path, folder: Path, home: str) -> list[str]:
    options = {
        "config": config,
        "pretrained_model_name_or_path": folder / MODEL,
        "instance_data_dir": folder / PICTURES,
        "output_dir": folder / home,
        # A tiny model gains nothing from a second thread, and on a busy machine two that wait for each other took five
        # times as long (measured: 55 s in place of 11 s for 40 steps).
        "torch_threads": 1,
        "progress_seconds": 0.001,  # every step is a line: that is how the demo sees when to kill
        "resume": "latest",
        "notify": "none",  # nobody has to hear of interruptions that are the point
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "dreambooth_resume", "train", *words]


def _live(command: Sequence[str], name: str, reporter: Reporter, *, cut: tuple[signal.Signals, int] | None) -> Life:
    """Run one child to its end, or to the signal of `cut`. Raises DemoFailed if it ends in any other way."""
    sent, at_step = cut or (None, 0)
    seen: list[int] = []

    def on_step(step: int, total: int, child: subprocess.Popen[str]) -> None:
        seen.append(step)
        reporter.phase(f"{name}: training", step, total)
        if sent is not None and step == at_step:
            child.send_signal(sent)

    reporter.phase(f"{name}: starting", 0, 1)
    exit_code, tail = _watch(command, on_step)
    expected = _EXIT_CODES[sent] if sent is not None else 0
    if exit_code != expected or not seen:
        raise DemoFailed(
            f"{name} ended with exit code {exit_code}, not {expected}"
            + (f" after {sent.name} at step {at_step}" if sent is not None else "")
            + f". Its command: {' '.join(command)}\nIts last lines:\n  "
            + "\n  ".join(tail)
        )
    life = Life(exit_code=exit_code, began_step=seen[0] - 1, reached_step=seen[-1], sent=sent)
    ending = f"{sent.name} at step {life.reached_step}" if sent else f"finished step {life.reached_step}"
    reporter.message(f"{name}: began at step {life.began_step}, {ending}")
    return life


def _watch(
    command: Sequence[str], on_step: Callable[[int, int, subprocess.Popen[str]], None]
) -> tuple[int, tuple[str, ...]]:
    """Run `command`, reporting every step that it prints; its exit code and last lines."""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    too_long = threading.Timer(_CHILD_SECONDS_MAX, child.kill)
    too_long.daemon = True
    too_long.start()
    try:
        assert child.stdout is not None
        for line in child.stdout:
            tail.append(line.rstrip())
            if (match := _STEP.match(line)) is not None:
                on_step(int(match[1]), int(match[2]), child)
        return child.wait(), tuple(tail)
    finally:
        too_long.cancel()
        # Only if we were interrupted ourselves: no training is left behind that nobody knows of.
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()


def _compare(folder: Path) -> list[SameFile]:
    """The published LoRA, then the last checkpoint's other files as their log entries name them."""
    storages = [LocalStorage(folder / home) for home in (UNDISTURBED, HOME)]
    weights = [storage.digest(WEIGHTS_NAME).sha256 for storage in storages]
    files_of = []
    for storage in storages:
        log = read_log(storage)
        assert log.finished is not None
        files_of.append({file.key.rpartition("/")[2]: file.key for file in log.commit(log.finished.checkpoint).files})
    names = sorted(files_of[0].keys() - {WEIGHTS_NAME})
    digests = [
        [storage.digest(keys[name]).sha256 for storage, keys in zip(storages, files_of, strict=True)] for name in names
    ]
    return [
        SameFile(name=name, undisturbed_sha256=undisturbed, killed_sha256=killed)
        for name, (undisturbed, killed) in zip([WEIGHTS_NAME, *names], [weights, *digests], strict=True)
    ]


def _curve(folder: Path, lives: Sequence[Life]) -> Curve:
    """The stitched curve, with the steps that the demo saw: a killed process had not told its home of the last ones."""
    curve = read_curve(LocalStorage(folder / HOME))
    reached = {number: life.reached_step for number, life in enumerate(lives, start=1)}
    return replace(
        curve,
        spans=tuple(replace(span, reached_step=max(span.reached_step, reached[span.attempt])) for span in curve.spans),
        interruptions=tuple(
            replace(cut, reached_step=max(cut.reached_step, reached[cut.attempt])) for cut in curve.interruptions
        ),
    )
