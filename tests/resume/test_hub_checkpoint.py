"""A checkpoint on the Hub begins a run in an empty home, which ends in the bytes of the one that never moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreambooth_resume.runs.home import CHECKPOINT_FILES
from tests.fakes.hub_server import FakeHub, running_hub
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests

ADDRESS = "owner/model/checkpoint-4"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub({}) as hub:
        yield hub


def reaching(hub: FakeHub, folder: Path, cache: str = "cache") -> dict[str, object]:
    """What a child has to know to reach the fake, with a token in a file and a cache of its own."""
    (folder / "token").write_text(hub.token)
    constants = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_CACHE": str(folder / cache),
    }
    return {f"huggingface_hub.constants:{name}": value for name, value in constants.items()}


def push(bench: Bench, home: Path, hub: FakeHub, *words: str) -> None:
    limits = reaching(hub, home.parent)
    words_of_push = ["push", str(home), "--hub_model_id", "owner/model", "--resumable", *words]
    process = bench.command(home, words_of_push, limits=limits)  # type: ignore[arg-type]
    assert process.wait() == 0, process.output()


def test_killed_while_it_is_fetched_it_ends_in_the_bytes_of_the_run_that_it_began_from(
    bench: Bench, home: Path, hub: FakeHub, undisturbed: Undisturbed
) -> None:
    first = home.parent / "first"
    bench.run(first)
    push(bench, first, hub, "--step", "2")
    push(bench, first, hub, "--step", "4")
    there = sorted(name for name in hub.files if "/" in name)
    assert there == [f"checkpoint-4/{name}" for name in sorted([*CHECKPOINT_FILES, "mirror.json"])], (
        "the newest takes the place of the one before"
    )
    pictures = [path.read_bytes() for path in bench.pictures.iterdir()]
    assert not any(picture in hub.files.values() for picture in pictures)
    assert str(bench.folder).encode() not in b"".join(hub.files.values()), "no folder of the machine that trained"

    shutil.rmtree(first)
    shutil.copytree(bench.pictures, home.parent / "moved")
    elsewhere: dict[str, object] = {
        "instance_data_dir": home.parent / "moved",
        "resume": None,
        "resume_from_checkpoint": ADDRESS,
    }
    limits = reaching(hub, home.parent)
    for crash in (
        CrashPoint(call="link", path="log/00000001.json"),
        CrashPoint(call="replace", path="checkpoint-4/trainer_state.safetensors"),
        CrashPoint(call="link", path="log/00000003.json"),
    ):
        process = bench.start(home, crash=crash, limits=limits, **elsewhere)  # type: ignore[arg-type]
        assert process.wait() == KILLED, f"{crash}: {process.output()}"
        assert not log_of(home).line
    latest = bench.start(home, instance_data_dir=home.parent / "moved")
    assert latest.wait() == 78
    assert f"--resume_from_checkpoint {ADDRESS}" in latest.output()
    bench.run(home, limits=limits, **elsewhere)
    assert committed_steps(home) == [4, 6]
    assert result_digests(home) == undisturbed()
    again = bench.run(home, limits=limits, **elsewhere)
    assert "step 5/" not in again.output(), "given again it means latest"


def test_what_does_not_fit_or_is_damaged_begins_nothing(bench: Bench, home: Path, hub: FakeHub) -> None:
    first = home.parent / "first"
    bench.run(first, max_train_steps=4)
    push(bench, first, hub)

    def refused(code: int, message: str, cache: str = "cache", **changed: object) -> None:
        limits = reaching(hub, home.parent, cache)
        asked = {"resume": None, "resume_from_checkpoint": ADDRESS, "max_train_steps": 6, **changed}
        process = bench.start(home, limits=limits, **asked)  # type: ignore[arg-type]
        assert process.wait() == code, process.output()
        assert message in process.output()
        assert not (home / "run.json").exists() or not log_of(home).line

    refused(2, "has no checkpoint-2 that a run can go on from", resume_from_checkpoint="owner/model/checkpoint-2")
    refused(2, "rank", rank=8)
    refused(2, "has made 4 steps already", max_train_steps=3)
    mirror = hub.files["checkpoint-4/mirror.json"]
    facts = json.loads(mirror)
    facts["entry"]["body"]["step"] = 5
    hub.files["checkpoint-4/mirror.json"] = json.dumps(facts).encode()
    refused(78, "mirror.json is damaged: changed after it was written", "second")
    hub.files["checkpoint-4/mirror.json"] = mirror
    state = hub.files["checkpoint-4/trainer_state.safetensors"]
    hub.files["checkpoint-4/trainer_state.safetensors"] = state[:-1] + bytes([state[-1] ^ 1])
    refused(78, "is not what was written", "third")


def test_the_lora_that_the_run_began_from_is_wanted_again_since_it_is_not_on_the_hub(
    bench: Bench, home: Path, hub: FakeHub, undisturbed: Undisturbed
) -> None:
    bench.run(home.parent / "other", max_train_steps=1)
    weights = home.parent / "lora.safetensors"
    shutil.copy(home.parent / "other" / "pytorch_lora_weights.safetensors", weights)
    first = home.parent / "first"
    bench.run(first, network_weights=weights)
    push(bench, first, hub, "--step", "4")
    elsewhere: dict[str, object] = {
        "resume": None,
        "resume_from_checkpoint": ADDRESS,
        "limits": reaching(hub, home.parent),
    }
    for given, said in ((None, "give it again: --network_weights"), (bench.pictures / "no", "can't be read")):
        refused = bench.start(home, network_weights=given, **elsewhere)  # type: ignore[arg-type]
        assert refused.wait() == 2, refused.output()
        assert said in refused.output()
        assert not (home / "run.json").exists()
    moved = weights.rename(weights.with_name("moved.safetensors"))
    bench.run(home, network_weights=moved, **elsewhere)
    moved.unlink()
    assert result_digests(home) == result_digests(first)
    bench.run(home, max_train_steps=7)
