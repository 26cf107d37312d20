"""`dbr checkpoints pull`: verified while it comes, whole or absent, and a second call goes on where the first ended."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.errors import BadInput, CheckpointDamaged, ComeBack, RefusedToGoOn
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.pull import newest_checkpoint, pull_checkpoint
from dreambooth_resume.storage.base import SinkKind, Storage
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.faulty_storage import Died, Fault, FaultyStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import record_run

UNFINISHED = ".checkpoint-3.unfinished"


def make_run(storage: Storage) -> None:
    record_run(storage)
    attempt = begin(storage, limit=2)
    for step in (1, 2, 3):
        attempt.commit(step)
    attempt.stop()


@pytest.fixture
def storage() -> MemoryStorage:
    storage = MemoryStorage()
    make_run(storage)
    return storage


def pull(storage: Storage, folder: Path) -> Path:
    return pull_checkpoint(storage, newest_checkpoint(read_log(storage), where="home"), folder)


def check_pulled(storage: MemoryStorage, folder: Path) -> None:
    target = folder / "checkpoint-3"
    pulled = {f"checkpoint-3/{path.name}": path.read_bytes() for path in target.iterdir()}
    assert pulled == {key: body for key, body in storage.objects.items() if key.startswith("checkpoint-3/")}
    assert [path.name for path in folder.iterdir()] == ["checkpoint-3"]


def test_every_byte_arrives_under_the_checkpoints_own_name(storage: MemoryStorage, tmp_path: Path) -> None:
    assert pull(storage, tmp_path / "new" / "dir") == tmp_path / "new" / "dir" / "checkpoint-3"
    check_pulled(storage, tmp_path / "new" / "dir")


@pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER])
def test_killed_at_any_call_of_the_storage_a_second_one_ends_it(
    storage: MemoryStorage, tmp_path: Path, fault: Fault
) -> None:
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        faulty = FaultyStorage(storage, at=at, fault=fault)
        try:
            pull(faulty, folder)
            break
        except Died:
            assert not (folder / "checkpoint-3").exists()
        pull(storage, folder)
        check_pulled(storage, folder)
    assert at > 3


@pytest.mark.parametrize("name", ["replace", "rename", "fsync"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_change_of_the_disk_a_second_one_ends_it(
    storage: MemoryStorage, tmp_path: Path, name: str, after: bool
) -> None:
    real: Callable[..., None] = getattr(os, name)
    for at in range(1, 20):
        folder, calls = tmp_path / str(at), 0

        def dying(*words: object, at: int = at) -> None:
            nonlocal calls
            calls += 1
            if calls == at and not after:
                raise Died
            real(*words)
            if calls == at:
                raise Died

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, name, dying)
            # What a real kill leaves: nobody tidies up.
            patch.setattr(Path, "unlink", lambda _path, missing_ok=False: None)
            try:
                pull(storage, folder)
                assert at > 1
                return
            except Died:
                target = folder / "checkpoint-3"
                assert not target.exists() or len(list(target.iterdir())) >= 3
        pull(storage, folder)
        wanted = {key for key in storage.objects if key.startswith("checkpoint-3/")}
        assert {f"checkpoint-3/{path.name}" for path in (folder / "checkpoint-3").iterdir()} == wanted
    pytest.fail("the loop did not end")


def test_files_that_are_there_and_right_are_not_fetched_again(storage: MemoryStorage, tmp_path: Path) -> None:
    unfinished = tmp_path / UNFINISHED
    unfinished.mkdir()
    for name, body in [("trainer_state.safetensors", None), ("trainer_state.json", b"torn")]:
        (unfinished / name).write_bytes(storage.objects[f"checkpoint-3/{name}"] if body is None else body)
    (unfinished / "trainer_state.json.0123").write_bytes(b"what a killed one left")
    storage.calls.clear()
    pull(storage, tmp_path)
    fetched = [key for call, key in storage.calls if call == "download"]
    assert fetched == ["checkpoint-3/pytorch_lora_weights.safetensors", "checkpoint-3/trainer_state.json"]
    check_pulled(storage, tmp_path)


def test_a_second_pull_fetches_nothing(storage: MemoryStorage, tmp_path: Path) -> None:
    pull(storage, tmp_path)
    storage.calls.clear()
    pull(storage, tmp_path)
    assert storage.count("download") == 0


def test_something_else_under_that_name_is_left_alone(storage: MemoryStorage, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not that checkpoint"):
        pull(storage, tmp_path)
    assert (tmp_path / "checkpoint-3" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("body", [b"torn", None])
def test_a_damaged_checkpoint_is_refused_and_nothing_is_left_under_its_name(
    storage: MemoryStorage, tmp_path: Path, body: bytes | None
) -> None:
    if body is None:
        del storage.objects["checkpoint-3/trainer_state.json"]
    else:
        storage.objects["checkpoint-3/trainer_state.json"] = body
    with pytest.raises(CheckpointDamaged):
        pull(storage, tmp_path)
    assert not (tmp_path / "checkpoint-3").exists()


def test_damage_on_the_way_is_asked_again(storage: MemoryStorage, tmp_path: Path) -> None:
    class Noisy(MemoryStorage):
        flips = 1

        def download(self, key: str, new_sink: Callable[[], SinkKind]) -> SinkKind:
            sink = super().download(key, new_sink)
            if key.endswith(".json") and self.flips:
                self.flips -= 1
                sink.update(b"noise")
            return sink

    noisy = Noisy()
    noisy.objects = storage.objects
    pull(noisy, tmp_path)
    check_pulled(storage, tmp_path)


def test_a_checkpoint_that_is_retired_meanwhile_is_said_to_be(storage: MemoryStorage, tmp_path: Path) -> None:
    ref = newest_checkpoint(read_log(storage), where="home")
    attempt = begin(storage, "B", limit=1)
    attempt.commit(4)
    with pytest.raises(RefusedToGoOn, match="was retired while it was pulled"):
        pull_checkpoint(storage, ref, tmp_path)


def test_storage_trouble_comes_back_later(storage: MemoryStorage, tmp_path: Path) -> None:
    faulty = FaultyStorage(storage, at=9, fault=Fault.FAILS)
    ref = newest_checkpoint(read_log(storage), where="home")
    faulty.count = 7
    with pytest.raises(ComeBack):
        pull_checkpoint(faulty, ref, tmp_path)
    pull(storage, tmp_path)
    check_pulled(storage, tmp_path)


def test_progress_counts_every_byte_once(storage: MemoryStorage, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    ref = newest_checkpoint(read_log(storage), where="home")
    pull_checkpoint(storage, ref, tmp_path, on_bytes=lambda done, total: told.append((done, total)))
    total = sum(file.size_bytes for file in ref.files)
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


class TestWords:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        make_run(LocalStorage(tmp_path / "dog"))
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        return str(tmp_path / "dog")

    @pytest.mark.parametrize(
        ("words", "target"),
        [
            ([], "checkpoint-3"),
            (["latest"], "checkpoint-3"),
            (["2"], "checkpoint-2"),
            (["checkpoint-2"], "checkpoint-2"),
            (["out"], "out/checkpoint-3"),
            (["2", "out"], "out/checkpoint-2"),
        ],
    )
    def test_which_and_where(self, home: str, words: list[str], target: str) -> None:
        assert main(["checkpoints", "pull", home, *words]) == 0
        assert (Path(target) / "trainer_state.json").is_file()

    @pytest.mark.parametrize("words", [["out", "2"], ["1"], ["7"], ["2", "out", "more"]])
    def test_what_means_nothing_is_bad_input(self, home: str, words: list[str]) -> None:
        assert main(["checkpoints", "pull", home, *words]) == 2
        assert list(Path().iterdir()) == []

    def test_it_says_what_came_and_how_to_use_it(self, home: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["checkpoints", "pull", home]) == 0
        page = capsys.readouterr().out
        assert "every byte verified" in page
        assert 'load_lora_weights("checkpoint-3")' in page
        assert main(["checkpoints", "pull", home, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["checkpoint"]["step"] == 3

    def test_a_folder_that_cannot_be_written_is_bad_input(self, home: str, capsys: pytest.CaptureFixture[str]) -> None:
        Path("file").write_text("")
        assert main(["checkpoints", "pull", home, "file"]) == 2
        assert "can't be written" in capsys.readouterr().err
