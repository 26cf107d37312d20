"""A checkpoint as Diffusers' `train_dreambooth_lora_sdxl.py` leaves it: its optimizer, its save hook, accelerate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils.save_and_load import get_peft_model_state_dict
from torch.nn.functional import mse_loss


def train_like_the_script(model: Path, output_dir: Path, *, rank: int = 4, steps: int = 3) -> UNet2DConditionModel:
    """Writes `output_dir`/checkpoint-<steps>; the UNet as it was then, with the gradients of one step more."""
    accelerator = Accelerator(cpu=True)
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=rank,
            init_lora_weights="gaussian",
            target_modules=["to_k", "to_q", "to_v", "to_out.0"],
        )
    )
    parameters = list(filter(lambda parameter: parameter.requires_grad, unet.parameters()))
    optimizer = torch.optim.AdamW([{"params": parameters, "lr": 1e-3}], betas=(0.9, 0.999), weight_decay=1e-4, eps=1e-8)
    scheduler = get_scheduler("constant", optimizer=optimizer)
    unet, optimizer, scheduler = accelerator.prepare(unet, optimizer, scheduler)

    def save_model_hook(models: list[torch.nn.Module], weights: list[object], folder: str) -> None:
        for one in models:
            layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(one))
            weights.pop()
        StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers)

    accelerator.register_save_state_pre_hook(save_model_hook)
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        accelerator.backward(_loss(unet, generator))
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    accelerator.save_state(str(output_dir / f"checkpoint-{steps}"))
    accelerator.backward(_loss(unet, generator))
    optimizer.step()
    return unet


def _loss(unet: UNet2DConditionModel, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    prediction = unet(
        noise,
        torch.tensor([100, 700]),
        encoder_hidden_states=torch.randn(2, 77, 64, generator=generator),
        added_cond_kwargs={
            "text_embeds": torch.randn(2, 32, generator=generator),
            "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2),
        },
        return_dict=False,
    )[0]
    return mse_loss(prediction, noise)


def main(words: Sequence[str]) -> int:
    """`words`: the folder of the base model, and that for the checkpoint."""
    model, output_dir = words
    train_like_the_script(Path(model), Path(output_dir))
    return 0
