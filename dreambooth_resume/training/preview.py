"""Pictures made with the LoRA while it trains. They change no bit of the training, and can never end it.

The denoiser that trains is used as it stands, in evaluation mode and without gradients; torch's generators are put back
afterwards. The noise of a picture is a pure function of the run's seed and the picture's number, so a set can be made
again, and all sets of a run show the same pictures growing.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from dreambooth_resume.config.options.validation import ValidationOptions
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.models.base import Denoiser, Encoders, Sampler, SamplingSettings
from dreambooth_resume.runs.samples import read_samples, write_samples
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.training.progress import Reporter

logger = logging.getLogger(__name__)

# SAMPLE's draw for these; 1 and 2 are the class pictures'.
_NOISE_DRAW = 3
# As Diffusers' script has it: the pipeline's own number while training, and this one with the result.
INFERENCE_STEPS, FINAL_INFERENCE_STEPS = 50, 25

Picture = NDArray[np.uint8]
"""[height, width, 3]."""
Embeddings = tuple[torch.Tensor, torch.Tensor]
"""A prompt's embeddings [tokens, width] and pooled embeddings [width]."""
Show = Callable[[int, str, str, Sequence[Picture]], None]
"""Told step, phase (`validation`, or `test` for the result's), prompt and pictures of every set that was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """When pictures are due: a pure function of the step."""

    options: ValidationOptions
    plan: Plan
    max_train_steps: int

    def due(self, step: int) -> bool:
        """After optimizer update `step`? Not at the last one: the result's pictures are made there."""
        chosen = self.options
        if chosen.validation_prompt is None or chosen.num_validation_images == 0:
            return False
        if not 0 < step < self.max_train_steps:
            return False
        if chosen.validation_steps is not None:
            return step % chosen.validation_steps == 0
        return any(epoch % chosen.validation_epochs == 0 for epoch in self.plan.epochs_ended(step))

    @property
    def final_prompt(self) -> str | None:
        """The prompt of the pictures that are made with the result; None for none."""
        chosen = self.options
        if chosen.skip_final_inference or chosen.num_validation_images == 0:
            return None
        return chosen.validation_prompt or chosen.final_validation_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Easel:
    """The loaded parts that a picture is made with.

    `embed` gives a prompt's embeddings as they are now: where the text encoders train, from the trained ones.
    `adapter` is what trains, by name: pictures of the same adapter needn't be made again. Within `result_in_place` it
    is what the result would be, where that is an average. `frees_encoders`: nothing of `encoders` is needed on the
    device between two sets of pictures.
    """

    denoiser: Denoiser
    sampler: Sampler
    encoders: Encoders
    embed: Callable[[str], Embeddings]
    adapter: Callable[[], Mapping[str, torch.Tensor]]
    result_in_place: Callable[[], AbstractContextManager[None]]
    autocast: Callable[[], AbstractContextManager[None]]
    noise_shape: tuple[int, int, int]
    height: int
    width: int
    frees_encoders: bool = True
    edm_style: bool = False

    def paint(
        self, prompt: str, noise_CHW: torch.Tensor, *, steps: int, should_stop: Callable[[], bool]
    ) -> Picture | None:
        """One picture; None if told to stop on the way."""
        zeros = self.sampler.negative_prompt_is_zeros
        with undisturbed(self.denoiser.module), self.autocast():
            latents_BCHW = self.sampler.sample(
                self.denoiser,
                noise_BCHW=noise_CHW.unsqueeze(0),
                prompt_BSD_BP=_batch_of_one(self.embed(prompt)),
                negative_BSD_BP=None if zeros else _batch_of_one(self.embed("")),
                settings=SamplingSettings(
                    height=self.height, width=self.width, num_inference_steps=steps, edm_style=self.edm_style
                ),
                should_stop=should_stop,
            )
        with torch.autocast(noise_CHW.device.type, enabled=False):  # in half precision the VAE gives NaNs
            return None if latents_BCHW is None else self.encoders.decode_latents(latents_BCHW[0])

    def put_away(self) -> None:
        """Give the device back to the training."""
        if self.frees_encoders:
            self.encoders.set_aside()


class Preview:
    """Makes the pictures that are due, tells of them, and swallows whatever goes wrong with them."""

    def __init__(
        self,
        easel: Easel,
        timetable: Timetable,
        *,
        seed: int,
        storage: Storage,
        attempt: int,
        should_stop: Callable[[], bool],
        reporter: Reporter,
    ) -> None:
        self._easel = easel
        self._timetable = timetable
        self._seed = seed
        self._storage = storage
        self._attempt = attempt
        self._should_stop = should_stop
        self._reporter = reporter
        self._said: set[str] = set()
        self.show: Show = lambda _step, _phase, _prompt, _pictures: None

    def due(self, step: int) -> bool:
        return self._timetable.due(step)

    @property
    def due_at_the_end(self) -> bool:
        return self._timetable.final_prompt is not None

    def make(self, step: int) -> None:
        """The pictures of this step, unless the home has them. Never raises."""
        self._make(step, self._timetable.options.validation_prompt, is_final=False)

    def make_final(self, step: int) -> None:
        """The pictures of the result, unless the home has them. Never raises."""
        self._make(step, self._timetable.final_prompt, is_final=True)

    def _make(self, step: int, prompt: str | None, *, is_final: bool) -> None:
        if prompt is None:
            return
        try:
            with self._easel.result_in_place():
                self._paint_and_store(step, prompt, is_final=is_final)
        except Exception as error:  # noqa: BLE001
            # Not one of the errors that can happen here is worth a training: out of memory, a full disk, a library.
            self._say_skipped(step, error)
        finally:
            self._clear_up()

    def _paint_and_store(self, step: int, prompt: str, *, is_final: bool) -> None:
        recipe = self._recipe(prompt, is_final=is_final)
        if any(made.recipe == recipe for made in read_samples(self._storage, step=step)):
            return
        what, steps = ("final pictures" if is_final else "validation pictures"), int(str(recipe["num_inference_steps"]))
        count = self._timetable.options.num_validation_images
        pictures: list[Picture] = []
        for number in range(count):
            self._reporter.phase(what, number, count)
            noise = torch.from_numpy(self._noise(number))
            picture = self._easel.paint(prompt, noise, steps=steps, should_stop=self._should_stop)
            if picture is None:
                self._reporter.message(f"The {what} of step {step} are left out: somebody asks for the machine.")
                return
            pictures.append(picture)
        self._reporter.phase(what, count, count)
        pngs = tuple(_png(picture) for picture in pictures)
        write_samples(self._storage, pngs, step=step, attempt=self._attempt, is_final=is_final, recipe=recipe)
        self.show(step, "test" if is_final else "validation", prompt, pictures)

    def _recipe(self, prompt: str, *, is_final: bool) -> dict[str, JsonValue]:
        return {
            "prompt": prompt,
            "seed": self._seed,
            "pictures": self._timetable.options.num_validation_images,
            "height": self._easel.height,
            "width": self._easel.width,
            "num_inference_steps": FINAL_INFERENCE_STEPS if is_final else INFERENCE_STEPS,
            "lora_sha256": _digest(self._easel.adapter()),
        }

    def _noise(self, number: int) -> NDArray[np.float32]:
        draw = generator(self._seed, Stream.SAMPLE, slot=number, draw=_NOISE_DRAW)
        return draw.standard_normal(self._easel.noise_shape, dtype=np.float32)

    def _say_skipped(self, step: int, error: Exception) -> None:
        kind = type(error).__name__
        logger.info("the pictures of step %d: %s", step, error, exc_info=True)
        if kind in self._said:
            return
        self._said.add(kind)
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            reason = "out of memory"
        self._reporter.message(
            f"The pictures of step {step} are left out ({reason or kind}). Training goes on and loses nothing; "
            "the same trouble at later steps is not said again."
        )

    def _clear_up(self) -> None:
        try:
            self._easel.put_away()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        except Exception as error:
            # After an error on the device this may fail, too; the training will find out by itself.
            logger.info("clearing up after pictures: %s", error, exc_info=True)


@contextmanager
def undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients; afterwards every sub-module's mode and torch's generators are as before."""
    modes = [(one, one.training) for one in module.modules()]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for one, mode in modes:
                one.training = mode


def _batch_of_one(embeddings: Embeddings) -> Embeddings:
    return embeddings[0].unsqueeze(0), embeddings[1].unsqueeze(0)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _png(picture: Picture) -> bytes:
    from PIL import Image

    body = io.BytesIO()
    Image.fromarray(picture).save(body, format="PNG")
    return body.getvalue()
