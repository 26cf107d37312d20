"""`dbr delete`: says what goes, refuses while somebody trains, and may end anywhere: a second one ends the work."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.errors import ComeBack, HolderAlive, RefusedToGoOn
from dreambooth_resume.runs.control import post_request
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.notes import post_note
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.delete import check_deletable, delete_run
from dreambooth_resume.workflows.holders import Waiting
from tests.fakes.faulty_storage import Died, Fault, FaultyStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import adopt, begin, check_home
from tests.fakes.watched_run import beat, hold, measure, record_run

FOREIGN = {"mine.txt": b"1", "checkpoint-2/notes.md": b"2", "log/README": b"3", "inputs/dog.png": b"4"}


def make_run(storage: Storage, *, finish: bool = False) -> None:
    """A run with something under every kind of key, and files of others in between."""
    record_run(storage)
    attempt = begin(storage, "A")
    for step in (1, 2, 3):
        attempt.commit(step)
    storage.write("checkpoint-9/trainer_state.json", [b"never committed"])
    pictures = [{"name": "rex.png", "sha256": "a" * 64, "size_bytes": 3, "width": 1, "height": 1}]
    storage.write("inputs.json", [json.dumps({"format": 1, "pictures": pictures}).encode()])
    storage.write("inputs/" + "a" * 64, [b"rex"])
    storage.write("cache/" + "b" * 64 + ".safetensors", [b"latents"])
    beat(storage, 1, step=3, phase="ended", exit_code=75)
    measure(storage, 1, {1: 0.5, 2: 0.4})
    post_request(storage, "stop")
    post_note(storage, "exit", "seen")
    post_note(storage, "evaluation", "slurm, by dbr 1")
    storage.write(f"eval/output/{'d' * 32}/00001.txt", [b"picture 1"])
    attempt.train_to_the_end() if finish else attempt.stop()
    for key, body in FOREIGN.items():
        storage.write(key, [body])


def delete(storage: Storage) -> None:
    delete_run(storage, Waiting(tell=lambda _text: None, sleep=lambda _seconds: None))


@pytest.mark.parametrize("finish", [False, True])
def test_everything_of_ours_goes_and_everything_of_others_stays(finish: bool) -> None:
    storage = MemoryStorage()
    make_run(storage, finish=finish)
    delete(storage)
    assert storage.objects == FOREIGN


def test_the_folder_itself_goes_if_nothing_of_others_is_in_it(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "dog")
    make_run(storage)
    for key in FOREIGN:
        storage.delete(key)
    delete(storage)
    assert not storage.root.exists()


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER])
def test_killed_at_any_call_it_says_what_it_is_and_a_second_one_ends_it(fault: Fault, finish: bool) -> None:
    whole = MemoryStorage()
    make_run(whole, finish=finish)
    at = 0
    while True:
        at += 1
        storage = MemoryStorage()
        storage.objects = dict(whole.objects)
        faulty = FaultyStorage(storage, at=at, fault=fault)
        try:
            delete(faulty)
            break
        except Died:
            check_half_deleted(storage, whole)
        delete(storage)
        assert storage.objects == FOREIGN, faulty.went_wrong
    assert at > 40


def check_half_deleted(storage: MemoryStorage, whole: MemoryStorage) -> None:
    """Nothing went before the log said so; whoever starts is refused as long as the log says that there was a run."""
    gone = {key for key in whole.objects if key not in storage.objects}
    assert gone.isdisjoint(FOREIGN)
    if gone - {"run.json"}:
        assert "run.json" not in gone or set(storage.objects) <= {*FOREIGN}
    if gone and any(key.startswith("log/0") for key in storage.objects):
        assert nobody_can_train(storage)
    elif not gone:
        check_home(storage, may_be_damaged=True)
    if storage.objects.keys() - FOREIGN.keys():
        assert read_record(storage) is not None


def nobody_can_train(storage: MemoryStorage) -> bool:
    try:
        return isinstance(adopt(storage, "B"), Log)  # it is finished
    except RefusedToGoOn:
        return True


@pytest.mark.parametrize("fault", [Fault.FAILS, Fault.LOST_ANSWER])
def test_storage_trouble_ends_it_and_the_next_one_goes_on(fault: Fault) -> None:
    whole = MemoryStorage()
    make_run(whole)
    for at in range(1, 200, 3):
        storage = MemoryStorage()
        storage.objects = dict(whole.objects)
        faulty = FaultyStorage(storage, at=at, fault=fault)
        with contextlib.suppress(ComeBack):
            delete(faulty)
        if faulty.went_wrong is None:
            return
        delete(storage)
        assert storage.objects == FOREIGN
    pytest.fail("the loop did not end")


def test_half_deleted_is_said_in_so_many_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(tmp_path / "dog")
    make_run(storage)

    def die(call: str, key: str) -> None:
        if (call, key) == ("delete", "log/00000002.json"):
            raise Died

    memory = MemoryStorage(before=die)
    memory.objects = {found.key: storage.read(found.key) for found in storage.list()}
    with pytest.raises(Died):
        delete(memory)
    for found in storage.list():
        storage.delete(found.key)
    for key, body in memory.objects.items():
        storage.write(key, [body])
    assert main(["status", str(storage.root)]) == 78
    assert "is being deleted. To end that: dbr delete" in capsys.readouterr().err
    assert main(["delete", str(storage.root), "--yes"]) == 0
    assert {found.key for found in storage.list()} == set(FOREIGN)


class TestHeld:
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        storage = LocalStorage(tmp_path / "dog")
        record_run(storage)
        return storage

    def test_a_live_holder_is_left_alone(self, storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
        hold(storage, this_process())
        before = storage.list()
        assert main(["delete", str(storage.root), "--yes"]) == 75
        assert "dbr stop" in capsys.readouterr().err
        assert storage.list() == before

    def test_one_on_another_machine_that_still_beats_too(self, storage: LocalStorage) -> None:
        begin(storage, "gpu-7").commit(1)
        beat(storage, 1, step=1)
        with pytest.raises(HolderAlive):
            check_deletable(storage)

    def test_a_run_that_was_never_trained_may_be_deleted(self, storage: LocalStorage) -> None:
        delete(storage)
        assert not storage.root.exists()

    def test_a_run_with_a_broken_log_may_be_deleted(self, storage: LocalStorage) -> None:
        begin(storage).commit(1)
        storage.write("log/00000001.json", [b"torn"])
        assert main(["delete", str(storage.root), "--yes"]) == 0
        assert not storage.root.exists()

    def test_whoever_begins_meanwhile_keeps_the_log(self) -> None:
        storage = MemoryStorage()
        record_run(storage)  # no checkpoint yet, so that a starter is not refused

        def take(call: str, key: str) -> None:
            if (call, key) == ("delete", "status/0001.json"):
                storage.before = None
                begin(storage, "B").commit(1)

        beat(storage, 1)
        storage.before = take
        with pytest.raises(HolderAlive, match="has begun to train"):
            delete(storage)
        assert read_log(storage).adopt is not None
        check_home(storage)


class TestWords:
    @pytest.fixture
    def home(self, tmp_path: Path) -> str:
        make_run(LocalStorage(tmp_path / "dog"))
        return str(tmp_path / "dog")

    def test_what_goes_is_said_and_whose_pictures_are_among_it(
        self, home: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["delete", home, "--yes"]) == 0
        page = capsys.readouterr().out
        assert "  checkpoint  " in page
        assert "copies of 1 picture rex.png" in page
        assert "4 other files, " in page
        assert "mine.txt" in page
        assert "Deleted the run in" in page

    def test_nobody_to_ask_is_bad_input(self, home: str, capsys: pytest.CaptureFixture[str]) -> None:
        before = LocalStorage(Path(home)).list()
        assert main(["delete", home]) == 2
        assert "--yes" in capsys.readouterr().err
        assert LocalStorage(Path(home)).list() == before

    @pytest.mark.parametrize(("answer", "is_gone"), [("y", True), ("n", False), ("", False)])
    def test_the_user_is_asked(self, home: str, answer: str, is_gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda _question: answer)
        assert main(["delete", home]) == 0
        assert (not (Path(home) / "run.json").exists()) is is_gone

    def test_no_run_is_bad_input(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint-5").mkdir()
        (tmp_path / "checkpoint-5" / "pytorch_lora_weights.safetensors").write_bytes(b"of another program")
        assert main(["delete", str(tmp_path), "--yes"]) == 2
        assert (tmp_path / "checkpoint-5" / "pytorch_lora_weights.safetensors").exists()

    def test_json(self, home: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["delete", home, "--yes", "--json"]) == 0
        page = json.loads(capsys.readouterr().out)
        assert page["deleted"]["files"] > 15
        assert {one["key"] for one in page["deleted"]["foreign"]} == set(FOREIGN)


def test_no_list_of_prefixes_decides(tmp_path: Path) -> None:
    """Names that only begin like ours are not ours."""
    keys = ("checkpoint-5000x/trainer_state.json", "cache/x.safetensors", "log/1.json", "run.json.bak", "inputs/abc")
    storage = MemoryStorage()
    make_run(storage)
    for key in keys:
        storage.objects[key] = b"x"
    delete(storage)
    assert set(storage.objects) == {*FOREIGN, *keys}
