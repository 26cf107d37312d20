"""What a model card says of the adapter's kind, and how Diffusers' users load it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from dreambooth_resume.runs.home import WEIGHTS_NAME

_NAMES = {"loha": "LoHa", "lokr": "LoKr"}


def kind_of(options: Mapping[str, JsonValue]) -> str:
    """LoRA, LoHa or LoKr; a DoRA is a LoRA."""
    return _NAMES.get(str(options.get("lora_type")), "LoRA")


def full_kind_of(options: Mapping[str, JsonValue]) -> str:
    """LoRA, DoRA, LoHa or LoKr."""
    return "DoRA" if options.get("use_dora") else kind_of(options)


def hub_tag(options: Mapping[str, JsonValue]) -> str:
    """The kind as the Hub's pages write it."""
    return full_kind_of(options).lower()


def loading_of_adapter(options: Mapping[str, JsonValue], name: str) -> str:
    """Lines of Python that put the adapter of the folder or repository `name` on `pipeline`.

    `load_lora_weights` knows no LoHa and no LoKr; peft makes their layers of the header of the file.
    """
    if str(options.get("lora_type")) not in _NAMES:
        return f'pipeline.load_lora_weights("{name}", weight_name="{WEIGHTS_NAME}")\n'
    return f"""\
# Diffusers' load_lora_weights reads no {kind_of(options)}; peft does.
import json
from peft import get_peft_config, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open

with safe_open("{name}/{WEIGHTS_NAME}", "pt") as file:
    header = json.loads(file.metadata()["lora_adapter_metadata"])
    weights = {{key.removeprefix("unet."): file.get_tensor(key) for key in file.keys()}}
config = get_peft_config({{key.removeprefix("unet."): value for key, value in header.items()}})
inject_adapter_in_model(config, pipeline.unet)
set_peft_model_state_dict(pipeline.unet, weights)
"""
