"""The real Hub client against a Hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from dreambooth_resume.errors import AccessDenied, BadInput
from dreambooth_resume.models.hub import HubUnreachable, HuggingFaceHub, is_full_commit
from dreambooth_resume.models.source import resolve_source
from tests.fakes.hub_server import COMMIT, FakeHub, running_hub

FLAG = "--pretrained_model_name_or_path"


@pytest.fixture
def server(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # tests have no network but this one
    names = [path.relative_to(tiny_folder).as_posix() for path in tiny_folder.rglob("*") if path.is_file()]
    files = {name: (tiny_folder / name).read_bytes() for name in sorted(names)}
    files["README.md"] = b"not needed"
    files["unet/diffusion_pytorch_model.fp16.safetensors"] = b"not needed either"
    with running_hub(files) as hub:
        yield hub


@pytest.fixture
def client(server: FakeHub, tmp_path: Path) -> HuggingFaceHub:
    return HuggingFaceHub(cache_dir=str(tmp_path / "cache"), endpoint=server.endpoint)


def test_model_is_pinned_fetched_in_part_and_then_found_without_the_hub(
    server: FakeHub, client: HuggingFaceHub, tiny_folder: Path
) -> None:
    source = resolve_source("owner/model", hub=client)
    assert source.commit == COMMIT
    for file in source.files:
        assert file.path.read_bytes() == (tiny_folder / file.name).read_bytes()
    assert not (source.folder / "README.md").exists()
    assert not (source.folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()

    server.asked.clear()
    again = resolve_source("owner/model", revision=COMMIT, hub=client)
    assert again == source
    assert server.asked == []

    server.refuse = (503, "")
    assert resolve_source("owner/model", hub=client) == source


def test_hub_that_is_down_and_nothing_cached_asks_to_come_back(server: FakeHub, client: HuggingFaceHub) -> None:
    server.refuse = (503, "")
    with pytest.raises(HubUnreachable, match="owner/model"):
        resolve_source("owner/model", hub=client)


def test_no_network_at_all_asks_to_come_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    client = HuggingFaceHub(cache_dir=str(tmp_path), endpoint="http://127.0.0.1:9")
    with pytest.raises(HubUnreachable):
        resolve_source("owner/model", hub=client)


def test_offline_by_wish_asks_to_come_back(client: HuggingFaceHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="offline"):
        resolve_source("owner/model", hub=client)


def test_gated_model_says_where_to_accept_its_terms(server: FakeHub, client: HuggingFaceHub) -> None:
    server.refuse = (403, "GatedRepo")
    with pytest.raises(AccessDenied, match=r"https://huggingface\.co/owner/model") as caught:
        resolve_source("owner/model", hub=client)
    assert caught.value.exit_code == 77


def test_refused_token_is_no_access(server: FakeHub, client: HuggingFaceHub) -> None:
    server.refuse = (403, "")
    with pytest.raises(AccessDenied):
        resolve_source("owner/model", hub=client)


@pytest.mark.parametrize("refusal", [(401, "RepoNotFound"), (404, "RepoNotFound")])
def test_unknown_or_private_model_is_bad_input_that_names_both(
    refusal: tuple[int, str], server: FakeHub, client: HuggingFaceHub
) -> None:
    server.refuse = refusal
    with pytest.raises(BadInput, match="owner/model") as caught:
        resolve_source("owner/model", hub=client)
    assert caught.value.where == FLAG
    assert "hf auth login" in str(caught.value.fix)


def test_unknown_revision_is_bad_input(client: HuggingFaceHub) -> None:
    with pytest.raises(BadInput, match="v9") as caught:
        resolve_source("owner/model", revision="v9", hub=client)
    assert caught.value.where == "--revision"


def test_model_without_needed_files_is_refused_before_anything_big_is_fetched(
    server: FakeHub, client: HuggingFaceHub
) -> None:
    del server.files["vae/diffusion_pytorch_model.safetensors"]
    with pytest.raises(BadInput, match="vae/diffusion_pytorch_model"):
        resolve_source("owner/model", hub=client)
    assert not any(asked.endswith(".safetensors") for asked in server.asked)


@pytest.mark.parametrize(("text", "expected"), [(COMMIT, True), (COMMIT[:-1], False), ("main", False), (None, False)])
def test_only_a_whole_commit_is_pinned(text: str | None, expected: bool) -> None:
    assert is_full_commit(text) is expected
