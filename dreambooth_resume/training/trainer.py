"""The training loop, with every effect in sight. There are no callbacks: what happens in a step is written here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dreambooth_resume.checkpoint.manager import CheckpointManager
from dreambooth_resume.data.loader import Loader
from dreambooth_resume.errors import Interrupted, ProcessLost, RefusedToGoOn, StoppedOnPurpose
from dreambooth_resume.preemption.heed import UNKNOWN_SAVE_SECONDS, Heed, NoticeHeeder, time_left, what_a_notice_needs
from dreambooth_resume.preemption.requests import RequestSource
from dreambooth_resume.preemption.watcher import GO_ON, Watcher, ending, how_to_go_on
from dreambooth_resume.runs.control import Request
from dreambooth_resume.runs.notice import GO_NOW, Notice
from dreambooth_resume.training.guards import refuse_non_finite
from dreambooth_resume.training.memory import Portions, is_out_of_memory, peak_memory_bytes, release
from dreambooth_resume.training.metrics import MetricsSink
from dreambooth_resume.training.preview import Preview
from dreambooth_resume.training.progress import Reporter, StepUpdate
from dreambooth_resume.training.pulse import Pulse
from dreambooth_resume.training.state import TrainingState
from dreambooth_resume.training.step import HandsLate, StepMetrics
from dreambooth_resume.training.turns import short_turns
from dreambooth_resume.training.validation_loss import Validation

FINAL_SAVE_PATIENCE_SECONDS = 600.0
"""How long a final or a notice's save waits for storage that does not answer, where no deadline is nearer."""
_RATE_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _AskedSave:
    """Requests that are carried out once a checkpoint of `step` or later is durable."""

    step: int
    requests: list[Request]


@dataclass(kw_only=True)
class Trainer:
    """One attempt's training, from the state's step to `max_train_steps`."""

    state: TrainingState
    train_step: Callable[..., StepMetrics]
    loader: Loader
    portions: Portions
    manager: CheckpointManager
    sink: MetricsSink
    watcher: Watcher
    requests: RequestSource
    pulse: Pulse
    reporter: Reporter
    max_train_steps: int
    effective_batch: int
    preview: Preview | None = None
    validation: Validation | None = None
    also_saves: Callable[[int], bool] = lambda _step: False
    """Steps that are saved whatever the interval: a pure function of the step."""
    heeder: NoticeHeeder = field(default_factory=NoticeHeeder)
    _saving: _AskedSave | None = None
    _step_seconds: float = 0.0

    def run(self) -> None:
        """Train to the end and commit the last step. Raises Interrupted or StoppedOnPurpose after a notice's save.

        Raises NonFinite when a step or a save met such a number: nothing of it was saved, the state is not to be used.
        """
        self.pulse.enter("training")
        with short_turns():
            self._train()
        self._finish()

    def _train(self) -> None:
        self._make_pictures()  # those that a kill cut short; usually none
        for step in range(self.state.global_step, self.max_train_steps):
            started = time.monotonic()
            metrics = self._update(step)  # a pure function of the step and the state
            refuse_non_finite(metrics, step=step)
            self.state.last = metrics
            self.state.global_step = step + 1  # the only line that does so
            self._step_seconds = time.monotonic() - started
            self._tell(metrics, seconds=self._step_seconds, validated=self._validate())
            self.manager.check()
            self._heed()
            if self._is_save_due(step + 1):
                self.manager.save_in_background(self.state)
            self._answer()
            self._make_pictures()  # after the save: who is killed by them loses nothing

    def _is_save_due(self, step: int) -> bool:
        """Not at the last step, which is saved in any case."""
        return step < self.max_train_steps and (self.manager.due(step) or self.also_saves(step))

    def _update(self, step: int) -> StepMetrics:
        """Make the update `step`, in smaller micro-batches from now on if the device has too little memory."""
        while True:
            try:
                # Changes the state once the last save's copy of it is whole.
                return self.train_step(self.loader[step], before_update=self.manager.wait_until_copied)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                told = str(error).split(". ")[0]
            except ProcessLost:
                if step > 0:  # nothing of this step was changed yet, so the last one can be saved
                    self.manager.save_now(self.state, reason="a process was lost", give_up=self._patience())
                raise
            except HandsLate as late:
                if step > 0:
                    self._leave(late.notice)
                self._end(late.notice)
                what = f"{late.notice.source} in the first step: nothing was lost. {how_to_go_on(late.notice)}."
                raise ending(late.notice, what) from None
            # Not in the handler: the error's traceback holds the activations.
            self._compute_less_at_once(step, told)

    def _compute_less_at_once(self, step: int, told: str) -> None:
        """Nothing of the step was changed yet. Raises RefusedToGoOn if one sample at a time is too much already."""
        self.state.optimizer.torch_optimizer.zero_grad(set_to_none=True)
        release()
        before, portions = self.portions.size, self.portions
        if not portions.halve():
            if step > 0:
                self.manager.save_now(self.state, reason="out of memory", give_up=self._patience())
            reason = f"step {step + 1}: out of memory with one sample at a time"
            self.manager.write_stopped(reason=reason, exit_code=RefusedToGoOn.exit_code)
            saved = f"Step {step} is saved. " if step > 0 else ""
            raise RefusedToGoOn(f"S{reason[1:]} ({told}). {saved}{portions.advice}")
        self.loader.go_on_with(portions.batches_of(portions.size))
        self.manager.note_smaller_micro_batch(
            portions.size, from_step=step, device_memory_bytes=portions.device_memory_bytes
        )
        self.reporter.message(
            f"Step {step + 1}: out of memory with {before} samples at once ({told}). Going on from this very step with "
            f"{portions.size} at once; a step keeps its {portions.effective_batch} samples. Equivalent from here on: "
            "the sums are rounded otherwise. To need less memory: --gradient_checkpointing."
        )
        if step > 0:
            # So that the log has it soon, and the next attempt need not find it out again.
            self.manager.save_in_background(self.state, reason="smaller micro-batches")

    def _validate(self) -> dict[str, float]:
        """The validation loss, if it is due: it changes no bit of the training, and ends early for a notice."""
        if self.validation is None or not self.validation.due(self.state.global_step):
            return {}
        self.pulse.enter("validating")
        values = self.validation.values(self.state.global_step)
        self.pulse.enter("training")
        return values

    def _tell(self, metrics: StepMetrics, *, seconds: float, validated: Mapping[str, float]) -> None:
        """Log and show."""
        step = self.state.global_step
        self.sink.log(
            step,
            {
                "loss": metrics.loss,
                "learning_rate": metrics.learning_rate,
                "grad_norm": metrics.grad_norm,
                "seconds": round(seconds, 4),
                "memory_bytes": peak_memory_bytes(),
                **({} if metrics.samples is None else {"samples": metrics.samples}),
                **metrics.more,
                **validated,
            },
        )
        now = self.pulse.situation
        rate = self.effective_batch / max(seconds, 1e-9)
        before = now.samples_per_second
        now.samples_per_second = rate if before is None else before + _RATE_SMOOTHING * (rate - before)
        now.step, now.loss, now.learning_rate = step, metrics.loss, metrics.learning_rate
        self._look_at_saves()
        self.reporter.step(
            StepUpdate(
                step=step,
                max_train_steps=self.max_train_steps,
                loss=metrics.loss,
                learning_rate=metrics.learning_rate,
                samples_per_second=now.samples_per_second,
                durable_step=now.durable_step,
                alarm=now.alarm,
            )
        )

    def _make_pictures(self) -> None:
        """Those that are due or asked for. They change no bit of the training, and end early for a notice."""
        step, asked = self.state.global_step, self.requests.open("sample")
        if self.preview is None or not (asked or self.preview.due(step)):
            return
        self.pulse.enter("validating")
        if self.preview.due(step):
            self.preview.make(step)
        for request in asked:
            if self.watcher.notice() is None:
                self.preview.make_asked(step, prompt=request.prompt, request=request.nonce[:8])
        if self.watcher.notice() is None:
            # Else there may be no pictures, and who asked sees this attempt end.
            self.requests.done(asked)
        self.pulse.enter("training")
        self._heed()

    def _look_at_saves(self) -> None:
        """Tell how far the commits are, and answer who asked for one."""
        now, durable, took = self.pulse.situation, self.manager.durable_step, self.manager.save_seconds
        if took is not None and now.save_seconds is None:
            self.reporter.message(what_a_notice_needs(took, self.watcher.lead()))
        now.save_seconds = took
        now.durable_step, now.alarm = durable, self.manager.alarm
        if self._saving is not None and durable is not None and durable >= self._saving.step:
            self.requests.done(self._saving.requests)
            self._saving = None

    def _answer(self) -> None:
        """Carry out what was asked in `control/`, without waiting for the storage: the answer comes with the commit."""
        # A step that is committed already has no entry to come that could retire anything: the next step has.
        if self._saving is not None or self.manager.durable_step == self.state.global_step:
            return
        retires = self.requests.open("retire")
        if asked := self.requests.open("save") + retires:
            self.manager.retire_with_next({one.checkpoint for one in retires if one.checkpoint is not None})
            self.manager.save_in_background(self.state, reason="asked for")
            self._saving = _AskedSave(step=self.state.global_step, requests=asked)

    def _finish(self) -> None:
        """Commit the last step. A notice that comes meanwhile does not make it shorter: nothing is left to train."""
        self.pulse.enter("saving")
        self.reporter.message("Saving the last step.")
        saved = self.manager.save_now(self.state, reason="final", give_up=self._patience())
        self._look_at_saves()
        if not saved:
            raise Interrupted(f"The last step could not be committed. {self.manager.alarm or ''} {GO_ON} from there.")
        if self.preview is not None and self.preview.due_at_the_end and self.watcher.notice() is None:
            # Before `finished`: behind it nobody loads the model again to make what a kill cut short.
            self.pulse.enter("validating")
            self.preview.make_final(self.state.global_step)
        self.requests.answer_stops()

    def _heed(self) -> None:
        """Do what a notice asks for at this step boundary. Raises Interrupted or StoppedOnPurpose when it is time."""
        now, notice = time.monotonic(), self.watcher.notice()
        save_seconds = self.manager.save_seconds
        answer = self.heeder.decide(
            notice, now_monotonic_s=now, step_seconds=self._step_seconds, save_seconds=save_seconds
        )
        if notice is not None and answer is Heed.LEAVE:
            self._leave(notice)
        if notice is not None and answer is Heed.SAVE:
            left = time_left(notice, now_monotonic_s=now)
            step = self.state.global_step
            self.reporter.message(
                f"{notice.source}, {left:.0f} s left: saving step {step}, training while there is time."
            )
            self.manager.save_in_background(self.state, reason=notice.source)
        advice = self.watcher.advice()
        if (seconds := self.manager.hurry(advice is not None)) is not None and advice is not None:
            self.reporter.message(f"{advice.source}: saving every {seconds:.0f} s from now on.")

    def _leave(self, notice: Notice) -> None:
        """Save for `notice` and end the attempt. Never returns."""
        self.pulse.enter("saving")
        give_up, step, come_back = self._patience(notice), self.state.global_step, f"{how_to_go_on(notice)} from there."
        pending = self.manager.pending_step
        if pending is not None and self._is_too_late_to_save(notice):
            # A new save would not get through, and would have to wait for this one: what is copied already will do.
            self.reporter.message(
                f"{notice.source}: no time to save step {step}; finishing step {pending}, then leaving."
            )
            step = pending
            saved = self.manager.wait_for(step, give_up=give_up)
        else:
            self.reporter.message(f"{notice.source}: saving step {step}, then leaving.")
            saved = self.manager.save_now(self.state, reason=notice.source, give_up=give_up)
        self._look_at_saves()
        durable = self.manager.durable_step or 0
        if not saved:
            message = f"{notice.source}: left without saving step {step}; the last durable step is {durable}."
            raise ending(notice, f"{message} {come_back}")
        self._end(notice)
        raise ending(notice, f"{notice.source}: step {durable} of {self.max_train_steps} is saved. {come_back}")

    def _end(self, notice: Notice) -> None:
        """Tell the next attempt that it need not wait, and who asked for the end that it has come."""
        # Said twice: the entry only saves the next attempt some waiting, and somebody is in a hurry.
        if self._insistence() < 2:
            self.manager.write_stopped(reason=notice.source, exit_code=notice.exit_code)
        if notice.exit_code == StoppedOnPurpose.exit_code:
            self.requests.answer_stops()
        else:
            # Who starts this again has to read what was asked meanwhile; and a platform's deadline is near.
            self.requests.done(self.requests.open("stop"))

    def _is_too_late_to_save(self, notice: Notice) -> bool:
        left = time_left(notice, now_monotonic_s=time.monotonic())
        return left < (self.manager.save_seconds or UNKNOWN_SAVE_SECONDS)

    def _insistence(self) -> int:
        notice = self.watcher.notice()
        return notice.insistence if notice else 0

    def _must_go(self) -> bool:
        """Somebody asked three times: go now, whatever is not yet written."""
        return self._insistence() >= GO_NOW

    def _patience(self, notice: Notice | None = None) -> Callable[[], bool]:
        deadline = time.monotonic() + FINAL_SAVE_PATIENCE_SECONDS
        if notice is not None and notice.deadline_monotonic_s is not None:
            deadline = min(deadline, notice.deadline_monotonic_s)
        return lambda: self._must_go() or time.monotonic() >= deadline
