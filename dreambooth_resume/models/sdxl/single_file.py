"""SDXL from one file in the original names: each part read by itself, and turned by Diffusers' own converters.

The configurations and tokenizers, which the file lacks, come from `ModelSource.folder`. A part is read when it is
loaded, from the mapped file, as from a folder: no second copy of the weights is on disk or in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.source import BASE_CONFIG_FLAG, MODEL_FLAG, ModelSource, read_json
from dreambooth_resume.models.weights_header import tensor_shapes

if TYPE_CHECKING:
    import torch

_UNET, _SECOND_ENCODER = "model.diffusion_model.", "conditioner.embedders.1.model."
_STARTS = {
    "text_encoder": ("conditioner.embedders.0.transformer.",),
    "text_encoder_2": (_SECOND_ENCODER,),
    "unet": (_UNET,),
    "vae": ("first_stage_model.", "vae."),
}
# How the trainers and ComfyUI mark what a file of weights can't say otherwise.
_V_PREDICTION = "v_pred"
_EDM = ("edm_mean", "edm_vpred.sigma_max")
_SHOWN = 3


def check_single_file(
    source: ModelSource, path: Path, *, unet: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> None:
    """Raises BadInput where the file's UNet isn't the configuration's, or was made to predict something else."""
    shapes = tensor_shapes(path)
    where, fix = f"{MODEL_FLAG} {source.name}", f"name the folder or Hub id of a model like it: {BASE_CONFIG_FLAG}"
    widths = {
        "size and crop numbers with the pooled prompt": (
            shapes.get(f"{_UNET}label_emb.0.0.weight", (0, 0))[1],
            unet.get("projection_class_embeddings_input_dim"),
        ),
        "latent channels": (shapes.get(f"{_UNET}input_blocks.0.0.weight", (0, 0))[1], unet.get("in_channels", 4)),
        "numbers of a prompt's token": (
            next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), 0),
            unet.get("cross_attention_dim"),
        ),
    }
    for what, (found, wanted) in widths.items():
        if found != wanted:
            raise BadInput(
                f"the file's UNet takes {found} {what}, where {BASE_CONFIG_FLAG} has {wanted}", where=where, fix=fix
            )
    is_edm = "EDM" in str(scheduler.get("_class_name"))
    if any(name in shapes for name in _EDM) and not is_edm:
        raise BadInput("the file is marked as a model of the EDM formulation", where=where, fix=fix)
    if _V_PREDICTION in shapes and not is_edm and scheduler.get("prediction_type", "epsilon") != "v_prediction":
        raise BadInput(
            f"the file is marked as one that predicts v, and the scheduler of {BASE_CONFIG_FLAG} has epsilon",
            where=where,
            fix=fix,
        )


def part_shapes(source: ModelSource, path: Path, component: str) -> dict[str, tuple[int, ...]]:
    """Names, as Diffusers has them, and shapes of the weights of one part; from the header alone."""
    import torch

    starts = _STARTS[component]
    header = {
        name: torch.empty(shape, device="meta")
        for name, shape in tensor_shapes(path).items()
        if name.startswith(starts)
    }
    converted = _convert(component, header, read_json(source.folder / component / "config.json"))
    return {name: tuple(tensor.shape) for name, tensor in converted.items()}


def load_part(source: ModelSource, path: Path, component: str, *, model_class: Any, dtype: torch.dtype) -> Any:
    """One part on the CPU, in evaluation mode. Raises BadInput if the file's tensors aren't the configuration's."""
    folder = source.folder / component
    with quiet_loading():
        from accelerate import init_empty_weights

        with init_empty_weights():
            if component in ("unet", "vae"):
                model = model_class.from_config(model_class.load_config(folder))
            else:
                model = model_class(model_class.config_class.from_pretrained(folder, local_files_only=True))
        tensors = _convert(component, _read(path, component), read_json(folder / "config.json"))
    if component.startswith("text_encoder") and not hasattr(model, "text_model"):
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    _refuse_other_shapes(source, component, model.state_dict(), tensors)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    return model.eval()


def _read(path: Path, component: str) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(_STARTS[component])]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}


def _convert(component: str, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    with quiet_loading():
        from diffusers.loaders import single_file_utils as converters

    converted: dict[str, torch.Tensor]
    if component == "unet":
        converted = converters.convert_ldm_unet_checkpoint(tensors, config)
    elif component == "vae":
        converted = converters.convert_ldm_vae_checkpoint(tensors, config)
    elif component == "text_encoder":
        converted = converters.convert_ldm_clip_checkpoint(tensors)
    else:
        # It is asked for its width where the file has no projection.
        sizes = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
        converted = converters.convert_open_clip_checkpoint(sizes, tensors, prefix=_SECOND_ENCODER)
    # A buffer of numbers 0..76 that older versions of transformers saved.
    return {name: tensor for name, tensor in converted.items() if not name.endswith("position_ids")}


def _refuse_other_shapes(
    source: ModelSource, component: str, wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
    differing = sorted(
        name
        for name in wanted.keys() | found.keys()
        if name not in wanted or name not in found or wanted[name].shape != found[name].shape
    )
    if differing:
        raise BadInput(
            f"{len(differing)} tensors of the file's {component} are not those of {BASE_CONFIG_FLAG} "
            f"({', '.join(differing[:_SHOWN])})",
            where=f"{MODEL_FLAG} {source.name}",
            fix=f"name the folder or Hub id of a model like it: {BASE_CONFIG_FLAG}",
        )
