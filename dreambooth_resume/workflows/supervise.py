"""From the words of `dbr supervise` to a supervised run: its home, its launch, its turn on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from dreambooth_resume.config.load import GivenOptions, parse_train
from dreambooth_resume.errors import ComeBack, DbrError, StoppedOnPurpose
from dreambooth_resume.launch.base import JobStatus, MachineEnd
from dreambooth_resume.launch.entrypoint import BY_HAND, DBR, Signals, Supervised, Supervisor
from dreambooth_resume.launch.launchers import launcher_named
from dreambooth_resume.launch.local import say_state
from dreambooth_resume.launch.output import OutputCopy
from dreambooth_resume.launch.queue import gpus_here, only_one, waiting_turn
from dreambooth_resume.launch.record import Launch, read_launch
from dreambooth_resume.launch.state_folder import state_folder
from dreambooth_resume.launch.work import Evaluation, Training, Work
from dreambooth_resume.preemption.slurm import seconds_to_the_limit
from dreambooth_resume.preemption.sources import polled_sources
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.home import EVALUATION_OUTPUT_PREFIX, OUTPUT_PREFIX
from dreambooth_resume.runs.notes import post_note
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.patience import patiently
from dreambooth_resume.workflows.home import find_place, open_home
from dreambooth_resume.workflows.notify import announcing
from dreambooth_resume.workflows.typed import home_words, s3_words

_OF_AN_EVALUATION = ("--notify", "none", "--num_processes", "1")
"""Who waits for the training hears nothing of it, and it computes on one GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `dbr supervise` was told."""

    home: str | None
    """None: the words name it."""
    launch_id: str | None
    queue: bool
    words: tuple[str, ...]
    """Options of `dbr train`; with a launch they come on top of what its note has."""
    tell: Callable[[str], None]
    last_output: Callable[[], str] = lambda: ""
    output: Path | None = None
    """The file that our output goes to, and with it the training's; None: it is no file."""
    program: tuple[str, ...] = DBR


def supervise(order: Order) -> int:
    """Train, or evaluate, until the restart rule says that nobody starts it again; the exit code to end with."""
    signals = Signals()
    signals.install()
    own_words = (*order.words, *home_words(order.home)) if order.home else order.words
    storage = find_place(parse_train(own_words)).storage
    code = ComeBack.exit_code
    try:
        launch = _launch(order, storage, signals)
        job = _job(launch, storage, own_words)
        with only_one(state_folder() / "homes" / f"{_digest(storage)}{job.lock_suffix}.lock") as is_only:
            if not is_only:
                order.tell(f"Another dbr supervise on this machine looks after {storage.describe()} already.")
                return code
            with _copied_output(order, storage, job.output_prefix), announcing(job.given, order.tell) as announce:
                code = _in_turn(order, replace(_supervised(order, storage, job), announce=announce), job.given, signals)
        if launch is not None:
            _end_machine(order, storage, launch, job.given, code)
        return code
    except DbrError as error:
        code = error.exit_code
        raise
    finally:
        if order.launch_id is not None:
            because = f"its supervisor ended with exit code {code}"
            say_state(order.launch_id, JobStatus(state="ended", because=because, exit_code=code))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is done, and the options of `dbr train` that say of it where, for whom and how long."""

    work: Work
    given: GivenOptions
    output_prefix: str = OUTPUT_PREFIX
    lock_suffix: str = ""
    """A training and an evaluation of the same home may be supervised at once."""


def _job(launch: Launch | None, storage: Storage, own_words: tuple[str, ...]) -> _Job:
    if launch is None or launch.purpose == "train":
        words = (*launch.words, *own_words) if launch else own_words
        return _Job(work=Training(words=words), given=parse_train(words))
    given = parse_train((*own_words, *_OF_AN_EVALUATION))
    return _Job(
        work=Evaluation(words=(storage.describe(), *launch.words, *s3_words(given))),
        given=given,
        output_prefix=EVALUATION_OUTPUT_PREFIX,
        lock_suffix="-eval",
    )


@contextlib.contextmanager
def _copied_output(order: Order, storage: Storage, prefix: str) -> Iterator[None]:
    """A copy of the output in the home, where that isn't on this machine: its disk may go with it."""
    if order.output is None or isinstance(storage, LocalStorage):
        yield
        return
    copy = OutputCopy(storage, order.output, prefix=prefix)
    copy.start()
    try:
        yield
    finally:
        copy.close()


def _launch(order: Order, storage: Storage, signals: Signals) -> Launch | None:
    if order.launch_id is None:
        return None
    wanted = order.launch_id
    return patiently(
        lambda: read_launch(storage, wanted), tell=order.tell, should_stop=lambda: signals.first is not None
    )


def _supervised(order: Order, storage: Storage, job: _Job) -> Supervised:
    notice_file = cast("str | None", job.given.value("notice_file"))
    # Quietly: each training says itself whose notices it reads.
    sources = polled_sources(spot=str(job.given.value("spot")), notice_file=notice_file, tell=lambda _text: None)
    return Supervised(
        home=storage.describe(),
        storage=storage,
        work=job.work,
        launch_id=order.launch_id or BY_HAND,
        boot_id=this_process().boot_id,
        sources=sources,
        tell=order.tell,
        last_output=order.last_output,
        program=order.program,
        limit_seconds=seconds_to_the_limit(os.environ),
    )


def _in_turn(order: Order, run: Supervised, given: GivenOptions, signals: Signals) -> int:
    """Supervise, in its turn if it is to queue."""

    def say(state: JobStatus) -> None:
        if order.launch_id is not None:
            say_state(order.launch_id, state)

    running = JobStatus(state="running", because=f"its supervisor lives, pid {os.getpid()}")
    if not order.queue:
        say(running)
        return Supervisor(run=run, signals=signals).supervise()
    say(JobStatus(state="waiting", because="waits for its turn on this machine"))
    with waiting_turn(
        state_folder(),
        gpus_here(),
        wanted=_processes_wanted(given, order.tell, signals),
        told_to_leave=lambda: signals.first is not None,
        tell=order.tell,
    ) as turn:
        if turn is None:
            return cast(int, signals.exit_code)
        say(running)
        environment = {**os.environ, **turn.environment}
        run = replace(run, environment=environment, pass_descriptors=turn.descriptors)
        return Supervisor(run=run, signals=signals).supervise()


def _processes_wanted(given: GivenOptions, tell: Callable[[str], None], signals: Signals) -> int:
    """As many as the training will want: by its words, or by what the run was begun with or has had since."""
    if "num_processes" not in given.values:
        home = patiently(lambda: open_home(find_place(given)), tell=tell, should_stop=lambda: signals.first is not None)
        if home.recorded is not None and "num_processes" in home.recorded:
            return cast(int, home.recorded["num_processes"])
    return cast(int, given.value("num_processes"))


def _end_machine(order: Order, storage: Storage, launch: Launch, given: GivenOptions, code: int) -> None:
    """Give the machine back, as the user wants it after such an end. After 75 the platform has its own way."""
    launcher = launcher_named(launch.launcher, launch.settings)
    if not launcher.owns_machine or code == ComeBack.exit_code:
        return
    option = "on_finish" if code in (0, StoppedOnPurpose.exit_code) else "on_failure"
    how = cast(MachineEnd, str(given.value(option)))
    order.tell(f"--{option} {how}: {'the machine is left running.' if how == 'keep' else 'giving the machine back.'}")
    try:
        launcher.end_machine(launch.id, how)
    except DbrError as error:
        # What the training ended with must not become something else, but this costs money until somebody sees it.
        told = f"the machine could not be given back and is still paid for: {error}"
        order.tell(told)
        with contextlib.suppress(DbrError):
            post_note(storage, "exit", told, values={"launch": launch.id})


def _digest(storage: Storage) -> str:
    return hashlib.sha256(os.path.abspath(storage.describe()).encode()).hexdigest()[:32]  # noqa: PTH100  s3:// has no path
