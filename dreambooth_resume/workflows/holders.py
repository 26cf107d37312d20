"""Commands and whoever holds a run: asking the holder for something, or taking a free run for one entry (rule 13)."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from dreambooth_resume.errors import ComeBack, HolderAlive
from dreambooth_resume.runs.adoption import Wish, take_over
from dreambooth_resume.runs.control import Request, RequestKind, post_request, withdraw_request
from dreambooth_resume.runs.entries import Entry, EntryBody, Process, RunState, Stopped
from dreambooth_resume.runs.history import COMMAND_EXIT_CODE
from dreambooth_resume.runs.holder import SILENCE_SECONDS, Patience, this_process
from dreambooth_resume.runs.home import status_key
from dreambooth_resume.runs.liveness import watch_for_a_beat
from dreambooth_resume.runs.log import Log, LogWriter, read_log
from dreambooth_resume.runs.status import Heartbeat, Status, read_status
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.base import Storage

ANSWER_SECONDS = 300.0
"""How long a training is given to answer: it looks every 10 s, and answers with its next save."""
FREE_SECONDS = SILENCE_SECONDS + 30.0
"""How long a holder on another machine is listened for before it counts as gone."""
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How a command waits, and whom it tells."""

    tell: Callable[[str], None]
    answer_seconds: float = ANSWER_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def for_a_free_run(self) -> Patience:
        return Patience(wait_seconds=FREE_SECONDS, monotonic=self.monotonic, sleep=self.sleep, tell=self.tell)


def holder_of(storage: Storage, summary: RunSummary, waiting: Waiting) -> int | None:
    """The attempt that trains this run now, or None. May listen for half a minute for one on another machine."""
    if summary.attempt is None:
        return None
    if summary.is_live:
        return summary.attempt
    # On another machine's word we go by its heartbeat's age, and its clock may differ from ours: look again.
    if summary.state == "vanished" and not summary.is_certain:
        moves = watch_for_a_beat(storage, summary.attempt, monotonic=waiting.monotonic, sleep=waiting.sleep)
        return summary.attempt if moves else None
    return None


def ask_holder(
    storage: Storage,
    kind: RequestKind,
    attempt: int,
    waiting: Waiting,
    *,
    checkpoint: int | None = None,
    prompt: str | None = None,
) -> Request | None:
    """Ask `attempt` and wait until its status says that it is done; None if it ended without saying so.

    Raises ComeBack if it neither answers nor ends. In every case the request is gone afterwards: what nobody waits for
    any more must not surprise a later attempt.
    """
    request = post_request(storage, kind, checkpoint=checkpoint, prompt=prompt)
    deadline = waiting.monotonic() + waiting.answer_seconds
    look_seconds = max(_LOOK_SECONDS, storage.hint_interval_seconds / 5)
    try:
        while waiting.monotonic() < deadline:
            summary = summarise(storage)
            is_over = summary is None or not summary.is_live or summary.attempt != attempt
            status = read_status(storage, attempt)
            if status is not None and request.nonce in status.answered:
                return request
            if is_over:
                return None
            waiting.sleep(look_seconds)
    finally:
        withdraw_request(storage, request)
    raise ComeBack(
        f"Attempt {attempt} did not answer within {waiting.answer_seconds:.0f} s; the request was withdrawn. Look at "
        f"it: dbr status {shlex.quote(storage.describe())}; then type the same command again."
    )


def refuse_if_held(storage: Storage, summary: RunSummary, *, to: str) -> None:
    """Raises HolderAlive if somebody trains the run, as far as that can be seen without waiting."""
    if not summary.is_live or summary.attempt is None:
        return
    where = f" (pid {summary.process.pid} on {summary.process.host})" if summary.process else ""
    raise HolderAlive(
        f"Attempt {summary.attempt}{where} trains the run in {storage.describe()}, so nothing was deleted. "
        f"To {to}, end it first: dbr stop {shlex.quote(storage.describe())}"
    )


def take_run(storage: Storage, waiting: Waiting) -> LogWriter | Log:
    """Adopt a run that nobody holds, for a command's one entry; the log itself if the run is finished.

    Nothing of a checkpoint is read: a command trains nothing, and whoever starts next judges for itself. Raises
    HolderAlive if somebody gives signs of life, NothingValid and RefusedToGoOn as taking over does.
    """
    log = read_log(storage)
    wish = Wish(max_train_steps=log.last.state.max_train_steps if log.last else 0)
    adopted = take_over(
        storage, wish, load=lambda _ref: None, process=this_process(), patience=waiting.for_a_free_run()
    )
    return adopted if isinstance(adopted, Log) else adopted.writer


def write_command_entry(writer: LogWriter, reason: str) -> Entry:
    """The entry by which a command gives the run back: nobody has to wait for it."""

    def build(log: Log) -> tuple[EntryBody, RunState]:
        return Stopped(reason=reason, exit_code=COMMAND_EXIT_CODE), log.entries[-1].state

    return writer.append(build)


@contextlib.contextmanager
def signs_of_life(storage: Storage, writer: LogWriter) -> Iterator[None]:
    """A heartbeat while a command holds a run, so that nobody who waits for it takes it for gone."""
    state, process = writer.log.entries[-1].state, this_process()

    def beat(counter: int) -> None:
        status = _status(counter, attempt=writer.attempt, state=state, process=process)
        storage.write(status_key(writer.attempt), [status.model_dump_json(indent=1).encode()], durable=False)

    heartbeat = Heartbeat(beat, interval_seconds=max(1.0, storage.hint_interval_seconds))
    heartbeat.start()
    try:
        yield
    finally:
        heartbeat.close()


def _status(counter: int, *, attempt: int, state: RunState, process: Process) -> Status:
    return Status(
        attempt=attempt,
        counter=counter,
        updated_at=datetime.now(UTC).isoformat(timespec="seconds"),
        phase="preparing",
        step=state.step,
        max_train_steps=state.max_train_steps,
        process=process,
    )
