"""What every process but the first does: its micro-batches of each step, for as long as process 0 asks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar

from torch import Tensor, zeros_like
from torch.amp.grad_scaler import GradScaler

from dreambooth_resume.data.batch import Batch, samples_checksum
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.patience import patiently
from dreambooth_resume.training.batches import Share, loader_of, portions_of
from dreambooth_resume.training.build import Work, encode, groups_of, make_accelerator, trainable
from dreambooth_resume.training.exchange import (
    Answer,
    Order,
    Ready,
    Rows,
    Said,
    Taken,
    count_of,
    read,
    received,
    write,
)
from dreambooth_resume.training.memory import is_out_of_memory, release
from dreambooth_resume.training.numerics import make_deterministic
from dreambooth_resume.training.progress import Silent
from dreambooth_resume.training.step import TrainableModel, backward_pass

Computed = TypeVar("Computed")


def lend(connection: Connection, storage: Storage, share: Share) -> None:
    """Compute this process's share of what process 0 wants, one assignment after the other. Reads the home only.

    Raises EOFError when process 0 is gone. Never returns: process 0 ends this process.
    """
    hand, work = _Hand(connection=connection, storage=storage, share=share), connection.recv()
    while True:
        assert isinstance(work, Work), work
        work = hand.serve(work)
        # The last model lies in cycles and in torch's blocks: the next one would be loaded beside it.
        release()


@dataclass(slots=True, kw_only=True)
class _Hand:
    connection: Connection
    storage: Storage
    share: Share
    rows: Rows | None = None
    """Made by process 0 when it knows how much there is to train, and kept: another assignment has as much."""

    def serve(self, work: Work) -> object:
        """Be ready for `work` and carry out the orders about it; the words that are none."""
        assignment, options = work.assignment, work.assignment.options
        make_deterministic(allow_tf32=options.training.allow_tf32, torch_threads=work.torch_threads)
        accelerator = make_accelerator(options)
        encoders = assignment.family.encoders(assignment.source, device=accelerator.device)
        # Process 0 has filled the cache before it sent the work: here it is only read.
        ask = partial(encode, assignment, self.storage, encoders, reporter=Silent(), watcher=Watcher([]))
        pairs, samples, _ = patiently(ask, tell=lambda text: self.connection.send(Said(text=text)))
        encoders.free()
        model, loaded = trainable(assignment, encoders, pairs, accelerator=accelerator)
        groups = groups_of(assignment, loaded)
        portions = portions_of(assignment, samples, accelerator.device, share=self.share)
        self.connection.send(Ready(numbers=count_of(model.parameters)))
        words = self.connection.recv()
        if self.rows is None:
            if isinstance(words, Work):  # process 0 begins anew, before it knew how much there is
                return words
            self.rows = received(self.connection, words)
            words = self.connection.recv()
        with loader_of(assignment, portions) as loader:
            while isinstance(words, Order):
                if words.micro_batch_size != portions.size:
                    portions.size = words.micro_batch_size
                    loader.go_on_with(portions.batches_of(portions.size))
                for group in groups:
                    group.choose_what_trains(words.step)
                _scale_by(model.scaler, words.loss_scale)
                words = self._carry_out(words, model, loader[words.step], self.rows)
        return words

    def _carry_out(self, order: Order, model: TrainableModel, batch: Batch, rows: Rows) -> object:
        """Answer with each micro-batch, the next one while process 0 reads the last; what it says after that."""
        has_parameters = _unless_memory_is_short(partial(_take_over, rows[0], model))
        for place, micro_batch in enumerate(batch.micro_batches):
            loss = None
            if has_parameters:
                loss = _unless_memory_is_short(partial(backward_pass, model, micro_batch, of=batch.slots))
            if place > 0 and not isinstance(words := self.connection.recv(), Taken):
                _forget_gradients(model)
                return words
            is_shown = loss is not None and _unless_memory_is_short(partial(_show, model, rows[self.share.process]))
            _forget_gradients(model)
            if loss is None or not is_shown:
                release()
                self.connection.send(Answer(serial=order.serial, loss=None))
                break
            checksum = samples_checksum([micro_batch])
            self.connection.send(Answer(serial=order.serial, loss=loss.item(), checksum=checksum))
        while isinstance(words := self.connection.recv(), Taken):
            pass
        return words


def _take_over(row: Tensor, model: TrainableModel) -> bool:
    """The parameters that stand in `row`. Half of them taken over do no harm: the next order has them all again."""
    for name, value in read(row, model.parameters).items():
        model.parameters[name].data.copy_(value)
    return True


def _show(model: TrainableModel, row: Tensor) -> bool:
    """Put the gradients into `row`."""
    write(row, [zeros_like(one) if one.grad is None else one.grad for one in model.parameters.values()])
    return True


def _unless_memory_is_short(compute: Callable[[], Computed]) -> Computed | None:
    """What it gives; None if the device has too little memory for it, wherever in it that is noticed."""
    try:
        return compute()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return None


def _forget_gradients(model: TrainableModel) -> None:
    for parameter in model.parameters.values():
        parameter.grad = None


def _scale_by(scaler: GradScaler | None, loss_scale: float) -> None:
    """The scale of process 0, where the scaler learns from each step."""
    if scaler is not None:
        scaler.load_state_dict({**scaler.state_dict(), "scale": loss_scale})
