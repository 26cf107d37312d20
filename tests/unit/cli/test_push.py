"""`dbr push`: any checkpoint of a run on a Hub on this machine, verified before and after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.source import resolve_source
from dreambooth_resume.models.tiny import build_tiny_sdxl
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.adapter_run import AdapterRun
from tests.fakes.hub_server import FakeHub, running_hub

TOKEN = "hf_let_me_in"
WEIGHTS, KOHYA = "pytorch_lora_weights.safetensors", "pytorch_lora_weights_kohya.safetensors"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # tests have no network but this one
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the fake has no Xet storage
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub({}) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push")
    build_tiny_sdxl(folder / "model")
    source = resolve_source(str(folder / "model"), hub=HuggingFaceHub())
    run = AdapterRun(source, LoraSpec(rank=4, alpha=8), with_text=False)
    run.write(LocalStorage(folder / "dog"), steps=(2, 4), output_kohya_format=True, hub_model_id="owner/model")
    return folder / "dog"


def test_the_result_is_uploaded_with_its_card_in_both_formats(
    home: Path, server: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(home)]) == 0
    assert f"checkpoint-4 is on the Hub: {server.endpoint}/owner/model" in capsys.readouterr().out
    assert sorted(server.files) == ["README.md", WEIGHTS, KOHYA]
    assert server.files[WEIGHTS] == (home / "checkpoint-4" / WEIGHTS).read_bytes()
    assert server.files["README.md"] == (home / "README.md").read_bytes()
    assert server.commits == ["Step 4"]
    assert TOKEN.encode() not in b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_any_checkpoint_goes_to_any_repository_and_the_home_stays_as_it_is(home: Path, server: FakeHub) -> None:
    before = LocalStorage(home).list()
    assert main(["push", str(home), "--step", "2", "--hub_model_id", "owner/model"]) == 0
    assert server.files[WEIGHTS] == (home / "checkpoint-2" / WEIGHTS).read_bytes()
    assert "| steps | 2 |" in server.files["README.md"].decode()
    assert LocalStorage(home).list() == before


def test_what_the_hub_has_is_compared_with_what_was_sent(
    home: Path, server: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    server.wrong_digest = "0" * 64
    assert main(["push", str(home)]) == 75
    assert "is not what was uploaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"), [(["--hub_model_id", "a/b/c"], 2), (["--step", "3"], 2), (["--step", "final"], 0)]
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    words: list[str], code: int, home: Path, server: FakeHub
) -> None:
    assert main(["push", str(home), *words]) == code
    assert bool(server.commits) == (code == 0)


def test_a_damaged_checkpoint_is_not_uploaded(home: Path, server: FakeHub) -> None:
    weights = home / "checkpoint-2" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    try:
        assert main(["push", str(home), "--step", "2"]) == 78
    finally:
        weights.write_bytes(whole)
    assert server.commits == []
