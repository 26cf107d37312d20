"""Several processes of one machine compute one run's steps: process 0 leads, the others are its hands.

Process 0 is the attempt: it alone speaks to the home, and keeps the optimizer's state and the averages. It starts the
hands and ends them. Each step it shows them the parameters; micro-batch m is computed by process m mod the number of
processes, and process 0 adds the gradients in the micro-batches' order, one by one, as it would have computed them
itself. So the bytes of a run do not depend on how many processes compute it: two GPUs may begin it, one end it. The
price is a copy of the adapter to each hand in every step, and one back for each of its micro-batches (rank 16: 89 MiB),
through the machine's memory.

A hand keeps and writes nothing, so it may end at any moment, and no agreement about saves is needed: process 0 alone
saves and leaves, at its own step boundaries. A hand that is asked to end by a signal says so and goes on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from dreambooth_resume.data.batch import Batch
from dreambooth_resume.errors import ComeBack, ProcessLost
from dreambooth_resume.preemption.signals import EXIT_CODES
from dreambooth_resume.preemption.watcher import GO_ON, Watcher
from dreambooth_resume.runs.notice import Notice
from dreambooth_resume.training.exchange import (
    Answer,
    Failed,
    Order,
    Parameters,
    Ready,
    Rows,
    Said,
    Taken,
    count_of,
    read,
    write,
)
from dreambooth_resume.training.memory import Portions
from dreambooth_resume.training.step import HandsLate, Part

ANSWER_SECONDS = 1800.0
"""How long a hand may take for a micro-batch, or to load the model, before it is thought lost."""
CLOSE_SECONDS = 10.0
"""How long the end waits for processes that were killed: one that hangs in its GPU's driver may stay for ever.
`cli.main` then ends without it."""
LATE_SECONDS = 5.0
"""How long process 0, done with its own micro-batch, waits for those of the hands where a notice asks it to end."""
_LOOK_SECONDS = 0.5

Words = TypeVar("Words")
Signals = Any
"""An array of int that all processes see: the first signal that each hand got, 0 before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Process 0's end of what leads to a hand."""

    process: BaseProcess
    connection: Connection


class Hands:
    """The other processes, and a source of notices: what they were told counts as if process 0 had been."""

    def __init__(self, signals: Signals, *, tell: Callable[[str], None]) -> None:
        self.links: list[Link] = []
        """To process 1, 2 and so on."""
        self._signals = signals
        self._tell = tell
        self._rows: Rows | None = None

    @property
    def processes(self) -> int:
        """All of them, with process 0."""
        return len(self.links) + 1

    def notice(self) -> Notice | None:
        """The first signal that a hand got."""
        for number, received in enumerate(self._signals):
            if received:
                name = signal.Signals(received)
                return Notice(source=f"{name.name} to process {number}", exit_code=EXIT_CODES[name], insistence=1)
        return None

    def assign(self, work: object) -> None:
        """Have the hands get ready for `work`, while this process does the same."""
        for number in range(1, self.processes):
            self.say(number, work)

    def when_ready(self, parameters: Parameters, portions: Portions, watcher: Watcher) -> HandsAtWork:
        """Wait until the hands have loaded the model. Raises what a notice asks for, ProcessLost, ComeBack."""
        numbers = count_of(parameters)
        for number in range(1, self.processes):
            ready = self.hear(number, Ready, in_between=lambda: watcher.leave_if_asked("loading the model"))
            assert ready.numbers == numbers, f"process {number} has {ready.numbers} numbers to train, not {numbers}"
        if self._rows is None:
            self._rows = self._show_rows(numbers)
        return HandsAtWork(self, parameters, portions, self._rows, watcher)

    def _show_rows(self, numbers: int) -> Rows:
        """Memory that the hands see, too. Another assignment of the same run has as many numbers."""
        rows = Rows(self.processes, numbers)
        for number, link in enumerate(self.links, start=1):
            assert link.process.pid is not None
            with self._unless_gone(number):
                rows.send(link.connection, link.process.pid)
        rows.close()
        return rows

    def say(self, number: int, words: object) -> None:
        """Raises ProcessLost if process `number` is gone."""
        with self._unless_gone(number):
            self.links[number - 1].connection.send(words)

    def hear(self, number: int, kind: type[Words], *, in_between: Callable[[], None] = lambda: None) -> Words:
        """The next words of this kind from process `number`. Raises ProcessLost or ComeBack if it can't go on."""
        link, deadline = self.links[number - 1], time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            in_between()
            found = wait([link.connection, link.process.sentinel], _LOOK_SECONDS)
            if link.connection in found or link.connection.poll():
                with self._unless_gone(number):
                    words = link.connection.recv()
                if isinstance(words, kind):
                    return words
                self._take_note(number, words)
            elif found:
                raise self._lost(number)
        raise ProcessLost(f"Process {number} of {self.processes} gave no answer for {ANSWER_SECONDS:.0f} s. {GO_ON}.")

    def close(self) -> None:
        """End them at once: they have nothing to lose."""
        for link in self.links:
            link.process.kill()
        deadline = time.monotonic() + CLOSE_SECONDS
        for link in self.links:
            link.process.join(max(0.0, deadline - time.monotonic()))
            link.connection.close()

    def _take_note(self, number: int, words: object) -> None:
        if isinstance(words, Said):
            self._tell(f"process {number}: {words.text}")
        elif isinstance(words, Failed):
            what = f"Process {number} of {self.processes}: {words.text}"
            raise ComeBack(what) if words.exit_code == ComeBack.exit_code else ProcessLost(f"{what}\n{GO_ON}.")
        # Anything else answers an order that another one took the place of.

    @contextmanager
    def _unless_gone(self, number: int) -> Iterator[None]:
        try:
            yield
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise self._lost(number) from error

    def _lost(self, number: int) -> ProcessLost:
        process = self.links[number - 1].process
        process.join(CLOSE_SECONDS)
        code = process.exitcode
        how = f"ended with exit code {code}; its error is printed above"
        if code is None:
            how = (
                f"broke off, and has not ended {CLOSE_SECONDS:.0f} s later; if it wrote an error, that is printed above"
            )
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += ", as the system does when memory is short (dmesg tells)"
        return ProcessLost(f"Process {number} of {self.processes} {how}. {GO_ON} from the last durable step.")


class HandsAtWork:
    """The hands as a step sees them (`step.Hands`), for the model of one assignment."""

    def __init__(self, hands: Hands, parameters: Parameters, portions: Portions, rows: Rows, watcher: Watcher) -> None:
        self._hands = hands
        self._parameters = parameters
        self._portions = portions
        self._rows = rows
        self._watcher = watcher
        self._serial = 0

    def begin(self, step: int, *, loss_scale: float) -> None:
        """Have each hand compute its micro-batches of `step` with the parameters as they are now."""
        self._serial += 1
        write(self._rows[0], list(self._parameters.values()))
        order = Order(serial=self._serial, step=step, micro_batch_size=self._portions.size, loss_scale=loss_scale)
        for number in range(1, self._hands.processes):
            self._hands.say(number, order)

    def add_round(self, batch: Batch, place: int) -> list[Part]:
        """Add the gradients of the micro-batches behind this process's one at `place`, up to its next.

        Raises OutOfMemoryError if a hand has too little, ProcessLost or ComeBack if one can't go on, HandsLate if a
        notice leaves no time to wait for one.
        """
        processes = self._hands.processes
        left = batch.micro_batch_count - place * processes
        leave_if_late = partial(self._leave_if_late, time.monotonic() + LATE_SECONDS)
        return [self._add(number, leave_if_late) for number in range(1, min(processes, left))]

    def _add(self, number: int, leave_if_late: Callable[[], None]) -> Part:
        answer = self._hands.hear(number, Answer, in_between=leave_if_late)
        while answer.serial != self._serial:
            answer = self._hands.hear(number, Answer, in_between=leave_if_late)
        if answer.loss is None:
            raise torch.OutOfMemoryError(f"in process {number} of {self._hands.processes}")
        gradients = read(self._rows[number], self._parameters)
        # What the loss doesn't reach here, it reaches in no process.
        trained = {name: one.grad for name, one in self._parameters.items() if one.grad is not None}
        torch._foreach_add_(list(trained.values()), [gradients[name] for name in trained])
        device = next(iter(self._parameters.values())).device
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the row has been read
        self._hands.say(number, Taken())
        return Part(loss=torch.tensor(answer.loss, dtype=torch.float32, device=device), checksum=answer.checksum)

    def _leave_if_late(self, late_monotonic_s: float) -> None:
        """Without this a hand that hangs would keep a notice from being looked at until the machine is gone."""
        if time.monotonic() < late_monotonic_s or not self._watcher.should_stop():
            return
        if (notice := self._watcher.notice()) is not None:
            raise HandsLate(notice)
