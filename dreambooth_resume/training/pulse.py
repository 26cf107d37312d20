"""What a running attempt tells the world, once a beat: its status, its curve so far, and what it heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from dreambooth_resume.preemption.requests import RequestSource
from dreambooth_resume.runs.entries import Process
from dreambooth_resume.runs.home import status_key
from dreambooth_resume.runs.meter import Meter
from dreambooth_resume.runs.status import Heartbeat, Phase, Resumed, Status
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.training.metrics import MetricsSink


@dataclass(slots=True, kw_only=True)
class Situation:
    """What there is to tell. The training thread sets the values; the heartbeat's thread reads them."""

    step: int
    max_train_steps: int
    phase: Phase = "starting"
    loss: float | None = None
    learning_rate: float | None = None
    samples_per_second: float | None = None
    durable_step: int | None = None
    alarm: str | None = None
    save_seconds: float | None = None
    exit_code: int | None = None
    why: str | None = None
    resumed: Resumed | None = None

    def say_jump(self, jump: str) -> None:
        """For the next beat: steps that were made before are not what they were."""
        if self.resumed is not None:
            self.resumed = self.resumed.model_copy(update={"jump": jump})


class Pulse:
    """The heartbeat of one attempt. Everything it writes is a hint under the attempt's own keys."""

    def __init__(
        self,
        storage: Storage,
        situation: Situation,
        *,
        attempt: int,
        process: Process,
        requests: RequestSource,
        sink: MetricsSink,
        meter: Meter | None = None,
        other_alarm: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`other_alarm` is what of somebody else's trouble is to be told, where there is none of the home."""
        self._other_alarm = other_alarm
        self.situation = situation
        self._storage = storage
        self._attempt = attempt
        self._process = process
        self._requests = requests
        self._sink = sink
        self._meter = meter
        self._heartbeat = Heartbeat(self._beat, interval_seconds=storage.hint_interval_seconds)

    def start(self) -> None:
        self._heartbeat.beat_now()
        self._heartbeat.start()

    def enter(self, phase: Phase) -> None:
        """Begin a phase, and say so at the next beat."""
        self.situation.phase = phase

    def close(self, *, exit_code: int, why: str | None = None) -> None:
        """The last words: what the attempt ended with, and why, in a line."""
        self._heartbeat.close()
        self.situation.phase, self.situation.exit_code, self.situation.why = "ended", exit_code, why
        self._heartbeat.beat_now()

    def _beat(self, counter: int) -> None:
        # The status first: whether we live matters more to others than our curve.
        self._storage.write(status_key(self._attempt), [self._status(counter)], durable=False)
        self._requests.look(self._storage.hint_interval_seconds)
        self._sink.flush(durable=False)

    def _status(self, counter: int) -> bytes:
        now = self.situation
        status = Status(
            attempt=self._attempt,
            counter=counter,
            updated_at=datetime.now(UTC).isoformat(timespec="seconds"),
            phase=now.phase,
            step=now.step,
            max_train_steps=now.max_train_steps,
            loss=now.loss,
            learning_rate=now.learning_rate,
            samples_per_second=now.samples_per_second,
            durable_step=now.durable_step,
            save_seconds=now.save_seconds,
            alarm=now.alarm or self._heartbeat.trouble or self._other_alarm(),
            machine_seconds=round(self._meter.seconds, 3) if self._meter else None,
            process=self._process,
            exit_code=now.exit_code,
            why=now.why,
            resumed=now.resumed,
            answered=self._requests.answered,
        )
        return status.model_dump_json(indent=1).encode()
