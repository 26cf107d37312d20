"""SDXL's UNet, frozen, in the precision of training."""

from __future__ import annotations

from typing import Any, cast

import torch

from dreambooth_resume.models.base import BasePrecision, EdmSchedule, LatentScale, ModelFacts, NoiseSchedule
from dreambooth_resume.models.main_memory import hold_in_main_memory
from dreambooth_resume.models.quantised import quantise
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.sdxl.family import LORA_TARGET_MODULES
from dreambooth_resume.models.sdxl.single_file import load_part
from dreambooth_resume.models.source import ModelSource


class SdxlDenoiser:
    """The UNet with its noise schedule. `predict` takes float32 and gives float32 whatever the weights are in."""

    lora_target_modules = LORA_TARGET_MODULES
    export_prefix = "unet"

    def __init__(
        self,
        unet: torch.nn.Module,
        *,
        noise_schedule: NoiseSchedule,
        latent_scale: LatentScale,
        weight_dtype: torch.dtype,
    ) -> None:
        self.module = unet
        self.noise_schedule = noise_schedule
        self.latent_scale = latent_scale
        self.weight_dtype = weight_dtype

    def predict(
        self,
        noisy_latents_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        *,
        prompt_embeds_BSD: torch.Tensor,
        pooled_prompt_embeds_BP: torch.Tensor,
        time_ids_B6: torch.Tensor,
    ) -> torch.Tensor:
        """The UNet's output, float32 [batch, 4, height, width].

        The time ids stay float32: in bf16, as Diffusers' script has them, 1023 and 1024 pixels would be the same
        number.
        """
        prediction: torch.Tensor = self.module(
            noisy_latents_BCHW.to(self.weight_dtype),
            timesteps_B,
            prompt_embeds_BSD.to(self.weight_dtype),
            added_cond_kwargs={"text_embeds": pooled_prompt_embeds_BP.to(self.weight_dtype), "time_ids": time_ids_B6},
            return_dict=False,
        )[0]
        return prediction.float()


def load_unet(
    source: ModelSource,
    *,
    device: torch.device,
    weight_dtype: torch.dtype,
    gradient_checkpointing: bool,
    base_precision: BasePrecision | None = None,
    offload: bool = False,
) -> torch.nn.Module:
    """Read the UNet from disk onto the device, without an adapter, ready to be trained around.

    With `offload` its weights are on the device only while they are used.
    """
    with quiet_loading():
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        if (path := source.single_file_of("unet")) is not None:
            unet = load_part(source, path, "unet", model_class=UNet2DConditionModel, dtype=weight_dtype)
        else:
            unet = UNet2DConditionModel.from_pretrained(
                source.folder / "unet",
                variant=source.variant,
                torch_dtype=weight_dtype,
                use_safetensors=True,
                local_files_only=True,
            )
    unet.requires_grad_(False)
    if base_precision is not None:
        for block in (unet.down_blocks, unet.mid_block, unet.up_blocks):
            quantise(block, base_precision, device=device, dtype=weight_dtype)
    if offload:
        hold_in_main_memory(unet, device=device)
    unet.to(device)
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()
    return cast(torch.nn.Module, unet)


def noise_schedule(facts: ModelFacts, config: dict[str, Any], *, device: torch.device) -> NoiseSchedule:
    """That of Diffusers' schedulers for the model's own scheduler configuration, float32.

    The levels of both formulations: which of them the model is trained in is the objective's choice.
    """
    with quiet_loading():
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
        from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
        from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

        levels = (EDMEulerScheduler if facts.is_edm else EulerDiscreteScheduler).from_config(config)
        alphas_cumprod = torch.empty(0) if facts.is_edm else DDPMScheduler.from_config(config).alphas_cumprod
    # Both schedulers have one sigma more than train timesteps, which ends a sampling and is never trained on.
    count = facts.num_train_timesteps
    return NoiseSchedule(
        prediction_type=facts.prediction_type,
        alphas_cumprod_T=alphas_cumprod.to(device, torch.float32),
        edm=EdmSchedule(
            sigmas_T=levels.sigmas[:count].to(device, torch.float32),
            conditions_T=levels.timesteps[:count].to(device, torch.float32),
            sigma_data=float(levels.config.sigma_data) if facts.is_edm else None,
        ),
    )
