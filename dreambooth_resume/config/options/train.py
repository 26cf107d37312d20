"""All options of `dbr train`: the sections put together."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dreambooth_resume.config.options.budget import BudgetOptions
from dreambooth_resume.config.options.checkpoints import CheckpointOptions
from dreambooth_resume.config.options.data import DataOptions
from dreambooth_resume.config.options.ema import EmaOptions
from dreambooth_resume.config.options.lora import LoraOptions
from dreambooth_resume.config.options.loss import LossOptions
from dreambooth_resume.config.options.machine import MachineOptions
from dreambooth_resume.config.options.model import ModelOptions
from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.config.options.preemption import PreemptionOptions
from dreambooth_resume.config.options.prior import PriorOptions
from dreambooth_resume.config.options.reporting import ReportingOptions
from dreambooth_resume.config.options.storage import StorageOptions
from dreambooth_resume.config.options.tokens import TokenOptions
from dreambooth_resume.config.options.training import TrainingOptions
from dreambooth_resume.config.options.validation import ValidationOptions


class TrainOptions(BaseModel):
    """Everything that decides a run. The code is handed sections; users see flat names (see `schema.py`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelOptions
    data: DataOptions
    prior: PriorOptions
    lora: LoraOptions
    tokens: TokenOptions
    optimization: OptimizationOptions
    training: TrainingOptions
    loss: LossOptions
    ema: EmaOptions
    validation: ValidationOptions
    reporting: ReportingOptions
    checkpoints: CheckpointOptions
    storage: StorageOptions
    preemption: PreemptionOptions
    budget: BudgetOptions
    machine: MachineOptions

    @property
    def text_part(self) -> float | None:
        """Part of the run's steps in which something of the text encoders is trained; None if nothing ever is."""
        if self.tokens.train_text_encoder_ti:
            return self.tokens.train_text_encoder_ti_frac
        return self.lora.train_text_encoder_frac if self.lora.train_text_encoder else None


# In the order in which help, the YAML template and the documentation show them.
SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelOptions,
    "data": DataOptions,
    "prior": PriorOptions,
    "lora": LoraOptions,
    "tokens": TokenOptions,
    "optimization": OptimizationOptions,
    "training": TrainingOptions,
    "loss": LossOptions,
    "ema": EmaOptions,
    "validation": ValidationOptions,
    "reporting": ReportingOptions,
    "checkpoints": CheckpointOptions,
    "storage": StorageOptions,
    "preemption": PreemptionOptions,
    "budget": BudgetOptions,
    "machine": MachineOptions,
}
