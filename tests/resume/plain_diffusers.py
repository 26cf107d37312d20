"""What a user does with a result who has Diffusers alone, as a program of a forked process."""

from __future__ import annotations

from collections.abc import Sequence


def make_picture(words: Sequence[str]) -> int:
    """`words`: the folder of the base model, that of the LoRA, and the number of inference steps."""
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    model, lora, steps = words
    pipe = StableDiffusionXLPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(lora)
    pipe("a prompt", num_inference_steps=int(steps), height=32, width=32)
    return 0
