"""A finished run on the Hub: uploaded once, tried again by the same command, and no token anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.hub_server import FakeHub, running_hub
from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, log_of, result_digests

TOKEN = "hf_let_me_in"
PUSH: dict[str, object] = {"push_to_hub": True, "hub_model_id": "owner/model", "hub_token": TOKEN, "max_train_steps": 2}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub({}) as hub:
        yield hub


def reaching(hub: FakeHub) -> dict[str, object]:
    """What a child has to know to reach the fake, which HF_ENDPOINT says where nothing was imported before."""
    constants = {"ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    return {f"huggingface_hub.constants:{name}": value for name, value in constants.items()}


def test_the_result_is_uploaded_once_and_a_hub_that_is_down_costs_nothing(
    bench: Bench, home: Path, hub: FakeHub
) -> None:
    limits = reaching(hub)
    hub.refuse_uploads = (400, "")
    process = bench.start(home, limits=limits, **PUSH)  # type: ignore[arg-type]
    assert process.wait() == 75, process.output()
    assert "its result is safe in" in process.output()
    assert log_of(home).finished is not None

    hub.refuse_uploads = None
    again = bench.run(home, limits=limits, **PUSH)
    assert "step 1/" not in again.output()
    weights = (home / "pytorch_lora_weights.safetensors").read_bytes()
    assert hub.files == {"README.md": (home / "README.md").read_bytes(), "pytorch_lora_weights.safetensors": weights}
    assert len(hub.commits) == 1
    third = bench.run(home, limits=limits, **PUSH)
    assert "The Hub has the result already" in third.output()
    assert len(hub.commits) == 1

    for path in home.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    for one in (process, again, third):
        assert TOKEN not in one.output()


def test_a_token_that_only_reads_is_refused_before_anything_is_written(bench: Bench, home: Path, hub: FakeHub) -> None:
    hub.role = "read"
    process = bench.start(home, limits=reaching(hub), **PUSH)  # type: ignore[arg-type]
    assert process.wait() == 77, process.output()
    assert "can only read" in process.output()
    assert TOKEN not in process.output()
    assert not (home / "run.json").exists()


def test_every_save_is_mirrored_and_a_hub_that_refuses_changes_no_byte_of_the_run(
    bench: Bench, home: Path, hub: FakeHub, undisturbed: Undisturbed
) -> None:
    each: dict[str, object] = {**PUSH, "max_train_steps": 6, "checkpointing_steps": 1, "hub_strategy": "every-save"}
    quick = {f"dreambooth_resume.workflows.hub_mirror:{name}": 0.01 for name in ("LOOK_SECONDS", "RETRY_SECONDS")}
    limits = {**reaching(hub), **quick}
    hub.refuse_uploads = (400, "")
    process = bench.start(home, limits=limits, **each)  # type: ignore[arg-type]
    assert process.wait() == 75, process.output()
    assert result_digests(home) == undisturbed(checkpointing_steps=1)
    assert hub.commits == []

    hub.refuse_uploads = None
    other = home.parent / "other"
    mirrored = bench.run(other, limits=limits, **each)
    assert result_digests(other) == undisturbed(checkpointing_steps=1)
    assert hub.commits[-1] == "End of training"
    assert set(hub.commits[:-1]) <= {f"Step {step}" for step in range(1, 7)}
    assert len(hub.commits) > 1, "at least one save was mirrored"
    assert hub.files["pytorch_lora_weights.safetensors"] == (other / "pytorch_lora_weights.safetensors").read_bytes()
    assert TOKEN not in mirrored.output()
