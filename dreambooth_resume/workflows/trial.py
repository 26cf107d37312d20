"""A few real steps of a run on this machine, and a checkpoint that is written, resumed from and verified: by the very
program that trains, in a folder of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from dreambooth_resume.config.load import record
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.schema import OPTIONS, flatten
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.insight.happened import what_happened
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.probe import PROBE_PREFIX
from dreambooth_resume.workflows.held_signals import signals_held_back

STEPS = 4
_PATIENCE_SECONDS = 1800.0
# The trial is a run of its own: where it lies, how long it is, and whatever reaches others, is not the user's.
_LEFT_OUT = (
    "output_dir storage_uri stage_dir push_to_hub hub_model_id hub_strategy report_to logging_dir notify "
    "max_train_steps num_train_epochs lr_warmup_steps lr_warmup_ratio checkpointing_steps checkpointing_seconds "
    "save_every_n_epochs keep_every checkpoints_total_limit validation_prompt validation_prompts_file "
    "validation_data_dir validation_epochs validation_steps num_validation_images final_validation_prompt "
    "max_hours max_cost max_interruptions"
).split()
_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was measured."""

    step_seconds: float | None
    save_seconds: float | None
    seconds: float
    """All of it, with two starts."""


def try_out(options: TrainOptions, folder: Path) -> Trial:
    """Train 4 steps in `folder`, resume and train one more. Raises RefusedToGoOn with what `dbr train` said."""
    began = time.monotonic()
    config = folder / "trial.yaml"
    config.write_text(yaml.safe_dump(_values(options, folder / "run")), encoding="utf-8")
    for steps in (STEPS, STEPS + 1):
        _train(config, steps)
    happened = what_happened(LocalStorage(folder / "run"))
    if happened is None or happened.step != STEPS + 1:
        raise RefusedToGoOn("The trial ended, and its last step is not durable. Look at it: dbr doctor --deep again.")
    return Trial(
        step_seconds=happened.step_seconds,
        save_seconds=happened.save_seconds,
        seconds=time.monotonic() - began,
    )


def write_and_read_back(storage: Storage, size_bytes: int) -> float:
    """Seconds that it takes to put so much into the home and to see that it is there whole. It is removed again.

    Killed in between, one key below control/ is left, which nobody reads. Raises as the storage does, and RefusedToGoOn
    for what is not what was written.
    """
    key, piece = f"{PROBE_PREFIX}{uuid.uuid4().hex}.json", os.urandom(_PIECE_BYTES)
    parts = [piece] * max(1, size_bytes // _PIECE_BYTES)
    began = time.monotonic()
    try:
        storage.write(key, parts)
        is_whole = storage.read(key) == b"".join(parts)
    finally:
        storage.delete(key)
    if not is_whole:
        raise RefusedToGoOn(f"{storage.describe()}: what was read back is not what was written. Use another storage.")
    return time.monotonic() - began


def _values(options: TrainOptions, home: Path) -> Mapping[str, object]:
    given = {
        name: value
        for name, value in record(options).items()
        if name not in _LEFT_OUT and value is not None and value != OPTIONS[name].default
    }
    # Not the run's, so not recorded, but the base model may lie in a bucket, too.
    given |= {
        name: value
        for name, value in flatten(options).items()
        if name.startswith("s3_") and value != OPTIONS[name].default
    }
    if options.prior.with_prior_preservation and options.prior.class_data_dir is None:
        given["num_class_images"] = 1
    return {
        **given,
        "output_dir": str(home),
        "checkpointing_steps": 1,
        "lr_warmup_steps": 0,
        "report_to": "none",
        # null says it: left out, DBR_NOTIFY or the user's file would name a web hook.
        "notify": None,
        "spot": "none",
        "skip_final_inference": True,
    }


def _train(config: Path, steps: int) -> None:
    """One attempt, in a session of its own, which ends with this one however that ends."""
    words = ["train", "--config", str(config), "--resume", "latest", "--max_train_steps", str(steps)]
    process: subprocess.Popen[str] | None = None
    try:
        with signals_held_back():
            process = subprocess.Popen(
                [sys.executable, "-m", "dreambooth_resume", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        output, _ = process.communicate(timeout=_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        raise RefusedToGoOn(
            f"Five steps took more than {_PATIENCE_SECONDS / 60:.0f} min. On a machine with a GPU they take seconds."
        ) from None
    finally:
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        raise RefusedToGoOn(f"Real steps end with exit code {process.returncode}. {_said(output)}")


def _said(output: str) -> str:
    """The program's own message, or its last lines."""
    lines = [line for line in output.splitlines() if line.strip()]
    first = next((number for number, line in enumerate(lines) if line.startswith("dbr: ")), max(0, len(lines) - 3))
    return " ".join(line.strip() for line in lines[first:])[:2000]
