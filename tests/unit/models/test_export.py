"""The exported LoRA in plain Diffusers, from both formats: it loads, with its alpha, and changes the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dreambooth_resume.checkpoint.tensors import deserialise, metadata_of, serialise
from dreambooth_resume.models.export import diffusers_metadata, diffusers_tensors, parameter_values
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora, part_of
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.sdxl.text_encoders import SdxlTextEncoders
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.workflows.results import to_kohya

TARGETS = ("to_k", "to_out.0", "to_q", "to_v")
TEXT_TARGETS = ("k_proj", "out_proj", "q_proj", "v_proj")


def trained(source: ModelSource, spec: LoraSpec) -> tuple[SdxlDenoiser, dict[str, torch.nn.Parameter]]:
    """A denoiser whose adapter isn't at its start any more."""
    denoiser, _, parameters = all_trained(source, spec, with_text=False)
    return denoiser, parameters


def all_trained(
    source: ModelSource, spec: LoraSpec, *, with_text: bool = True
) -> tuple[SdxlDenoiser, SdxlTextEncoders, dict[str, torch.nn.Parameter]]:
    """A denoiser and text encoders whose adapters aren't at their start any more."""
    cpu = torch.device("cpu")
    family = family_named("sdxl")
    denoiser = family.load_denoiser(source, device=cpu, weight_dtype=torch.float32, gradient_checkpointing=False)
    encoders = family.load_text_encoders(source, device=cpu, weight_dtype=torch.float32, gradient_checkpointing=False)
    assert isinstance(denoiser, SdxlDenoiser)
    assert isinstance(encoders, SdxlTextEncoders)
    parameters = add_lora(
        denoiser,
        spec,
        normal_draw=lambda number, shape: np.random.default_rng(number).standard_normal(shape, dtype=np.float32),
        text_encoders=encoders if with_text else None,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return denoiser, encoders, parameters


def lora_file(parameters: dict[str, torch.nn.Parameter], spec: LoraSpec) -> bytes:
    """The file as a checkpoint has it."""
    parts = {part for name in parameters if (part := part_of(name))}
    targets = {"unet": TARGETS, **dict.fromkeys(sorted(parts), TEXT_TARGETS)}
    blob = serialise(diffusers_tensors(parameters, prefix="unet"), diffusers_metadata(spec, target_modules=targets))
    return b"".join(blob.parts)


def write_lora(folder: Path, parameters: dict[str, torch.nn.Parameter], spec: LoraSpec) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pytorch_lora_weights.safetensors").write_bytes(lora_file(parameters, spec))
    return folder


@pytest.fixture
def pipeline(tiny_folder: Path) -> Any:
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe: Any) -> np.ndarray:
    image = pipe(
        "a photo of sks robot",
        num_inference_steps=2,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    return np.asarray(image)


def text_output(pipe: Any) -> torch.Tensor:
    """Embeddings and pooled ones of a prompt, side by side."""
    with torch.no_grad():
        embeds, _, pooled, _ = pipe.encode_prompt("a photo of sks robot", do_classifier_free_guidance=False)
    return torch.cat([embeds.flatten(), pooled.flatten()])


def unet_output(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        output: torch.Tensor = unet(
            torch.randn(1, 4, 8, 8, generator=generator),
            torch.tensor([500]),
            torch.randn(1, 77, 64, generator=generator),
            added_cond_kwargs={
                "text_embeds": torch.randn(1, 32, generator=generator),
                "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
            },
            return_dict=False,
        )[0]
    return output


@pytest.mark.parametrize(
    "spec",
    [LoraSpec(rank=4, alpha=4), LoraSpec(rank=4, alpha=16), LoraSpec(rank=8, alpha=2.5, dropout=0.1)],
    ids=["alpha = rank", "alpha > rank", "fractional alpha and dropout"],
)
def test_loads_in_plain_diffusers_with_its_alpha_and_changes_the_picture(
    spec: LoraSpec, tiny_source: ModelSource, pipeline: Any, tmp_path: Path
) -> None:
    denoiser, parameters = trained(tiny_source, spec)
    denoiser.module.eval()
    before = picture(pipeline)
    without = unet_output(pipeline.unet)
    pipeline.load_lora_weights(write_lora(tmp_path / "lora", parameters, spec))
    adapter = next(iter(pipeline.unet.peft_config.values()))
    assert (adapter.r, adapter.lora_alpha) == (spec.rank, spec.alpha)
    torch.testing.assert_close(unet_output(pipeline.unet), unet_output(denoiser.module), rtol=1e-5, atol=1e-5)
    assert (unet_output(pipeline.unet) - without).abs().max() > 1e-2
    assert np.abs(picture(pipeline) - before).max() > 1e-3


@pytest.mark.parametrize(
    "spec",
    [LoraSpec(rank=4, alpha=16), LoraSpec(rank=4, alpha=2.5, dora=True)],
    ids=["lora", "dora"],
)
def test_every_part_loads_in_plain_diffusers_and_computes_what_was_trained(
    spec: LoraSpec, tiny_source: ModelSource, pipeline: Any, tmp_path: Path
) -> None:
    denoiser, encoders, parameters = all_trained(tiny_source, spec)
    for model in (denoiser.module, *encoders.models.values()):
        model.eval()
    without = text_output(pipeline)
    pipeline.load_lora_weights(write_lora(tmp_path / "lora", parameters, spec))
    for model in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
        adapter = next(iter(model.peft_config.values()))
        assert (adapter.r, adapter.lora_alpha, adapter.use_dora) == (spec.rank, spec.alpha, spec.dora)
    torch.testing.assert_close(unet_output(pipeline.unet), unet_output(denoiser.module), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        embeds, pooled = encoders.encode(encoders.tokenize(["a photo of sks robot"]))
    ours = torch.cat([embeds.flatten(), pooled.flatten()])
    torch.testing.assert_close(text_output(pipeline), ours, rtol=1e-4, atol=1e-4)
    assert (ours - without).abs().max() > 1e-2


@pytest.mark.parametrize("alpha", [4.0, 16.0, 2.5])
def test_kohyas_format_in_plain_diffusers_is_the_same_lora(
    alpha: float, tiny_source: ModelSource, pipeline: Any, tmp_path: Path
) -> None:
    spec = LoraSpec(rank=4, alpha=alpha)
    _, _, parameters = all_trained(tiny_source, spec)
    pipeline.load_lora_weights(write_lora(tmp_path / "lora", parameters, spec))
    expected = picture(pipeline), unet_output(pipeline.unet), text_output(pipeline)
    pipeline.unload_lora_weights()
    converted = to_kohya(lora_file(parameters, spec))
    (tmp_path / "kohya.safetensors").write_bytes(b"".join(converted.parts))
    pipeline.load_lora_weights(tmp_path / "kohya.safetensors")
    assert np.array_equal(picture(pipeline), expected[0])
    assert torch.equal(unet_output(pipeline.unet), expected[1])
    assert torch.equal(text_output(pipeline), expected[2])


def test_kohyas_names_are_those_of_diffusers_converter_with_the_true_alpha(tiny_source: ModelSource) -> None:
    with quiet_loading():
        from diffusers.utils import convert_all_state_dict_to_peft, convert_state_dict_to_kohya

    _, _, parameters = all_trained(tiny_source, LoraSpec(rank=4, alpha=16))
    weights = lora_file(parameters, LoraSpec(rank=4, alpha=16))
    converted = b"".join(to_kohya(weights).parts)
    ours, header = deserialise(converted), metadata_of(converted)
    # Given all at once it takes the denoiser's names for the text encoders', and makes keys that nobody reads.
    tensors = deserialise(weights)
    theirs = {}
    for part in ("unet.", "text_encoder.", "text_encoder_2."):
        of_part = {name: tensor for name, tensor in tensors.items() if name.startswith(part)}
        theirs |= convert_state_dict_to_kohya(convert_all_state_dict_to_peft(of_part))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if name.endswith(".alpha"):
            assert (tensor.item(), theirs[name].item()) == (16, 4)
        else:
            assert torch.equal(tensor, theirs[name])
    assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in ours
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "16.0")
    assert list(header) == sorted(header)


def test_kohyas_dora_gives_comfyui_what_was_trained(tiny_source: ModelSource) -> None:
    """By ComfyUI's arithmetic (comfy/weight_adapter): dora_scale / |W + s BA| is a column, or rows get mixed."""
    spec = LoraSpec(rank=4, alpha=8, dora=True)
    denoiser, _, parameters = all_trained(tiny_source, spec)
    kohya = deserialise(b"".join(to_kohya(lora_file(parameters, spec)).parts))
    assert not [name for name in kohya if "magnitude" in name]
    name = next(name.removesuffix(".lora_A.weight") for name in parameters if part_of(name) is None)
    key = f"lora_unet_{name.replace('.', '_')}"
    layer: Any = denoiser.module.get_submodule(name)
    with torch.no_grad():
        up, down = kohya[f"{key}.lora_up.weight"], kohya[f"{key}.lora_down.weight"]
        weight = layer.base_layer.weight + kohya[f"{key}.alpha"] / len(down) * (up @ down)
        weight *= kohya[f"{key}.dora_scale"] / weight.norm(dim=1, keepdim=True)
        inputs = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(inputs @ weight.T, layer.eval()(inputs), rtol=1e-4, atol=1e-4)


def test_a_file_of_another_program_is_not_converted() -> None:
    with pytest.raises(ValueError, match="header"):
        to_kohya(b"".join(serialise({"unet.a.to_q.lora.down.weight": torch.zeros(4, 8)}, {}).parts))
    with pytest.raises(ValueError, match="not an adapter"):
        to_kohya(b"".join(serialise({"lora_unet_a.lora_down.weight": torch.zeros(4, 8)}, {}).parts))


def test_without_the_header_diffusers_takes_alpha_for_the_rank(
    tiny_source: ModelSource, pipeline: Any, tmp_path: Path
) -> None:
    """Why the header is there: what Diffusers' script writes would be a LoRA of another strength."""
    spec = LoraSpec(rank=4, alpha=16)
    denoiser, parameters = trained(tiny_source, spec)
    denoiser.module.eval()
    save_file(diffusers_tensors(parameters, prefix="unet"), tmp_path / "pytorch_lora_weights.safetensors")
    pipeline.load_lora_weights(tmp_path)
    assert not torch.allclose(unet_output(pipeline.unet), unet_output(denoiser.module), atol=1e-3)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_names_are_those_of_save_lora_weights(tiny_source: ModelSource, tmp_path: Path, dora: bool) -> None:
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict
        from safetensors.torch import load_file

    denoiser, encoders, parameters = all_trained(tiny_source, LoraSpec(rank=4, alpha=4, dora=dora))
    layers = {
        part: convert_state_dict_to_diffusers(get_peft_model_state_dict(module, adapter_name="default"))
        for part, module in {"unet": denoiser.module, **encoders.lora_parts}.items()
    }
    StableDiffusionXLPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=layers["unet"],
        # peft knows these by the module that they were put into, which is one further in.
        text_encoder_lora_layers={f"text_model.{k}": v for k, v in layers["text_encoder.text_model"].items()},
        text_encoder_2_lora_layers={f"text_model.{k}": v for k, v in layers["text_encoder_2.text_model"].items()},
    )
    theirs = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    # The one difference, without which transformers 5 does not load a text encoder's magnitudes.
    theirs = {
        f"{name}.weight" if part_of(name) and name.endswith("magnitude_vector") else name: tensor
        for name, tensor in theirs.items()
    }
    ours = diffusers_tensors(parameters, prefix="unet")
    assert list(ours) == sorted(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_names_go_there_and_back(tiny_source: ModelSource, dora: bool) -> None:
    _, _, parameters = all_trained(tiny_source, LoraSpec(rank=4, alpha=4, dora=dora))
    back = parameter_values(diffusers_tensors(parameters, prefix="unet"), prefix="unet")
    assert list(back) == list(parameters)
    assert all(torch.equal(back[name], parameters[name]) for name in back)


@pytest.mark.parametrize("name", ["unet.a.to_q.weight", "text_encoder.a.lora.down.weight", "a.lora.down.weight"])
def test_foreign_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name.split(".")[0]):
        parameter_values({name: torch.zeros(1)}, prefix="unet")


def test_header_is_text_sorted_and_has_only_what_a_reader_needs() -> None:
    metadata = diffusers_metadata(LoraSpec(rank=4, alpha=8.0, dropout=0.5), target_modules={"unet": ("to_v", "to_k")})
    assert metadata["format"] == "pt"
    assert metadata == {key: metadata[key] for key in sorted(metadata)}
    assert json.loads(metadata["lora_adapter_metadata"]) == {
        "unet.lora_alpha": 8,
        "unet.r": 4,
        "unet.target_modules": ["to_k", "to_v"],
    }
