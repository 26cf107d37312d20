"""Finding a base model's files: what is taken, what is refused and with which advice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.families import FAMILIES, PIPELINE_CLASSES, family_named
from dreambooth_resume.models.hub import HubUnreachable
from dreambooth_resume.models.source import resolve_source

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """A Hub with one repository; `cached` says whether this machine has its files, `reachable` whether it answers."""

    def __init__(self, folder: Path, *, cached: bool = False, reachable: bool = True) -> None:
        self.folder, self.cached, self.reachable = folder, cached, reachable
        self.downloads: list[str] = []
        self.questions = 0

    def list_files(self, repo: str, *, revision: str | None, flag: str) -> tuple[str, tuple[str, ...]]:
        self.questions += 1
        if not self.reachable:
            raise HubUnreachable("no network")
        names = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return COMMIT, tuple(names)

    def download(self, repo: str, *, commit: str, names: Sequence[str]) -> Path:
        assert commit == COMMIT
        self.downloads += names
        return self.folder

    def cached_folder(self, repo: str, *, revision: str | None) -> tuple[str, Path] | None:
        return (COMMIT, self.folder) if self.cached and revision in (None, "main", COMMIT) else None


@pytest.fixture
def no_hub(tmp_path: Path) -> FakeHub:
    return FakeHub(tmp_path / "nothing", reachable=False)


def test_every_family_in_the_tables_can_be_made() -> None:
    for name in FAMILIES:
        assert family_named(name).name == name
    assert set(PIPELINE_CLASSES.values()) <= FAMILIES.keys()


def test_local_folder_gives_every_file_that_training_reads(tiny_folder: Path, no_hub: FakeHub) -> None:
    source = resolve_source(str(tiny_folder), hub=no_hub)
    assert source.family == "sdxl"
    assert source.commit is None
    assert {file.component for file in source.files} == {
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "unet",
        "vae",
    }
    assert [file.name for file in source.files] == sorted(file.name for file in source.files)
    assert "unet/diffusion_pytorch_model.safetensors" in {file.name for file in source.files}
    assert source.size_bytes == sum(file.path.stat().st_size for file in source.files)
    assert no_hub.questions == 0


def test_stray_files_and_folders_disturb_nothing(model_copy: Path, no_hub: FakeHub) -> None:
    (model_copy / ".DS_Store").write_bytes(b"x")
    (model_copy / "unet" / "notes.txt").write_text("x")
    (model_copy / "samples").mkdir()
    names = {file.name for file in resolve_source(str(model_copy), hub=no_hub).files}
    assert not any("notes" in name or "DS_Store" in name for name in names)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/folder", "there is no folder"),
        ("./models/sdxl", "there is no folder"),
        ("sdxl", "there is no folder"),
        ("model.safetensors", "there is no file"),
    ],
)
def test_name_that_leads_nowhere_is_refused_with_advice(name: str, words: str, no_hub: FakeHub) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        resolve_source(name, hub=no_hub)
    assert caught.value.fix is not None
    assert no_hub.questions == 0


def test_folder_that_is_no_pipeline_is_refused(tmp_path: Path, no_hub: FakeHub) -> None:
    with pytest.raises(BadInput, match=r"no model_index\.json"):
        resolve_source(str(tmp_path), hub=no_hub)


def test_pipeline_of_another_kind_is_named(model_copy: Path, edit_config: Callable[..., None], no_hub: FakeHub) -> None:
    edit_config("model_index.json", _class_name="StableDiffusion3Pipeline")
    with pytest.raises(BadInput, match="StableDiffusion3Pipeline"):
        resolve_source(str(model_copy), hub=no_hub)


def test_torn_model_index_is_refused(model_copy: Path, no_hub: FakeHub) -> None:
    (model_copy / "model_index.json").write_text("{")
    with pytest.raises(BadInput, match=r"model_index\.json"):
        resolve_source(str(model_copy), hub=no_hub)


@pytest.mark.parametrize(
    "name", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
)
def test_missing_file_is_named(name: str, model_copy: Path, no_hub: FakeHub) -> None:
    (model_copy / name).unlink()
    with pytest.raises(BadInput) as caught:
        resolve_source(str(model_copy), hub=no_hub)
    assert name in caught.value.what


def test_tokenizer_in_the_old_form_alone_is_enough(model_copy: Path, no_hub: FakeHub) -> None:
    (model_copy / "tokenizer" / "tokenizer.json").unlink()
    names = {file.name for file in resolve_source(str(model_copy), hub=no_hub).files}
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= names


def make_variant(folder: Path, variant: str, *, keep_plain: bool) -> None:
    for path in list(folder.rglob("*.safetensors")):
        path.with_name(path.name.replace(".safetensors", f".{variant}.safetensors")).write_bytes(path.read_bytes())
        if not keep_plain:
            path.unlink()


def test_variant_takes_only_its_own_weights(model_copy: Path, no_hub: FakeHub) -> None:
    make_variant(model_copy, "fp16", keep_plain=True)
    weights = [
        file.name
        for file in resolve_source(str(model_copy), variant="fp16", hub=no_hub).files
        if file.path.suffix == ".safetensors"
    ]
    assert len(weights) == 4
    assert all(name.endswith(".fp16.safetensors") for name in weights)


def test_missing_plain_weights_name_the_variant_that_is_there(model_copy: Path, no_hub: FakeHub) -> None:
    make_variant(model_copy, "fp16", keep_plain=False)
    with pytest.raises(BadInput) as caught:
        resolve_source(str(model_copy), hub=no_hub)
    assert caught.value.fix == "--variant fp16"


def test_missing_variant_says_to_leave_it_out(model_copy: Path, no_hub: FakeHub) -> None:
    with pytest.raises(BadInput) as caught:
        resolve_source(str(model_copy), variant="fp16", hub=no_hub)
    assert "leave --variant fp16 out" in str(caught.value.fix)


def test_pickled_weights_are_never_used(model_copy: Path, no_hub: FakeHub) -> None:
    weights = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BadInput) as caught:
        resolve_source(str(model_copy), hub=no_hub)
    assert "can run code" in str(caught.value.fix)


def test_weights_in_shards_are_all_taken(model_copy: Path, no_hub: FakeHub) -> None:
    weights = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    for number in (1, 2):
        weights.with_name(f"diffusion_pytorch_model-0000{number}-of-00002.safetensors").write_bytes(b"x")
    weights.with_name("diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    weights.unlink()
    names = [file.name for file in resolve_source(str(model_copy), hub=no_hub).files_of("unet")]
    assert names == [
        "unet/config.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
    ]


@pytest.mark.parametrize("sub_folder", ["", "vae"])
def test_separate_vae_replaces_the_models_own(
    sub_folder: str, model_copy: Path, tiny_folder: Path, no_hub: FakeHub
) -> None:
    (model_copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()  # the model's own isn't even looked at
    vae = tiny_folder if sub_folder else tiny_folder / "vae"
    source = resolve_source(str(model_copy), vae_name=str(vae), hub=no_hub)
    assert source.vae_folder == tiny_folder / "vae"
    assert {file.path.parent for file in source.files_of("vae")} == {tiny_folder / "vae"}
    assert [file.name for file in source.files_of("vae")] == [
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_separate_vae_without_the_variant_gives_its_plain_weights(
    model_copy: Path, tiny_folder: Path, no_hub: FakeHub
) -> None:
    make_variant(model_copy, "fp16", keep_plain=False)
    source = resolve_source(str(model_copy), vae_name=str(tiny_folder / "vae"), variant="fp16", hub=no_hub)
    assert source.variant == "fp16"
    assert source.vae_variant is None


def test_hub_id_is_pinned_to_a_commit_and_only_needed_files_are_fetched(model_copy: Path) -> None:
    make_variant(model_copy, "fp16", keep_plain=True)
    (model_copy / "README.md").write_text("x")
    hub = FakeHub(model_copy)
    source = resolve_source("owner/model", hub=hub)
    assert source.commit == source.vae_commit == COMMIT
    assert set(hub.downloads) == {"model_index.json", *(file.name for file in source.files)}
    assert not any("fp16" in name or "README" in name for name in hub.downloads)


def test_pinned_commit_that_is_all_here_needs_no_network(tiny_folder: Path) -> None:
    hub = FakeHub(tiny_folder, cached=True, reachable=False)
    source = resolve_source("owner/model", revision=COMMIT, hub=hub)
    assert source.commit == COMMIT
    assert hub.questions == 0


def test_pinned_commit_half_downloaded_is_completed(model_copy: Path, tiny_folder: Path) -> None:
    (model_copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()

    class HalfHub(FakeHub):
        def cached_folder(self, repo: str, *, revision: str | None) -> tuple[str, Path] | None:
            return COMMIT, model_copy

    hub = HalfHub(tiny_folder)
    source = resolve_source("owner/model", revision=COMMIT, hub=hub)
    assert hub.questions == 1
    assert source.folder == tiny_folder


def test_branch_falls_back_to_what_was_downloaded_when_the_hub_is_silent(tiny_folder: Path) -> None:
    source = resolve_source("owner/model", hub=FakeHub(tiny_folder, cached=True, reachable=False))
    assert source.commit == COMMIT


def test_silent_hub_and_nothing_cached_asks_to_come_back(tiny_folder: Path) -> None:
    with pytest.raises(HubUnreachable) as caught:
        resolve_source("owner/model", hub=FakeHub(tiny_folder, reachable=False))
    assert caught.value.exit_code == 75


def test_a_vae_that_is_none_is_said_of_the_vae(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the VAE's model has no vae/config") as refusal:
        resolve_source(str(tiny_folder), vae_name=str(tmp_path), hub=no_hub)
    assert "--pretrained_vae_model_name_or_path" in str(refusal.value.fix)
