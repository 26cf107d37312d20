"""The small model of the benchmarks, and the command line that trains it.

The tiny SDXL with a UNet of 12 million parameters, and with a VAE whose part of the work is SDXL's own: encoding a
picture costs 0.72 of the UNet's forward pass at 1024 pixels there (4.9 of 6.8 TFLOP), and 0.73 here at 128.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from dreambooth_resume.models.tiny import build_tiny_sdxl
from dreambooth_resume.models.tiny_pictures import draw_pictures

PROMPT = "a photo of sks robot"
SEED = 0
RESOLUTION = 128
BATCH_SIZE = 2
RANK = 16
LEARNING_RATE = 1e-4
_UNET_CHANNELS = (96, 192)
_VAE_CHANNELS = (26, 52, 104, 104)
_VAE_GROUPS = 2


def build(folder: Path) -> None:
    """Write the model to `folder`/model and eight pictures to `folder`/pictures."""
    model = folder / "model"
    build_tiny_sdxl(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        unet_config = UNet2DConditionModel.load_config(model / "unet")
        unet = UNet2DConditionModel.from_config(unet_config, block_out_channels=_UNET_CHANNELS)
        vae_config = AutoencoderKL.load_config(model / "vae")
        vae = AutoencoderKL.from_config(vae_config, block_out_channels=_VAE_CHANNELS, norm_num_groups=_VAE_GROUPS)
    unet.save_pretrained(model / "unet")
    vae.save_pretrained(model / "vae")
    draw_pictures(folder / "pictures")


def unet_parameters(folder: Path) -> int:
    """Parameters of the UNet that lies in `folder`/model."""
    config = UNet2DConditionModel.load_config(folder / "model" / "unet")
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet2DConditionModel.from_config(config).parameters())


def train_words(folder: Path, home: Path | str, *, steps: int, checkpointing_steps: int) -> list[str]:
    """The words of `dbr train` for this model."""
    options = {
        "pretrained_model_name_or_path": folder / "model",
        "instance_data_dir": folder / "pictures",
        "instance_prompt": PROMPT,
        "resolution": RESOLUTION,
        # The pictures have several shapes, which the script crops to squares.
        "use_aspect_ratio_buckets": False,
        "train_batch_size": BATCH_SIZE,
        "rank": RANK,
        "learning_rate": LEARNING_RATE,
        "max_train_steps": steps,
        "checkpointing_steps": checkpointing_steps,
        "checkpoints_total_limit": 2,
        "seed": SEED,
        "output_dir": home,
        "resume_from_checkpoint": "latest",
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
