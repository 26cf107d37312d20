"""A base model in a bucket: copied once for each version, and no half or damaged copy is ever taken."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from dreambooth_resume.errors import BadInput, StorageUnavailable
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.in_a_bucket import ModelsInBuckets
from dreambooth_resume.models.source import ModelSource, resolve_source
from dreambooth_resume.storage.base import SinkKind
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from tests.fakes.s3_server import ENVIRONMENT, shared_server
from tests.fakes.single_file import build_uneven_sdxl, write_single_file


class Watched(S3Storage):
    """Counts downloads; `before` is called with each key that is asked for, `upset` while its body arrives."""

    downloads: ClassVar[list[str]] = []
    before: ClassVar[Callable[[str], None] | None] = None
    upset: ClassVar[Callable[[str], None] | None] = None

    def download(self, key: str, new_sink: Callable[[], SinkKind]) -> SinkKind:
        Watched.downloads.append(key)
        if Watched.before is not None:
            Watched.before(key)
        sink = super().download(key, new_sink)
        if Watched.upset is not None:
            Watched.upset(key)
        return sink


@pytest.fixture(autouse=True)
def reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Watched.downloads, Watched.before, Watched.upset = [], None, None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uneven") / "model"
    build_uneven_sdxl(folder)
    return folder


def settings() -> S3Settings:
    return S3Settings(endpoint_url=shared_server().url)


def upload(folder: Path) -> str:
    address = shared_server().new_home()
    storage = S3Storage(address, settings())
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        storage.write(path.relative_to(folder).as_posix(), [path.read_bytes()])
    return address


def watched_buckets(cache_dir: Path | None = None) -> ModelsInBuckets:
    where = str(cache_dir) if cache_dir else None
    return ModelsInBuckets(settings(), cache_dir=where, open_bucket=lambda at, s3: Watched(at, s3))


def resolve(address: str, **changed: str) -> ModelSource:
    return resolve_source(address, hub=HuggingFaceHub(), buckets=watched_buckets(), **changed)


def same_files(source: ModelSource, other: ModelSource) -> bool:
    bodies = [{file.name: file.path.read_bytes() for file in one.files} for one in (source, other)]
    return bodies[0] == bodies[1]


def test_a_folder_is_copied_once_and_only_what_training_reads(model: Path) -> None:
    address = upload(model)
    extra = S3Storage(address, settings())
    extra.write("unet/diffusion_pytorch_model.bin", [b"pickled"])
    extra.write("README.md", [b"about"])
    source = resolve(f"{address}/")
    assert same_files(source, resolve_source(str(model), hub=HuggingFaceHub()))
    assert source.commit is None
    assert len(Watched.downloads) == len(set(Watched.downloads))
    assert not {"README.md", "unet/diffusion_pytorch_model.bin"} & set(Watched.downloads)
    Watched.downloads = []
    extra.write("README.md", [b"another text"])
    assert resolve(f"{address}/").folder == source.folder
    assert Watched.downloads == []


def test_another_upload_under_the_same_name_is_another_copy(model: Path) -> None:
    address = upload(model)
    first = resolve(address)
    body = bytearray((model / "unet/diffusion_pytorch_model.safetensors").read_bytes())
    body[-1] ^= 1
    S3Storage(address, settings()).write("unet/diffusion_pytorch_model.safetensors", [bytes(body)])
    second = resolve(address)
    assert second.folder != first.folder
    assert not same_files(first, second)
    assert (second.folder / "unet/diffusion_pytorch_model.safetensors").read_bytes() == body


@pytest.mark.parametrize("harm", ["cut off", "changed", "never noted"])
def test_a_copy_that_is_not_what_was_fetched_is_fetched_again(harm: str, model: Path) -> None:
    address = upload(model)
    source = resolve(address)
    path = source.folder / "vae/config.json"
    sound = path.read_bytes()
    if harm == "cut off":
        path.write_bytes(sound[:-3])
    elif harm == "changed":
        path.write_bytes(sound[:-3] + b"   ")
    else:
        (source.folder.with_suffix(".sha256") / "vae/config.json").unlink()
    Watched.downloads = []
    assert resolve(address).folder == source.folder
    assert Watched.downloads == ["vae/config.json"]
    assert path.read_bytes() == sound


def test_killed_at_any_file_nothing_half_is_left_and_the_next_start_ends_it(model: Path) -> None:
    class KilledError(BaseException):
        pass

    address = upload(model)

    def killed(key: str) -> None:
        raise KilledError

    Watched.upset = killed
    for _ in range(2):
        with pytest.raises(KilledError):
            resolve(address)
    Watched.upset = None
    source = resolve(address)
    assert same_files(source, resolve_source(str(model), hub=HuggingFaceHub()))
    assert not list(source.folder.rglob(".*"))


def test_what_a_killed_process_left_is_removed_by_the_next_that_fetches_the_file(tmp_path: Path) -> None:
    address = shared_server().new_home()
    S3Storage(address, settings()).write("model.safetensors", [b"weights"])
    script = (
        "import os, signal, sys\n"
        "from tests.unit.models.test_in_a_bucket import ModelsInBuckets, S3Settings, Watched\n"
        "Watched.upset = lambda _key: os.kill(os.getpid(), signal.SIGKILL)\n"
        "s3, (address, cache) = S3Settings(endpoint_url=sys.argv[1]), sys.argv[2:]\n"
        "ModelsInBuckets(s3, cache_dir=cache, open_bucket=Watched).fetched(address, ['model.safetensors'], flag='')\n"
    )
    command = [sys.executable, "-c", script, shared_server().url, address, str(tmp_path)]
    for _ in range(2):
        ended = subprocess.run(command, timeout=120, check=False, cwd=Path(__file__).parents[3])
        assert ended.returncode == -signal.SIGKILL
        assert [path.read_bytes() for path in tmp_path.rglob(".*")] == [b"weights"]
    watched_buckets(tmp_path).fetched(address, ["model.safetensors"], flag="--flag")
    assert not list(tmp_path.rglob(".*"))


def test_two_processes_that_fetch_one_file_leave_each_other_alone() -> None:
    address = shared_server().new_home()
    S3Storage(address, settings()).write("model.safetensors", [b"weights"])
    copies = []

    def second(_key: str) -> None:
        Watched.upset = None
        copy = watched_buckets().fetched_file(f"{address}/model.safetensors", flag="--flag")
        copies.append(copy.read_bytes())
        assert [path.read_bytes() for path in copy.parent.rglob(".*")] == [b"weights"]

    Watched.upset = second
    copy = watched_buckets().fetched_file(f"{address}/model.safetensors", flag="--flag")
    assert [*copies, copy.read_bytes()] == [b"weights"] * 2
    assert len(Watched.downloads) == 2
    assert not list(copy.parent.rglob(".*"))


def test_a_half_copy_that_somebody_removes_meanwhile_is_fetched_again(tmp_path: Path) -> None:
    address = shared_server().new_home()
    S3Storage(address, settings()).write("model.safetensors", [b"weights"])

    def removed(_key: str) -> None:
        Watched.upset = None
        for path in tmp_path.rglob(".*"):
            path.unlink()

    Watched.upset = removed
    folder = watched_buckets(tmp_path).fetched(address, ["model.safetensors"], flag="--flag")
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert len(Watched.downloads) == 2


def test_a_model_that_is_replaced_while_it_is_read_is_read_whole_or_not_at_all(model: Path) -> None:
    address = upload(model)
    storage, turns = S3Storage(address, settings()), iter(range(10**6))

    def replaced(key: str) -> None:
        storage.write("vae/config.json", [b"{}" + b" " * next(turns)])

    Watched.upset = replaced
    with pytest.raises(StorageUnavailable, match="the model changes while it is read"):
        resolve(address)


def test_a_file_of_another_version_is_never_believed_when_the_listed_one_is_uploaded_again() -> None:
    address = shared_server().new_home()
    storage = S3Storage(address, settings())
    listed, other = b"listed", b"others"
    storage.write("model.safetensors", [listed])
    Watched.before = lambda key: storage.write(key, [other])
    assert watched_buckets().fetched_file(f"{address}/model.safetensors", flag="--flag").read_bytes() == other
    Watched.before = None
    storage.write("model.safetensors", [listed])
    assert watched_buckets().fetched_file(f"{address}/model.safetensors", flag="--flag").read_bytes() == listed


def test_a_single_file_lies_in_a_bucket_too_with_its_configurations(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "fine-tune.safetensors"
    write_single_file(model, file)
    folder, at = upload(model), shared_server().new_home()
    S3Storage(at, settings()).write(file.name, [file.read_bytes()])
    S3Storage(at, settings()).write(f"{file.name}.txt", [b"beside it"])
    source = resolve(f"{at}/{file.name}", base_config=folder)
    assert source.single_file is not None
    assert source.single_file.read_bytes() == file.read_bytes()
    assert same_files(source, resolve_source(str(file), base_config=str(model), hub=HuggingFaceHub()))
    assert not [name for name in Watched.downloads if name.startswith("unet/") and name.endswith(".safetensors")]


def test_a_vae_lies_in_a_bucket_too(model: Path) -> None:
    address = upload(model / "vae")
    source = resolve(str(model), vae_name=address)
    assert source.vae_folder != model / "vae"
    assert (source.vae_folder / "config.json").read_bytes() == (model / "vae/config.json").read_bytes()


@pytest.mark.parametrize("name", ["", "/model.safetensors"])
def test_a_name_that_leads_nowhere_is_refused_with_what_to_give(name: str) -> None:
    with pytest.raises(BadInput, match=r"no such object is there|no file of a model lies there") as refusal:
        resolve(f"{shared_server().new_home()}{name}")
    assert "--s3_endpoint_url" in str(refusal.value.fix)


def test_a_file_that_can_run_code_is_not_even_fetched() -> None:
    with pytest.raises(BadInput, match=r"is not a \.safetensors file"):
        resolve(f"{shared_server().new_home()}/model.ckpt")
    assert Watched.downloads == []


def test_too_little_room_is_said_before_anything_is_fetched(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = upload(model)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("dreambooth_resume.models.in_a_bucket.shutil.disk_usage", lambda _path: usage)
    with pytest.raises(BadInput, match="a copy needs"):
        resolve(address)
    assert Watched.downloads == []


def test_a_disk_that_is_full_in_the_middle_of_a_file_is_the_users_to_mend_and_not_the_buckets(tmp_path: Path) -> None:
    address = shared_server().new_home()
    S3Storage(address, settings()).write("model.safetensors", [bytes(3 * 2**20)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(BadInput, match="no copy of a model can be written there") as refusal:
            watched_buckets(tmp_path).fetched(address, ["model.safetensors"], flag="--flag")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(refusal.value.where)
    assert "--cache_dir" in str(refusal.value.fix)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("in_the_way", ["of the cache folder", "of a folder of the model", "of the file"])
def test_a_folder_that_cannot_be_written_is_named_with_the_option_for_another(in_the_way: str, tmp_path: Path) -> None:
    address = shared_server().new_home()
    S3Storage(address, settings()).write("vae/config.json", [b"{}"])
    cache = tmp_path / "cache_dir"
    if in_the_way == "of the cache folder":
        cache.write_bytes(b"a file")
    else:
        folder = watched_buckets(cache).fetched(address, ["vae/config.json"], flag="--flag")
        shutil.rmtree(folder / "vae")
        if in_the_way == "of the file":
            (folder / "vae/config.json/full").mkdir(parents=True)
        else:
            (folder / "vae").write_bytes(b"a file")
    with pytest.raises(BadInput, match="no copy of a model can be written there") as refusal:
        watched_buckets(cache).fetched(address, ["vae/config.json"], flag="--flag")
    assert str(cache) in str(refusal.value.where)
    assert "--cache_dir" in str(refusal.value.fix)


def test_a_file_that_is_deleted_between_list_and_read_is_listed_again() -> None:
    address = shared_server().new_home()
    storage = S3Storage(address, settings())
    for name in ("a.json", "b.json"):
        storage.write(name, [b"{}"])
    Watched.before = lambda _key: storage.delete("b.json")
    folder = watched_buckets().fetched(address, ["a.json", "b.json"], flag="--flag")
    assert [path.name for path in folder.iterdir()] == ["a.json"]


def test_a_model_that_is_deleted_between_list_and_read_is_said_to_be_gone() -> None:
    address = shared_server().new_home()
    storage = S3Storage(address, settings())
    storage.write("model.safetensors", [b"weights"])
    Watched.before = storage.delete
    with pytest.raises(BadInput, match="no such object is there"):
        watched_buckets().fetched_file(f"{address}/model.safetensors", flag="--flag")
