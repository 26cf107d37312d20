"""`dbr gc`: what nothing names goes, by exact key, while nobody holds the run; what is committed stays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from dreambooth_resume.checkpoint.format import to_blobs
from dreambooth_resume.cli.main import main
from dreambooth_resume.data.cache import Cache, Entry
from dreambooth_resume.data.class_images import Making, complete, noted_pictures
from dreambooth_resume.errors import HolderAlive
from dreambooth_resume.runs.entries import Stopped
from dreambooth_resume.runs.history import read_history
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.workflows.gc import Unnamed, collect_unnamed, find_unnamed
from dreambooth_resume.workflows.holders import Waiting
from dreambooth_resume.workflows.inventory import take_inventory
from tests.fakes.faulty_storage import Died, Fault, FaultyStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.s3_server import ENVIRONMENT, shared_server
from tests.fakes.toy_run import begin, check_finished, check_home, export, run_to_the_end, state_of
from tests.fakes.watched_run import beat, hold, record_run

NAMED, UNNAMED = "a" * 64, "c" * 64


def entry_of(picture: str, **more: object) -> Entry:
    recipe = {"kind": "latents", "picture": picture, **more}
    return Entry(label=picture[:4], recipe=recipe, encode=lambda: {"mean": np.zeros(3, np.float32)})


MASK = "d" * 64


def make_run(storage: Storage, *, finish: bool = False) -> set[str]:
    """A run of two attempts; returns the keys that nothing names."""
    record_run(storage)
    first = begin(storage, "A", limit=2)
    for step in (1, 2):
        first.commit(step)
    second = begin(storage, "B", limit=2)
    second.commit(3)  # retires checkpoint-1
    second.train_to_the_end() if finish else second.stop()
    pictures = [{"name": "rex.png", "sha256": NAMED, "size_bytes": 3, "width": 1, "height": 1, "mask_sha256": MASK}]
    storage.write("inputs.json", [json.dumps({"format": 1, "pictures": pictures}).encode()])
    for picture in (NAMED, MASK, UNNAMED):
        storage.write(f"inputs/{picture}", [b"rex"])
    prompt = Entry(
        label="prompt", recipe={"kind": "prompt", "prompt": "a dog"}, encode=lambda: {"pooled": np.zeros(3, np.float32)}
    )
    entries = [entry_of(NAMED), entry_of(UNNAMED), prompt]
    Cache(storage).fill(entries, should_stop=lambda: False, on_progress=lambda _done, _total: None)
    storage.write("checkpoint-1/trainer_state.json", [b"what the retire list left undone"])
    for name, blob in to_blobs(state_of(7), export).items():
        storage.write(f"checkpoint-7-a2/{name}", blob.parts)
    storage.write("checkpoint-70-a2/mine.txt", [b"of somebody else"])
    storage.write("checkpoint-8-a99/trainer_state.json", [b"of an attempt that nobody knows"])
    return {
        f"inputs/{UNNAMED}",
        entry_of(UNNAMED).key,
        "checkpoint-1/trainer_state.json",
        *(f"checkpoint-7-a2/{name}" for name in to_blobs(state_of(7), export)),
    }


def collect(storage: Storage) -> list[Unnamed]:
    return collect_unnamed(
        storage,
        find_unnamed(storage, read_log(storage)),
        Waiting(tell=lambda _text: None, sleep=lambda _seconds: None),
    )


@pytest.mark.parametrize("finish", [False, True])
def test_exactly_what_nothing_names_goes(finish: bool) -> None:
    storage = MemoryStorage()
    unnamed = make_run(storage, finish=finish)
    before = dict(storage.objects)
    assert {one.key for one in collect(storage)} == unnamed
    kept = {key: body for key, body in before.items() if key not in unnamed}
    assert {key: storage.objects[key] for key in kept} == kept
    assert collect(storage) == []
    if not finish:
        run_to_the_end(storage, limit=2)
    check_finished(storage)


@pytest.fixture(params=["folder", "bucket"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "folder":
        return LocalStorage(tmp_path / "dog")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return S3Storage(shared_server().new_home(), S3Settings(endpoint_url=shared_server().url))


PROBE = f"control/probe-{'5' * 32}.json"


def test_a_probe_that_a_start_uses_now_stays_whatever_this_machines_clock_says(
    home: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_to_the_end(home)
    home.write(PROBE, [b"{}"])
    assert find_unnamed(home, read_log(home)) == []
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2 * 24 * 3600.0)
    assert [one.key for one in find_unnamed(home, read_log(home))] == [PROBE]
    assert collect(home) == []
    assert [one.key for one in home.list("control/")] == [PROBE]


def test_a_probe_of_a_start_that_was_killed_days_ago_goes(tmp_path: Path) -> None:
    home = LocalStorage(tmp_path / "dog")
    run_to_the_end(home)
    foreign = "control/probe-mine.json"
    for key in (PROBE, foreign, PROBE.replace("5", "6")):
        home.write(key, [b"{}"])
    for key in (PROBE, foreign):
        os.utime(home.root / key, (time.time() - 90_000.0,) * 2)
    assert [one.key for one in collect(home)] == [PROBE]
    assert [one.key for one in home.list("control/")] == [PROBE.replace("5", "6"), foreign]


def test_held_out_pictures_and_their_encodings_stay() -> None:
    storage = MemoryStorage()
    unnamed = make_run(storage)
    held_out = [{"name": "held.png", "sha256": "d" * 64, "size_bytes": 4, "width": 1, "height": 1}]
    storage.write("validation_inputs.json", [json.dumps({"format": 1, "pictures": held_out}).encode()])
    storage.write(f"inputs/{'d' * 64}", [b"held"])
    Cache(storage).fill([entry_of("d" * 64)], should_stop=lambda: False, on_progress=lambda _done, _total: None)
    assert {one.key for one in collect(storage)} == unnamed


@pytest.mark.parametrize("all_made", [False, True])
def test_class_pictures_stay_found_and_made_listed_or_only_noted(all_made: bool, tmp_path: Path) -> None:
    storage = MemoryStorage()
    unnamed = make_run(storage)
    found = [{"name": "cur.png", "sha256": "b" * 64, "size_bytes": 3, "width": 1, "height": 1}]
    storage.write("class_inputs.json", [json.dumps({"format": 1, "pictures": found}).encode()])
    storage.write(f"inputs/{'b' * 64}", [b"cur"])
    complete(
        storage,
        tmp_path,
        Making(recipe={"kind": "class picture"}, count=2, batch_size=1),
        lambda numbers: (
            [np.full((2, 2, 3), number, np.uint8) for number in numbers] if all_made or 0 in numbers else None
        ),
        should_stop=lambda: False,
        on_progress=lambda _done, _total: None,
    )
    assert ("class_images.json" in storage.objects) == all_made
    made = sorted(noted_pictures(storage))
    entries = [entry_of(picture) for picture in ("b" * 64, *made)]
    Cache(storage).fill(entries, should_stop=lambda: False, on_progress=lambda _done, _total: None)
    before = set(storage.objects)
    assert {one.key for one in collect(storage)} == unnamed
    assert len(made) == (2 if all_made else 1)
    assert {f"inputs/{picture}" for picture in made} <= before - unnamed <= set(storage.objects)
    assert take_inventory(storage).foreign == tuple(
        one for one in storage.list() if one.key in ("checkpoint-70-a2/mine.txt",)
    )


def test_the_log_holds_one_command_more_and_the_run_stands_as_before() -> None:
    storage = MemoryStorage()
    make_run(storage)
    before = summarise(storage)
    collect(storage)
    log, after = read_log(storage), summarise(storage)
    assert isinstance(log.entries[-1].body, Stopped)
    assert read_history(storage)[-1].ending == "command"
    assert before is not None
    assert after is not None
    assert (after.state, after.attempt, after.durable_step) == (before.state, before.attempt, before.durable_step)


def test_a_finished_run_gets_no_further_entry() -> None:
    storage = MemoryStorage()
    make_run(storage, finish=True)
    entries = len(read_log(storage).entries)
    collect(storage)
    assert len(read_log(storage).entries) == entries


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER])
def test_killed_at_any_call_nothing_committed_is_lost_and_a_second_one_ends_it(fault: Fault, finish: bool) -> None:
    whole = MemoryStorage()
    unnamed = make_run(whole, finish=finish)
    at = 0
    while True:
        at += 1
        storage = MemoryStorage()
        storage.objects = dict(whole.objects)
        faulty = FaultyStorage(storage, at=at, fault=fault)
        try:
            collect(faulty)
            break
        except Died:
            assert whole.objects.keys() - storage.objects.keys() <= unnamed
            check_home(storage)
        collect(storage)
        assert not storage.objects.keys() & unnamed, faulty.went_wrong
        if not finish:
            run_to_the_end(storage, limit=2)
        check_finished(storage)
    assert at > 15


def test_what_was_shown_and_is_named_by_now_stays() -> None:
    storage = MemoryStorage()
    make_run(storage)
    named = Unnamed(key="checkpoint-2/trainer_state.json", size_bytes=1, why="")
    agreed = [*find_unnamed(storage, read_log(storage)), named]
    gone = collect_unnamed(storage, agreed, Waiting(tell=lambda _text: None))
    assert named.key not in {one.key for one in gone}
    check_home(storage)


def test_without_a_list_of_pictures_none_is_judged() -> None:
    """A first start may be copying them: the list goes last."""
    storage = MemoryStorage()
    make_run(storage)
    del storage.objects["inputs.json"]
    assert not [one for one in find_unnamed(storage, read_log(storage)) if not one.key.startswith("checkpoint-")]


def test_what_the_next_start_would_go_on_from_is_told_apart() -> None:
    storage = MemoryStorage()
    make_run(storage)
    reasons = {one.key.partition("/")[0]: one.why for one in find_unnamed(storage, read_log(storage))}
    assert reasons["checkpoint-7-a2"].startswith("complete, but not committed")
    assert reasons["checkpoint-1"] == "retired in the log"


class TestCommand:
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(tmp_path / "dog")

    def test_it_only_shows_unless_told_otherwise(
        self, storage: LocalStorage, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_run(storage)
        before = storage.list()
        assert main(["gc", str(storage.root)]) == 0
        assert storage.list() == before
        page = capsys.readouterr().out
        assert "6 files, " in page
        assert f"dbr gc {storage.root} --yes" in page
        assert main(["gc", str(storage.root), "--yes", "--uncommitted-too"]) == 0
        assert "Deleted 6 files" in capsys.readouterr().out
        assert main(["gc", str(storage.root)]) == 0
        assert "Everything in this home is named" in capsys.readouterr().out

    def test_a_state_that_the_next_start_would_go_on_from_is_not_given_up_by_the_way(
        self, storage: LocalStorage, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Taking the run for one entry would end its being that of the attempt just before (rule 9)."""
        make_run(storage)
        before = {found.key: storage.read(found.key) for found in storage.list()}
        assert main(["gc", str(storage.root), "--yes"]) == 2
        assert {found.key: storage.read(found.key) for found in storage.list()} == before
        refused = capsys.readouterr().err
        assert "checkpoint-7-a2 is whole, though not committed" in refused
        assert f"dbr train --output_dir {storage.root} --resume latest; or --uncommitted-too" in refused
        for found in storage.list("checkpoint-7-a2/"):
            storage.delete(found.key)
        assert main(["gc", str(storage.root), "--yes"]) == 0

    def test_json(self, storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
        unnamed = make_run(storage)
        assert main(["gc", str(storage.root), "--yes", "--uncommitted-too", "--json"]) == 0
        assert {one["key"] for one in json.loads(capsys.readouterr().out)["deleted"]} == unnamed

    def test_a_live_holder_is_left_alone(self, storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
        make_run(storage)
        hold(storage, this_process())
        before = storage.list()
        assert main(["gc", str(storage.root), "--yes"]) == 75
        assert storage.list() == before
        assert "trains the run" in capsys.readouterr().err

    def test_one_that_seems_gone_and_still_beats_is_found_by_waiting(self) -> None:
        storage = MemoryStorage()
        make_run(storage)
        begin(storage, "gpu-9")
        now, counter = 0.0, 0

        def sleep(seconds: float) -> None:
            nonlocal now, counter
            now, counter = now + seconds, counter + 1
            beat(storage, 3, seconds_ago=7200, counter=counter)

        waiting = Waiting(tell=lambda _text: None, monotonic=lambda: now, sleep=sleep)
        found = find_unnamed(storage, read_log(storage))
        with pytest.raises(HolderAlive):
            collect_unnamed(storage, found, waiting)
        assert {one.key for one in found} <= storage.objects.keys()
