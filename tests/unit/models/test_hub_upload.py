"""The real Hub client uploads to a Hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import huggingface_hub.constants
import pytest

from dreambooth_resume.errors import AccessDenied, BadInput, DbrError
from dreambooth_resume.models.hub import HubUnreachable
from dreambooth_resume.models.hub_upload import HubUpload, check_repository_name, repository_name
from tests.fakes.hub_server import FakeHub, running_hub

FILES = {"README.md": b"# a card", "pytorch_lora_weights.safetensors": b"\x00" * 5000, "samples/6-a1/0.png": b"\x89PNG"}
TOKEN = "hf_let_me_in"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # tests have no network but this one
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the fake has no Xet storage
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere/token")
    with running_hub({}) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)  # as HF_ENDPOINT does at a start
        yield hub


def hub_of(server: FakeHub, token: str | None = TOKEN) -> HubUpload:
    return HubUpload(token=token)


def test_a_repository_is_created_and_gets_all_files_in_one_commit(server: FakeHub) -> None:
    hub = hub_of(server)
    hub.check(where=None)
    assert hub.upload("owner/model", FILES) == f"{server.endpoint}/owner/model"
    assert server.files == FILES
    assert server.commits == ["End of training"]


def test_the_token_of_the_environment_will_do(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub_of(server, token=None).check(where=None)


def test_no_token_is_bad_input_with_the_page(server: FakeHub) -> None:
    with pytest.raises(BadInput) as caught:
        hub_of(server, token=None).check(where="--push_to_hub")
    assert "https://huggingface.co/settings/tokens" in str(caught.value.fix)
    assert server.asked == []


@pytest.mark.parametrize("trouble", ["wrong token", "a token that reads"])
def test_a_token_that_may_not_is_no_access_with_the_page(trouble: str, server: FakeHub) -> None:
    token = "hf_wrong" if trouble == "wrong token" else TOKEN
    if trouble == "a token that reads":
        server.role = "read"
    with pytest.raises(AccessDenied, match=r"https://huggingface\.co/settings/tokens") as caught:
        hub_of(server, token=token).check(where=None)
    assert caught.value.exit_code == 77
    assert token not in str(caught.value)


def test_a_refused_upload_is_no_access(server: FakeHub) -> None:
    server.refuse_uploads = (403, "")
    with pytest.raises(AccessDenied, match="uploading to owner/model"):
        hub_of(server).upload("owner/model", FILES)


def test_a_hub_that_is_down_or_away_asks_to_come_back(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refuse_uploads = (400, "")
    with pytest.raises(HubUnreachable, match="400"):
        hub_of(server).upload("owner/model", FILES)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachable, match="can't be reached"):
        hub_of(server).check(where=None)


def test_a_name_that_is_none_says_so(server: FakeHub) -> None:
    with pytest.raises(DbrError, match="name for a repository"):
        hub_of(server).upload("a/b/c", FILES)


def test_the_repository_is_named_as_the_script_names_it() -> None:
    assert repository_name(None, "runs/dog/") == "dog"
    assert repository_name(None, "s3://bucket/dog") == "dog"
    assert repository_name("you/dog-lora", "runs/dog") == "you/dog-lora"


@pytest.mark.parametrize("name", ["a b/c", "you/dog/lora", "my dog!", "-dog"])
def test_a_name_that_no_repository_can_have_is_bad_input_before_anybody_is_asked(name: str, server: FakeHub) -> None:
    with pytest.raises(BadInput, match="is no name for a repository on the Hub"):
        check_repository_name(name)
    check_repository_name("you/dog-lora")
    assert server.asked == []
