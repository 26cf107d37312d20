"""Continuity, at a resume and afterwards: is what trains what was committed, and are redone steps what they were?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dreambooth_resume.config.load import GivenOptions, resolve
from dreambooth_resume.errors import DbrError
from dreambooth_resume.insight.continuity import Joint, check_joints, explained, jump_of, state_jump
from dreambooth_resume.insight.differences import first_difference
from dreambooth_resume.insight.sameness import other_tensor
from dreambooth_resume.runs.curves import CurvePoint, read_segment, read_values
from dreambooth_resume.runs.entries import Adopt
from dreambooth_resume.runs.history import read_history
from dreambooth_resume.runs.home import metrics_segment
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.runs.status import Resumed, read_status
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.changes import rate_of

if TYPE_CHECKING:
    from torch import Tensor

    from dreambooth_resume.data.plan import Plan

_ATTEMPTS_BACK = 3
"""Further back nobody looks at a resume: each costs two requests. `dbr history HOME --check` looks at all."""
_NO_OPTIONS = GivenOptions(values={}, sources={}, config_file=None)


class RedoneSteps:
    """Compares the first steps of an attempt with what attempts before it measured of them, as they are made.

    What was measured is read on a thread beside the loading of the model. Told by the training thread of each step, it
    keeps no time and asks nobody.
    """

    def __init__(
        self, storage: Storage, log: Log, *, attempt: int, tell: Callable[[str], None], found: Callable[[str], None]
    ) -> None:
        """`found` is told of a jump beside `tell`, for the attempt's status."""
        self._storage = storage
        self._log = log
        self._attempt = attempt
        self._tell = tell
        self._found = found
        self._measured: dict[int, dict[int, CurvePoint]] = {}
        self._reader = threading.Thread(target=self._read, name="dbr-continuity", daemon=True)
        self._begun_at: int | None = None
        self._at_once: Callable[[], int] = lambda: 0
        self._at_once_then = 0
        self._compared: list[int] = []
        self._is_over = False

    def start(self) -> None:
        if self._attempt > 1:
            self._reader.start()

    def begins_at(self, step: int, *, at_once: Callable[[], int]) -> None:
        """The step of the state that is trained on from, and how many samples are computed at once at any time."""
        self._begun_at = step
        self._at_once = at_once
        self._at_once_then = at_once()
        self._is_over = self._attempt == 1

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        """`step` was made. Raises nothing."""
        if self._is_over or self._begun_at is None:
            return
        if self._reader.is_alive() and step == self._begun_at + 1:
            self._reader.join(timeout=1.0)  # as a rule it has been there for long
        if self._reader.is_alive():
            self._is_over = True  # rather nothing than half of it; `dbr history HOME --check` makes up for it
            return
        before = self._made_before(step)
        if before is None:
            self.end()
            return
        now = _point(step, values, attempt=self._attempt)
        expected = self._explained(before)
        difference = first_difference([before], [now], base_step=self._begun_at, rounded=bool(expected))
        self._compared.append(step)
        if difference is not None and (jump := jump_of(difference, expected)) is not None:
            self._is_over = True
            self._found(str(jump))
            self._tell(f"A JUMP at this resume: {jump}")
        elif difference is not None:
            self._is_over = True
            self._tell(f"Step {step} is other than when it was made before, as it has to be: {'; '.join(expected)}.")

    def end(self) -> None:
        """No step further was made before, or the run has no more: tell what was found, once."""
        is_told, self._is_over = self._is_over, True
        if self._compared and not is_told:
            first, last = self._compared[0], self._compared[-1]
            steps = f"Step {first} was" if first == last else f"Steps {first} to {last} were"
            is_exact = not self._explained(self._of(last))
            how = "the same bits as then" if is_exact else "as then, but for rounding"
            self._tell(f"{steps} made before: samples, learning rate, loss and gradient norm are {how}.")

    def _explained(self, before: CurvePoint) -> tuple[str, ...]:
        halved = self._at_once() != self._at_once_then
        return explained(self._log, self._attempt, [before], ran_out_of_memory=halved)

    def _of(self, step: int) -> CurvePoint:
        found = self._made_before(step)
        assert found is not None
        return found

    def _made_before(self, step: int) -> CurvePoint | None:
        """What the newest of the earlier attempts that made this step measured."""
        return next((self._measured[number][step] for number in sorted(self._measured, reverse=True)
                     if step in self._measured[number]), None)  # fmt: skip

    def _read(self) -> None:
        adopt = self._log.entries[-1]
        first = metrics_segment(adopt.state.step + 1)
        measured: dict[int, dict[int, CurvePoint]] = {}
        try:
            for attempt in range(max(1, self._attempt - _ATTEMPTS_BACK), self._attempt):
                points = [point for one in (first, first + 1) for point in read_segment(self._storage, attempt, one)]
                measured[attempt] = {point.step: point for point in points}
        except DbrError:
            return  # a hint that can't be read is none
        self._measured = measured


def found_at_resume(
    plan: Plan, *, step: int, live: Mapping[str, Tensor], committed: Mapping[str, Tensor] | None
) -> Resumed:
    """What an attempt begins with: its data position, and whether its state is the committed one, bit for bit."""
    epoch, sample = plan.position(step)
    return Resumed(
        step=step,
        epoch=epoch,
        sample=sample,
        epoch_length=plan.epoch_length,
        batch_size=plan.batch_size,
        state=None if committed is None else _first_problem(live, committed),
    )


def _first_problem(live: Mapping[str, Tensor], committed: Mapping[str, Tensor]) -> str | None:
    for name in sorted(live.keys() | committed.keys()):
        if name not in live:
            return f"nothing takes {name}"
        if name not in committed:
            return f"{name} is missing in the checkpoint"
        if (found := other_tensor(name, committed, live)) is not None:
            return f"{found.differing:,} of {found.numbers:,} numbers of {name} are others"
    return None


def say_at_resume(found: Resumed, tell: Callable[[str], None]) -> None:
    """Loud where something is wrong, and nothing where it isn't."""
    if found.state is not None:
        tell(f"A JUMP at this resume: {state_jump(found.step, found.state)}")


def check_history(storage: Storage) -> tuple[Joint, ...]:
    """Every joint of the run in `storage`, from its home alone and without torch. Writes nothing."""
    log = read_log(storage)
    history = read_history(storage, log=log)
    statuses = {attempt.number: read_status(storage, attempt.number) for attempt in history}
    resumed = {number: one.resumed for number, one in statuses.items() if one is not None and one.resumed is not None}
    return check_joints(log, history, read_values(storage, history), resumed, rate_at=_rates(storage, log))


def _rates(storage: Storage, log: Log) -> Callable[[int, int], float | None]:
    """The schedule of each attempt, by the options that held for it."""
    record = read_record(storage)
    schedules = {}
    for entry in log.entries:
        if record is None or not isinstance(entry.body, Adopt):
            continue
        try:
            options = resolve(_NO_OPTIONS, recorded={**record.options, **entry.state.changed_options})
            total, processes = entry.state.max_train_steps, record.processes_at_start
            schedules[entry.attempt] = rate_of(options, total, processes=processes)
        except DbrError:
            continue  # of another release: its rates can't be told here
    return lambda attempt, step: schedules[attempt].at(step) if attempt in schedules else None


def _point(step: int, values: Mapping[str, float], *, attempt: int) -> CurvePoint:
    samples = values.get("samples")
    return CurvePoint(
        step=step,
        attempt=attempt,
        loss=values["loss"],
        learning_rate=values.get("learning_rate"),
        grad_norm=values.get("grad_norm"),
        samples=None if samples is None else int(samples),
    )
