"""What a run leaves for those who look at it: heartbeats, metrics, its record, and holders that live or don't."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from dreambooth_resume.runs.adoption import Adoption, Wish, take_over
from dreambooth_resume.runs.entries import Process
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.home import metrics_key, metrics_segment, status_key
from dreambooth_resume.runs.log import LogWriter
from dreambooth_resume.runs.record import Pins, new_record, write_record
from dreambooth_resume.runs.status import Phase, Status
from dreambooth_resume.storage.base import Storage
from tests.fakes.toy_run import TAKE_OVER, machine


def moment(*, seconds_ago: float = 0.0) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(timespec="seconds")


def beat(
    storage: Storage,
    attempt: int,
    *,
    step: int = 0,
    phase: Phase = "training",
    seconds_ago: float = 0.0,
    counter: int = 1,
    process: Process | None = None,
    alarm: str | None = None,
    exit_code: int | None = None,
    answered: tuple[str, ...] = (),
) -> None:
    """Write a heartbeat of `attempt`."""
    status = Status(
        attempt=attempt,
        counter=counter,
        updated_at=moment(seconds_ago=seconds_ago),
        phase=phase,
        step=step,
        max_train_steps=10,
        loss=0.25,
        learning_rate=1e-4,
        samples_per_second=8.0,
        alarm=alarm,
        process=process or machine("A"),
        exit_code=exit_code,
        answered=answered,
    )
    storage.write(status_key(attempt), [status.model_dump_json().encode()])


def measure(storage: Storage, attempt: int, losses: Mapping[int, float], *, seconds: float | None = None) -> None:
    """Write the metrics of `attempt`, step to loss, in its segments; a step took so many seconds."""
    segments: dict[int, list[str]] = {}
    for step, loss in losses.items():
        segments.setdefault(metrics_segment(step), []).append(
            json.dumps({"step": step, "loss": loss, "seconds": seconds})
        )
    for segment, lines in segments.items():
        storage.write(metrics_key(attempt, segment), ["\n".join(lines).encode() + b"\n"])


def record_run(storage: Storage, **options: JsonValue) -> None:
    """Write a run.json of batch size 4 and 10 steps."""
    pins = Pins(base_model={}, dataset="0" * 64)
    chosen = {"max_train_steps": 10, **options}
    write_record(storage, new_record(options=chosen, seed=0, effective_batch=4, block_size=4, pins=pins, numerics={}))


def hold(storage: Storage, process: Process, *, launch: str | None = None) -> LogWriter:
    """Let `process` take the run over, from its newest checkpoint."""
    wish = Wish(max_train_steps=10, launch=launch)
    adopted = take_over(storage, wish, load=lambda _ref: None, process=process, patience=TAKE_OVER)
    assert isinstance(adopted, Adoption)
    return adopted.writer


def dead_process() -> Process:
    """A process of this boot that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pid = child.pid
    return this_process().model_copy(update={"pid": pid, "started": "long ago"})
