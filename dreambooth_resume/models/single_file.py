"""A whole model in one file, as the sites for fine-tunes have them: what it is, told by the names of its tensors.

The names are those of the original SDXL code, which kohya's trainer, ComfyUI and AUTOMATIC1111 write, too. Only the
header is read here; nothing in such a file can run code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.weights_header import tensor_shapes

ENDING = ".safetensors"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_SDXL = "give a checkpoint of SDXL (6.5 GB in half precision), a Diffusers folder or a Hub id"
_VAES = ("first_stage_model.", "vae.")


def is_file_name(name: str) -> bool:
    """Does this name a file, be it there or not, and no folder or Hub id?"""
    path = Path(name).expanduser()
    return path.is_file() or (name.endswith((ENDING, *_PICKLES)) and not path.is_dir())


def single_file(name: str, *, flag: str, with_vae: bool, fetch: Callable[[], Path] | None = None) -> Path:
    """The file of that name, if it holds all of SDXL; its VAE only if `with_vae`.

    `fetch` brings one that isn't on this machine. Raises BadInput for one that isn't there, can run code, or holds
    something else, with what that is.
    """
    path, where = Path(name).expanduser(), f"{flag} {name}"
    if fetch is None and not path.is_file():
        raise BadInput(
            f"there is no file {name}", where=flag, fix="correct the path, or give a Diffusers folder or a Hub id"
        )
    if path.suffix != ENDING:
        raise BadInput(
            f"{path.name} is not a {ENDING} file; those of other kinds can run code when they are read",
            where=where,
            fix="take the .safetensors file that most such models are published as, too; a .ckpt that you trust is "
            "converted by ComfyUI (load it, Save Checkpoint) or by Diffusers, into a folder: "
            f'StableDiffusionXLPipeline.from_single_file("{path.name}").save_pretrained("FOLDER")',
        )
    if fetch is not None:
        path = fetch()
    _refuse_other_models(set(tensor_shapes(path)), where=where, with_vae=with_vae)
    return path


def _refuse_other_models(names: set[str], *, where: str, with_vae: bool) -> None:
    def has(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    is_sdxl = has("conditioner.embedders.0.transformer.") and has("conditioner.embedders.1.model.")
    if not is_sdxl or not has("model.diffusion_model."):
        what, fix = _what_it_is(names, has)
        raise BadInput(f"the file is {what}, and not a whole SDXL model", where=where, fix=fix)
    if any(name.endswith(("scale_weight", "weight_scale", "scaled_fp8")) for name in names):
        raise BadInput(
            "the file's weights are 8-bit numbers with scales beside them, which are for making pictures",
            where=where,
            fix="take the one in half precision; --base_precision fp8 keeps it small in memory",
        )
    if with_vae and not has(*_VAES):
        raise BadInput(
            "the file has no VAE",
            where=where,
            fix="add one: --pretrained_vae_model_name_or_path madebyollin/sdxl-vae-fp16-fix",
        )


def _what_it_is(names: Iterable[str], has: Callable[..., bool]) -> tuple[str, str]:
    """What such a file holds, and what to do."""
    if has("lora_") or any(mark in name for name in names for mark in (".lora", ".hada_", ".lokr_")):
        return "a LoRA", "to go on from it, name it as --network_weights, beside its base model"
    if has("cond_stage_model."):
        return "Stable Diffusion 1 or 2", _SDXL
    if has("conditioner.embedders.0.model."):
        return "SDXL's refiner", _SDXL
    if any("double_blocks." in name or "joint_blocks." in name for name in names):
        return "a model of another kind (such as Flux or SD3)", _SDXL
    if has("model.diffusion_model.", "input_blocks."):
        return "a UNet without its text encoders", _SDXL
    if has("down_blocks.", "text_model.", "encoder.", "decoder."):
        return (
            "one part of a Diffusers model",
            "give the folder that has model_index.json, a level above the folder of this file",
        )
    return "something else", _SDXL
