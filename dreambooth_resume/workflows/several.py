"""One run by several processes of one machine: how many there are, and how process 0 starts the others.

Imports torch only where there are several. torchrun and `accelerate launch` start as many processes as they are told:
of these the first trains with as many as there would have been, which it starts itself, and the others end at once.
So one process is the run's, its exit code says how the run ended, and whoever started it by itself sees that code.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any

from dreambooth_resume.config.load import GivenOptions
from dreambooth_resume.errors import BadInput, ComeBack, DbrError
from dreambooth_resume.models.quiet import few_collections
from dreambooth_resume.preemption.signals import EXIT_CODES
from dreambooth_resume.workflows.home import Home, find_place

if TYPE_CHECKING:
    from dreambooth_resume.training.hands import Hands

START_METHOD = "spawn"
"""A forked process could not use the GPU. Tests fork, from a process that has done nothing with torch yet."""
_OTHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ONE_MACHINE = "train on one machine: dbr train --num_processes GPUS …"


def is_one_too_many(environment: Mapping[str, str]) -> bool:
    """Was this process started by torchrun or `accelerate launch` beside the one that trains?

    Raises BadInput for processes on several machines, which can't train one run.
    """
    processes, here = (_number(environment, name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if processes is not None and here is not None and here != processes:
        raise BadInput(f"{processes} processes on several machines", where="LOCAL_WORLD_SIZE", fix=_ONE_MACHINE)
    return (processes or 1) > 1 and (_number(environment, "RANK") or 0) > 0


def as_launched(given: GivenOptions, environment: MutableMapping[str, str]) -> GivenOptions:
    """The options, with as many processes as torchrun or `accelerate launch` were told to start.

    Their variables are taken away: accelerate would look for processes that are not there. Raises BadInput if another
    number is given.
    """
    processes, given_number = _number(environment, "WORLD_SIZE") or 1, given.values.get("num_processes")
    for name in _OTHERS:
        environment.pop(name, None)
    if processes == 1:
        return given
    if given_number is not None and given_number != processes:
        raise BadInput(
            f"is {given_number}, and {processes} processes were started",
            where=given.sources["num_processes"],
            fix="leave it out, or start one process: dbr train --num_processes GPUS …",
        )
    return replace(
        given,
        values={**given.values, "num_processes": processes},
        sources={**given.sources, "num_processes": "WORLD_SIZE"},
    )


def gpus_here() -> list[str]:
    """What the GPUs that can be seen are called."""
    from torch import cuda

    return [cuda.get_device_name(number) for number in range(cuda.device_count())]


def processes_for(
    home: Home,
    wanted: int,
    sources: Mapping[str, str],
    *,
    tell: Callable[[str], None],
    gpus_here: Callable[[], Sequence[str]] = gpus_here,
) -> int:
    """As many as are wanted; fewer if the run goes on and this machine has fewer GPUs. None at all limit nothing.

    Raises BadInput for a new run that wants more than there are, since it settles how many samples a step has, and for
    GPUs of several kinds. A run that goes on is not refused, whoever wants so many: a script that starts the same
    command again on another machine is to go on there.
    """
    if wanted == 1 or not (gpus := gpus_here()):
        return wanted
    if wanted > len(gpus) and home.record is None:
        raise BadInput(
            f"{wanted} processes want a GPU each, and {len(gpus)} can be seen here",
            where=sources.get("num_processes", "num_processes"),
            fix=f"give at most {len(gpus)}; --gradient_accumulation_steps makes up for the batch",
        )
    if len(used := set(gpus[:wanted])) > 1:
        raise BadInput(
            f"the GPUs are of several kinds ({', '.join(sorted(used))}), which don't round alike",
            where=sources.get("num_processes", "num_processes"),
            fix="choose those of one kind with CUDA_VISIBLE_DEVICES, and give their number",
        )
    if wanted > len(gpus):
        seen = "1 GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs"
        tell(f"This machine has {seen}, not {wanted}: each computes more of a step. The result is the same.")
    return min(wanted, len(gpus))


@contextmanager
def lent_hands(processes: int, given: GivenOptions, *, tell: Callable[[str], None]) -> Iterator[Hands | None]:
    """The processes beside this one, which end with this block; None if it is to be alone."""
    if processes == 1:
        yield None
        return
    from dreambooth_resume.training.exchange import refuse_other_systems
    from dreambooth_resume.training.hands import Hands, Link

    refuse_other_systems()
    context: Any = multiprocessing.get_context(START_METHOD)
    signals = context.Array("i", processes, lock=False)
    hands = Hands(signals, tell=tell)
    try:
        for number in range(1, processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_lend_a_hand,
                args=(theirs, signals, number, processes, given),
                name=f"dbr process {number}",
                daemon=True,
            )
            with _seeing_gpu(number, os.environ), _signals_held_back():
                process.start()
            theirs.close()
            hands.links.append(Link(process=process, connection=ours))
        tell(f"{processes} processes compute each step together.")
        yield hands
    finally:
        hands.close()


def _lend_a_hand(connection: Connection, signals: Any, number: int, processes: int, given: GivenOptions) -> None:
    """What process `number` does until process 0 ends it, or is gone."""
    _pass_signals_on(signals, number)
    threading.Thread(target=_end_with_process_0, name="dbr-process-0", daemon=True).start()
    with few_collections():
        from dreambooth_resume.training.batches import Share
        from dreambooth_resume.training.exchange import Failed
        from dreambooth_resume.training.hand import lend

    try:
        lend(connection, find_place(given).storage, Share(process=number, processes=processes))
    except (EOFError, ConnectionError):
        raise SystemExit(ComeBack.exit_code) from None
    except DbrError as error:
        connection.send(Failed(text=str(error), exit_code=error.exit_code))
        raise SystemExit(error.exit_code) from None


def _pass_signals_on(signals: Any, number: int) -> None:
    """From now on a signal that asks this process to end is process 0's affair."""

    def note(received: int, _frame: FrameType | None) -> None:
        signals[number] = signals[number] or received

    for received in EXIT_CODES:
        if received != signal.SIGHUP or signal.getsignal(received) != signal.SIG_IGN:
            signal.signal(received, note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)


def _end_with_process_0() -> None:
    """Right then, whatever this process is doing: it has nothing to lose, and its GPU is wanted by who comes next."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(ComeBack.exit_code)


@contextmanager
def _seeing_gpu(number: int, environment: MutableMapping[str, str]) -> Iterator[None]:
    """A process that is started in this block sees that GPU alone, of those that this one sees."""
    before = environment.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in before.split(",") if name.strip()] if before else []
    # Where it is set to nothing there is no GPU, and the processes are to see none, either.
    if before is None or number < len(names):
        environment["CUDA_VISIBLE_DEVICES"] = names[number] if names else str(number)
    try:
        yield
    finally:
        if before is None:
            environment.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            environment["CUDA_VISIBLE_DEVICES"] = before


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """What is sent meanwhile arrives afterwards; a process that is started meanwhile gets it once it can take it."""
    if START_METHOD == "spawn":
        # The first process that is started starts it too, and that lets SIGINT and SIGTERM through again.
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    if text in ("", "-1"):
        return None
    if not text.isdigit():
        raise BadInput(f"{text[:40]!r} is no number of processes", where=name, fix=_ONE_MACHINE)
    return int(text)
