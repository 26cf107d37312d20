"""Frozen layers in main memory: the same gradients, and no copy of a layer outlives the block that it computes in."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.models import main_memory
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.main_memory import HeldConv2d, HeldLinear, hold_in_main_memory
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.training.model import _init_draw

CPU = torch.device("cpu")
SPECS = [
    LoraSpec(rank=2, alpha=2.0, dropout=0.0),
    LoraSpec(rank=2, alpha=2.0, dropout=0.0, dora=True),
    LoraSpec(rank=2, alpha=2.0, dropout=0.0, kind="lokr"),
]


def load(source: ModelSource, **changed: Any) -> SdxlDenoiser:
    denoiser = family_named("sdxl").load_denoiser(
        source, device=CPU, weight_dtype=torch.float32, gradient_checkpointing=True, **changed
    )
    assert isinstance(denoiser, SdxlDenoiser)
    return denoiser


def predict(denoiser: SdxlDenoiser) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return denoiser.predict(
        torch.randn(1, 4, 8, 8, generator=generator),
        torch.tensor([500]),
        prompt_embeds_BSD=torch.randn(1, 77, 64, generator=generator),
        pooled_prompt_embeds_BP=torch.randn(1, 32, generator=generator),
        time_ids_B6=torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
    )


def adapted(denoiser: SdxlDenoiser, spec: LoraSpec) -> dict[str, torch.nn.Parameter]:
    parameters = add_lora(denoiser, spec, normal_draw=lambda number, shape: _init_draw(3, number, shape))
    with torch.no_grad():  # at the start B is zero, and A gets no gradient
        for number, parameter in enumerate(parameters.values()):
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return parameters


@pytest.mark.parametrize("spec", SPECS, ids=["lora", "dora", "lokr"])
def test_prediction_and_gradients_are_the_same_bits(spec: LoraSpec, tiny_source: ModelSource) -> None:
    plain, held = load(tiny_source), load(tiny_source, offload=True)
    of_plain, of_held = adapted(plain, spec), adapted(held, spec)
    assert of_plain.keys() == of_held.keys()
    for denoiser in (plain, held):
        predict(denoiser).square().mean().backward()
    assert torch.equal(predict(plain), predict(held))
    for name, parameter in of_plain.items():
        assert torch.equal(parameter, of_held[name])
        assert parameter.grad is not None
        assert of_held[name].grad is not None
        assert torch.equal(parameter.grad, of_held[name].grad), name


def test_linear_layers_and_convolutions_are_held_and_the_rest_stays(tiny_source: ModelSource) -> None:
    plain, held = load(tiny_source).module, load(tiny_source, offload=True).module
    layers = [one for one in held.modules() if isinstance(one, HeldLinear | HeldConv2d)]
    assert len(layers) == len([one for one in plain.modules() if isinstance(one, torch.nn.Linear | torch.nn.Conv2d)])
    left = sum(parameter.numel() for parameter in held.parameters())
    whole = sum(parameter.numel() for parameter in plain.parameters())
    assert left + sum(one.in_main_memory.numel() for one in layers) == whole
    assert left < whole / 20


def test_quantised_layers_stay_on_the_device(tiny_source: ModelSource) -> None:
    module = load(tiny_source, offload=True, base_precision="fp8").module
    assert not any(isinstance(one, HeldLinear) for name, one in module.down_blocks.named_modules())  # type: ignore[union-attr]
    assert any(isinstance(one, HeldConv2d) for one in module.modules())


def test_no_copy_outlives_its_block_and_at_most_a_blocks_worth_is_there_at_once(
    tiny_source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: dict[int, int] = {}
    most = made = 0
    copied = main_memory._copied

    def counted(layer: HeldLinear | HeldConv2d) -> torch.Tensor:
        nonlocal most, made
        weight = copied(layer)
        made += 1
        alive[made] = weight.untyped_storage().nbytes()
        weakref.finalize(weight.untyped_storage(), alive.pop, made)
        most = max(most, sum(alive.values()))
        return weight

    denoiser = load(tiny_source, offload=True)
    adapted(denoiser, SPECS[0])
    held = sum(
        one.in_main_memory.nbytes for one in denoiser.module.modules() if isinstance(one, HeldLinear | HeldConv2d)
    )
    monkeypatch.setattr(main_memory, "_copied", counted)
    predict(denoiser).square().mean().backward()
    gc.collect()
    assert not alive
    assert made > 50
    assert most < held / 2


def test_activations_are_computed_again_with_it_always() -> None:
    words = "--pretrained_model_name_or_path model --instance_data_dir pictures --instance_prompt dog".split()
    for more, expected in (([], False), (["--offload"], True), (["--gradient_checkpointing"], True)):
        training = resolve(parse_train([*words, *more]), recorded=None).training
        assert training.recomputes_activations is expected


def test_a_class_of_its_own_is_left_alone() -> None:
    class Other(torch.nn.Linear):
        pass

    module = torch.nn.Sequential(Other(2, 2), torch.nn.Linear(2, 3))
    assert hold_in_main_memory(module, device=CPU) == 2 * 3 * 4
    assert type(module[0]) is Other
