"""torch.compile in place: every shape has its graph, names stay, and pictures are made without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.compiled import (
    compile_in_place,
    is_compiled,
    refuse_without_a_compiler,
    without_compiling,
)
from dreambooth_resume.training.numerics import numerics_fingerprint
from dreambooth_resume.training.preview import undisturbed

CPU = torch.device("cpu")


class Toy(torch.nn.Module):
    """A frozen layer with something trained beside it, and a checkpointed block."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = torch.nn.Linear(4, 4).requires_grad_(False)
        self.trained = torch.nn.Linear(4, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = checkpoint(self._block, inputs, use_reentrant=False)
        return output

    def _block(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.frozen(inputs)) + self.trained(inputs)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    settings = torch._dynamo.config
    before = {name: getattr(settings, name) for name in ("recompile_limit", "accumulated_recompile_limit")}
    yield
    torch._dynamo.reset()
    settings.fail_on_recompile_limit_hit = False
    for name, value in before.items():
        setattr(settings, name, value)


def test_more_shapes_than_torchs_limit_are_each_compiled_and_compute_the_same() -> None:
    torch.manual_seed(0)
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Any]) -> Any:
        graphs.append(str(graph.graph))
        return graph.forward

    toy = Toy()
    names = [name for name, _ in toy.named_parameters()]
    shapes = range(1, torch._dynamo.config.recompile_limit + 3)
    expected = {}
    for rows in shapes:
        toy.zero_grad()
        toy(torch.ones(rows, 4)).sum().backward()
        assert toy.trained.weight.grad is not None
        expected[rows] = toy.trained.weight.grad.clone()
    compile_in_place(toy, backend)
    assert is_compiled(toy)
    for _ in range(2):
        for rows in shapes:
            toy.zero_grad()
            toy(torch.ones(rows, 4)).sum().backward()
            assert torch.equal(toy.trained.weight.grad, expected[rows])
    assert len(graphs) == len(shapes), "each once, none left uncompiled"
    assert [name for name, _ in toy.named_parameters()] == names

    with undisturbed(toy):
        assert not toy(torch.ones(40, 4)).requires_grad
    assert len(graphs) == len(shapes), "pictures have passes of their own, which are not worth a compilation"
    toy(torch.ones(40, 4))
    assert len(graphs) == len(shapes) + 1


def test_a_module_that_is_not_compiled_is_left_alone() -> None:
    toy = Toy()
    with without_compiling(toy):
        assert not is_compiled(toy)


def test_what_inductor_needs_is_asked_for_before_the_first_step() -> None:
    def refuse(backend: str, device: str, there: bool) -> None:
        refuse_without_a_compiler(
            backend, torch.device(device), is_installed=lambda _: there, finds_program=lambda _: there
        )

    for device, missing in (("cuda", "Triton"), ("cpu", r"a C\+\+ compiler")):
        with pytest.raises(BadInput, match=missing):
            refuse("inductor", device, there=False)
        refuse("inductor", device, there=True)
        refuse("aot_eager", device, there=False)


def test_the_backend_is_part_of_what_an_exact_resume_needs() -> None:
    plain = {"device": CPU, "micro_batch_size": 1, "mixed_precision": "no", "allow_tf32": False}
    compiled = numerics_fingerprint(**plain, compiled_by="inductor")  # type: ignore[arg-type]
    without = numerics_fingerprint(**plain)  # type: ignore[arg-type]
    assert compiled == {**without, "torch_compile": "inductor"}
