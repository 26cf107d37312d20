"""A random SDXL of 1.7 million parameters: a real StableDiffusionXLPipeline folder for demonstrations and tests.

Seven megabytes, built in half a second, the same bytes every time. Its pictures are noise, but everything that SDXL has
is there: both text encoders and tokenizers, a VAE with eight pixels to a latent, a UNet with SDXL's extra inputs.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from dreambooth_resume.models.base import PredictionType
from dreambooth_resume.models.quiet import quiet_loading

_SEED = 20230726
_WORDS = (
    "a",
    "photo",
    "of",
    "sks",
    "robot",
    "the",
    "in",
    "on",
    "with",
    "dog",
    "picture",
    "red",
    "blue",
    "small",
    "toy",
)
_TEXT_WIDTH = 32
_TIME_WIDTH = 8
_TOKENS = 77


def build_tiny_sdxl(folder: Path, *, prediction_type: PredictionType = "epsilon") -> None:
    """Write the model to `folder`, which must not exist or be empty. Killed half-way, it leaves no such folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with quiet_loading(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            _save_pipeline(work / "model", prediction_type=prediction_type)
        # rename goes through only if the target is empty or absent, so a second builder can't mix its files in.
        os.rename(work / "model", folder)
    finally:
        shutil.rmtree(work)


def _save_pipeline(folder: Path, *, prediction_type: PredictionType) -> None:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    vocab, merges = _vocabulary()
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        steps_offset=1,
        timestep_spacing="leading",
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(vocab)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(vocab)),
        tokenizer=_tokenizer(vocab, merges, pad_token="<|endoftext|>"),
        tokenizer_2=_tokenizer(vocab, merges, pad_token="!"),
        unet=_unet(),
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name in ("tokenizer", "tokenizer_2"):
        # Readers older than transformers 5 look for these two instead of tokenizer.json.
        (folder / name / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / name / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _unet() -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=2 * _TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=6 * _TIME_WIDTH + _TEXT_WIDTH,
        norm_num_groups=8,
    )


def _vae() -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=0.13025,
    )
    with torch.no_grad():
        # As in a trained VAE, latents come out near unit variance once scaled, and are nearly certain. Fresh weights
        # would give almost the same latents for every picture, drowned in noise of the size of one.
        vae.quant_conv.weight[:4] *= 32.0
        vae.quant_conv.weight[4:] = 0.0
        vae.quant_conv.bias[4:] = -4.0
    return vae


def _text_config(vocab: dict[str, int]) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        projection_dim=_TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_TOKENS,
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"],
        pad_token_id=vocab["<|endoftext|>"],
    )


def _tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]], *, pad_token: str) -> Any:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad_token, model_max_length=_TOKENS)
    # Given the wrong arguments it silently knows three tokens, and every prompt becomes the same.
    assert len(tokenizer) == len(vocab), f"the tokenizer has {len(tokenizer)} of {len(vocab)} tokens"
    return tokenizer


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's kind of vocabulary, for a few words: bytes, bytes that end a word, merges, and the two specials.

    The specials come last: where the end token isn't the greatest id, CLIP takes its pooled output from a wrong token.
    """
    letters = _byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
            parts[:2] = ["".join(pair)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _byte_letters() -> list[str]:
    """A printable letter for each byte, as GPT-2 and CLIP have it: its own if that is visible, else one from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(256 + number) for number in range(len(hidden))]
