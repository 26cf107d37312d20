"""A run whose checkpoints hold a real adapter of the tiny SDXL: all about it is real but that nothing was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dreambooth_resume.checkpoint.commit import Committer
from dreambooth_resume.checkpoint.format import SavedState
from dreambooth_resume.checkpoint.publish import publish
from dreambooth_resume.models.export import diffusers_metadata, diffusers_tensors
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.sdxl.text_encoders import SdxlTextEncoders
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.runs.adoption import Adoption
from dreambooth_resume.runs.entries import Commit, Finished
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.record import Pins, new_record, write_record
from dreambooth_resume.storage.base import Storage
from tests.fakes.toy_run import adopt


class AdapterRun:
    """An adapter on all parts of the model, not at its start any more, and a way to commit it to a home."""

    def __init__(self, source: ModelSource, spec: LoraSpec, *, with_text: bool = True) -> None:
        cpu = torch.device("cpu")
        family = family_named("sdxl")
        denoiser = family.load_denoiser(source, device=cpu, weight_dtype=torch.float32, gradient_checkpointing=False)
        encoders = family.load_text_encoders(
            source, device=cpu, weight_dtype=torch.float32, gradient_checkpointing=False
        )
        assert isinstance(denoiser, SdxlDenoiser)
        assert isinstance(encoders, SdxlTextEncoders)
        self.denoiser, self.encoders = denoiser, encoders
        self._spec, self._with_text, self._source = spec, with_text, source
        self.parameters = add_lora(
            denoiser,
            spec,
            normal_draw=lambda number, shape: np.random.default_rng(number).standard_normal(shape, dtype=np.float32),
            text_encoders=encoders if with_text else None,
        )
        self.train()
        for model in (denoiser.module, *encoders.models.values()):
            model.eval()

    def train(self, seed: int = 1) -> None:
        """Change every weight."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def export_weights(
        self, tensors: Mapping[str, torch.Tensor]
    ) -> tuple[Mapping[str, torch.Tensor], Mapping[str, str]]:
        targets = {"unet": self.denoiser.lora_target_modules}
        if self._with_text:
            targets |= dict.fromkeys(self.encoders.models, self.encoders.lora_target_modules)
        weights = {name.removeprefix("lora."): tensor for name, tensor in tensors.items()}
        return diffusers_tensors(weights, prefix="unet"), diffusers_metadata(self._spec, target_modules=targets)

    def write(self, storage: Storage, *, steps: tuple[int, ...] = (2,), finish: bool = True, **options: Any) -> None:
        """A home with a checkpoint at each of `steps`, trained further in between."""
        recorded = {
            "pretrained_model_name_or_path": str(self._source.folder),
            "instance_prompt": "a photo of sks robot",
            "resolution": 64,
            "rank": self._spec.rank,
            "seed": 7,
            "max_train_steps": steps[-1],
            **options,
        }
        pins = Pins(base_model={}, dataset="0" * 64)
        write_record(
            storage, new_record(options=recorded, seed=7, effective_batch=2, block_size=2, pins=pins, numerics={})
        )
        adopted = adopt(storage, steps=steps[-1])
        assert isinstance(adopted, Adoption)
        committer = Committer(
            storage,
            adopted.writer,
            export_weights=self.export_weights,
            flush_metrics=lambda _step: None,
            total_limit=None,
            max_train_steps=steps[-1],
        )
        for number, step in enumerate(steps):
            if number:
                self.train(seed=step)
            tensors = {f"lora.{name}": parameter.detach().clone() for name, parameter in self.parameters.items()}
            committer.commit(SavedState(step=step, tensors=tensors, scalars={}), "interval")
        if finish:
            last = [entry.number for entry in read_log(storage).entries if isinstance(entry.body, Commit)][-1]
            committer.append(Finished(checkpoint=last))
            publish(storage, read_log(storage))
