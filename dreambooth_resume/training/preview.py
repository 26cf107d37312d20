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
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from dreambooth_resume.config.options.validation import ValidationOptions
from dreambooth_resume.config.shots import Shot
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.models.base import Denoiser, Encoders, Sampler, SamplingSettings
from dreambooth_resume.models.compiled import without_compiling
from dreambooth_resume.runs.samples import SampleKind, read_samples, write_samples
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.training.picture_spec import PictureSpec, spec_of
from dreambooth_resume.training.progress import Reporter

logger = logging.getLogger(__name__)

# As Diffusers' script has it: the pipeline's own number while training, and this one with the result.
INFERENCE_STEPS, FINAL_INFERENCE_STEPS = 50, 25

_DUE: dict[SampleKind, str] = {"validation": "validation", "final": "final"}

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
    shots: tuple[Shot, ...] = ()
    """Those of validation_prompts_file: a picture each, behind those of validation_prompt."""

    def due(self, step: int) -> bool:
        """After optimizer update `step`? Not at the last one: the result's pictures are made there."""
        chosen = self.options
        if not self.shots and (chosen.validation_prompt is None or chosen.num_validation_images == 0):
            return False
        return 0 < step < self.max_train_steps and self._is_time(step)

    def loss_due(self, step: int) -> bool:
        """Is the validation loss to be measured after update `step`? At the last one always."""
        return step > 0 and (step == self.max_train_steps or self._is_time(step))

    def _is_time(self, step: int) -> bool:
        chosen = self.options
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

    @property
    def due_at_the_end(self) -> bool:
        return self.final_prompt is not None or (bool(self.shots) and not self.options.skip_final_inference)


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

    def paint(self, spec: PictureSpec, *, should_stop: Callable[[], bool]) -> Picture | None:
        """One picture; None if told to stop on the way."""
        channels, latents_high, _ = self.noise_shape
        noise_CHW = torch.from_numpy(spec.noise(channels=channels, pixels_per_latent=self.height // latents_high))
        zeros = self.sampler.negative_prompt_is_zeros and not spec.negative_prompt
        with undisturbed(self.denoiser.module), self.autocast():
            latents_BCHW = self.sampler.sample(
                self.denoiser,
                noise_BCHW=noise_CHW.unsqueeze(0),
                prompt_BSD_BP=_batch_of_one(self.embed(spec.prompt)),
                negative_BSD_BP=None if zeros else _batch_of_one(self.embed(spec.negative_prompt)),
                settings=SamplingSettings(
                    height=spec.height,
                    width=spec.width,
                    num_inference_steps=spec.num_inference_steps,
                    guidance_scale=spec.guidance_scale,
                    edm_style=self.edm_style,
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
        default_prompt: str = "",
    ) -> None:
        """`default_prompt`: of pictures that somebody asks for without one, in a run that makes none by itself."""
        self._easel = easel
        self._default_prompt = default_prompt
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
        return self._timetable.due_at_the_end

    def make(self, step: int) -> None:
        """The pictures of this step, unless the home has them. Never raises."""
        self._make(step, self._specs(self._timetable.options.validation_prompt, INFERENCE_STEPS), kind="validation")

    def make_final(self, step: int) -> None:
        """The pictures of the result, unless the home has them. Never raises."""
        self._make(step, self._specs(self._timetable.final_prompt, FINAL_INFERENCE_STEPS), kind="final")

    def make_asked(self, step: int, *, prompt: str | None, request: str) -> None:
        """Pictures that somebody asked for just now: of `prompt`, else as at a step where some are due. Never raises.

        `request` are eight letters of the request, by which who asked finds them.
        """
        if prompt is None:
            specs = self._specs(self._timetable.options.validation_prompt, INFERENCE_STEPS)
            prompt = self._default_prompt
        else:
            specs = ()
        self._make(step, specs or self._plain(prompt, INFERENCE_STEPS, count=1), kind=request)

    def _specs(self, prompt: str | None, steps: int) -> tuple[PictureSpec, ...]:
        """Those of the one prompt, then those of the file."""
        plain = self._plain(prompt, steps, count=self._timetable.options.num_validation_images) if prompt else ()
        shots = (
            spec_of(shot, number=number, seed=self._seed, side=self._easel.height, num_inference_steps=steps)
            for number, shot in enumerate(self._timetable.shots)
        )
        return (*plain, *shots)

    def _plain(self, prompt: str, steps: int, *, count: int) -> tuple[PictureSpec, ...]:
        return tuple(
            PictureSpec(
                prompt=prompt,
                height=self._easel.height,
                width=self._easel.width,
                num_inference_steps=steps,
                seed=self._seed,
                number=number,
            )
            for number in range(count)
        )

    def _make(self, step: int, specs: Sequence[PictureSpec], *, kind: SampleKind) -> None:
        if not specs:
            return
        try:
            with self._easel.result_in_place():
                self._paint_and_store(step, specs, kind=kind)
        except Exception as error:  # noqa: BLE001
            # Not one of the errors that can happen here is worth a training: out of memory, a full disk, a library.
            self._say_skipped(step, error)
        finally:
            self._clear_up()

    def _paint_and_store(self, step: int, specs: Sequence[PictureSpec], *, kind: SampleKind) -> None:
        recipe = self._recipe(specs)
        made_before = any(made.recipe == recipe for made in read_samples(self._storage, step=step))
        if made_before and kind in _DUE:
            return
        what, count = f"{_DUE.get(kind, 'asked-for')} pictures", len(specs)
        pictures: list[Picture] = []
        for number, spec in enumerate(specs):
            self._reporter.phase(what, number, count)
            picture = self._easel.paint(spec, should_stop=self._should_stop)
            if picture is None:
                self._reporter.message(f"The {what} of step {step} are left out: somebody asks for the machine.")
                return
            pictures.append(picture)
        self._reporter.phase(what, count, count)
        write_samples(
            self._storage,
            tuple(as_png(picture) for picture in pictures),
            step=step,
            attempt=self._attempt,
            recipe=recipe,
            facts=[spec.facts() for spec in specs],
            kind=kind,
        )
        self._show(step, "test" if kind == "final" else "validation", specs, pictures)

    def _show(self, step: int, phase: str, specs: Sequence[PictureSpec], pictures: Sequence[Picture]) -> None:
        """Those of each prompt and size together, since trackers join them: the first as `validation`."""
        groups = groupby(zip(specs, pictures, strict=True), key=lambda one: (one[0].prompt, one[1].shape))
        for number, ((prompt, _), group) in enumerate(groups):
            name = phase if number == 0 else f"{phase}_{number + 1}"
            self.show(step, name, prompt, [picture for _, picture in group])

    def _recipe(self, specs: Sequence[PictureSpec]) -> dict[str, JsonValue]:
        """What decides the pictures. Of one prompt as it was before there were files of prompts: those are not made
        again.
        """
        first = specs[0]
        recipe: dict[str, JsonValue] = {
            "prompt": first.prompt,
            "seed": self._seed,
            "pictures": len(specs),
            "height": first.height,
            "width": first.width,
            "num_inference_steps": first.num_inference_steps,
            "lora_sha256": _digest(self._easel.adapter()),
        }
        if list(specs) != list(self._plain(first.prompt, first.num_inference_steps, count=len(specs))):
            recipe["each"] = [spec.facts() for spec in specs]
        return recipe

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
    with torch.random.fork_rng(devices=devices), torch.no_grad(), without_compiling(module):
        module.eval()
        try:
            yield
        finally:
            for one, mode in modes:
                one.training = mode


def as_png(picture: Picture) -> bytes:
    """The picture as a file."""
    from PIL import Image

    body = io.BytesIO()
    Image.fromarray(picture).save(body, format="PNG")
    return body.getvalue()


def _batch_of_one(embeddings: Embeddings) -> Embeddings:
    return embeddings[0].unsqueeze(0), embeddings[1].unsqueeze(0)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
