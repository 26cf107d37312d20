"""`dbr fork`: whole or not believed at any moment, and the same command ends what was interrupted."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.config.load import parse_train, record, resolve
from dreambooth_resume.errors import BadInput, CheckpointDamaged, RefusedToGoOn
from dreambooth_resume.runs.entries import Segment, SmallerMicroBatch
from dreambooth_resume.runs.history import read_history
from dreambooth_resume.runs.log import make_entry, put_entry, read_log
from dreambooth_resume.runs.record import Pins, new_record, read_record, write_record
from dreambooth_resume.storage.base import Body, Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.fork import Forked, fork_run
from dreambooth_resume.workflows.holders import Waiting
from dreambooth_resume.workflows.home import Home, Place, refuse_half_a_fork
from dreambooth_resume.workflows.preflight import as_json
from tests.fakes.faulty_storage import Died, Fault, FaultyStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin, check_finished
from tests.unit.cli.test_no_torch import PROGRAM

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]
PICTURE = b"a picture"
DIGEST = hashlib.sha256(PICTURE).hexdigest()
SEGMENT = Segment(from_step=2, fingerprint="1" * 64, prompt="a cat")


def make_run(storage: Storage, *, effective_batch: int = 4) -> None:
    """A run of 4 steps at step 3, with a picture, its list and something cached."""
    words = [*REQUIRED, "--max_train_steps", "4", "--seed", "3"]
    options = as_json(record(resolve(parse_train(words), recorded=None)))
    pins = Pins(base_model={"unet": "0"}, dataset="0" * 64)
    samples = {"effective_batch": effective_batch, "block_size": 4}
    mine = new_record(options=options, seed=3, **samples, pins=pins, numerics={"torch": "2"})
    write_record(storage, mine)
    storage.put_if_absent(f"inputs/{DIGEST}", PICTURE)
    storage.put_if_absent("inputs.json", b"{}")
    storage.put_if_absent(f"cache/{'a' * 64}.safetensors", b"latents")
    storage.put_if_absent("notes.txt", b"somebody else's")
    attempt = begin(storage)
    for step in (1, 2, 3):
        attempt.commit(step)
    attempt.stop()


@pytest.fixture
def source() -> MemoryStorage:
    storage = MemoryStorage()
    make_run(storage)
    return storage


def fork(source: Storage, target: Storage, step: str | None = "2", sets: Sequence[str] = ()) -> Forked:
    return fork_run(
        source,
        Place(storage=target, stage=Path("nowhere"), flag="--to new"),
        step=step,
        given=parse_train([f"--{one}" for one in sets]),
        waiting=Waiting(tell=lambda _text: None, sleep=lambda _seconds: None),
    )


def test_a_fork_is_a_run_of_its_own_that_begins_at_the_checkpoint(source: MemoryStorage) -> None:
    target = MemoryStorage()
    forked = fork(source, target)
    assert (forked.step, forked.folder, forked.is_new) == (2, "checkpoint-2", True)
    log, made, origin = read_log(target), read_record(target), read_record(source)
    assert made is not None
    assert origin is not None
    assert made.run_id != origin.run_id
    assert (made.options, made.pins, made.numerics, made.seed) == (
        origin.options, origin.pins, origin.numerics, origin.seed,
    )  # fmt: skip
    assert made.forked_from is not None
    assert (made.forked_from.run_id, made.forked_from.step) == (origin.run_id, 2)
    assert [entry.body.kind for entry in log.entries] == ["adopt", "checkpoint", "stopped"]
    copied = {key: body for key, body in target.objects.items() if not key.startswith(("log/", "status/", "run.json"))}
    assert copied == {
        key: body for key, body in source.objects.items() if key.startswith(("checkpoint-2/", "inputs", "cache/"))
    }
    assert [attempt.ending for attempt in read_history(target)] == ["command"]
    begin(target).train_to_the_end()
    check_finished(target)


class Trained(FaultyStorage):
    """Heartbeats don't count: they come from a thread of their own, whenever it gets its turn."""

    def write(self, key: str, parts: Sequence[Body], *, durable: bool = True) -> None:
        if key.startswith("status/"):
            self.inner.write(key, parts, durable=durable)
        else:
            super().write(key, parts, durable=durable)


@pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER])
def test_killed_at_any_call_nothing_is_half_believed_and_the_same_command_ends_it(
    source: MemoryStorage, fault: Fault
) -> None:
    for at in itertools.count(1):
        target = MemoryStorage()
        faulty = Trained(target, at=at, fault=fault)
        try:
            fork(source, faulty)
        except Died:
            made, log = read_record(target), read_log(target)
            if made is not None and not log.line:
                place = Place(storage=target, stage=Path("nowhere"), flag="--output_dir new")
                with pytest.raises(RefusedToGoOn, match="this fork was interrupted before its checkpoint was copied"):
                    refuse_half_a_fork(Home(place=place, record=made, log=log))
        fork(source, target)
        (number,) = read_log(target).line
        begin(target).train_to_the_end()
        check_finished(target)
        assert read_log(target).commit(number).step == 2
        if faulty.went_wrong is None:
            break
    assert at > 20


def test_the_same_command_again_is_told_that_it_is_done(source: MemoryStorage) -> None:
    target = MemoryStorage()
    fork(source, target)
    before = dict(target.objects)
    assert not fork(source, target).is_new
    assert target.objects == before
    begin(target).commit(3)
    assert not fork(source, target).is_new


@pytest.mark.parametrize(("step", "sets"), [("3", ()), ("2", ("learning_rate=5e-5",))])
def test_a_home_that_holds_another_run_is_refused(source: MemoryStorage, step: str, sets: Sequence[str]) -> None:
    target = MemoryStorage()
    fork(source, target)
    before = dict(target.objects)
    with pytest.raises(BadInput, match="holds a run already, and not this fork"):
        fork(source, target, step, sets)
    with pytest.raises(BadInput, match="holds a run already, and not this fork"):
        fork(source, source)
    assert target.objects == before


def test_options_are_those_of_the_checkpoints_time_and_those_that_are_set(source: MemoryStorage) -> None:
    log = read_log(source)
    assert log.last is not None
    state = log.last.state.model_copy(update={"changed_options": {"lora_dropout": 0.5}})
    put_entry(source, make_entry(number=log.next_number, attempt=1, body=log.last.body, state=state))
    target = MemoryStorage()
    fork(
        source,
        target,
        "3",
        ["learning_rate=5e-5", "seed=9", "train_batch_size=2", "lr_scheduler=cosine", "lr_warmup_steps=1"],
    )
    made = read_record(target)
    assert made is not None
    assert (made.seed, made.effective_batch) == (9, 2)
    assert (made.options["learning_rate"], made.options["seed"], made.options["lora_dropout"]) == (5e-5, 9, 0.0)
    (attempt,) = read_history(target)
    assert {change.name: change.after for change in attempt.changes} == {
        "learning_rate": 5e-5, "seed": 9, "train_batch_size": 2, "lr_scheduler": "cosine", "lr_warmup_steps": 1,
    }  # fmt: skip


@pytest.mark.parametrize("one", ["rank=8", "instance_prompt=a cat", "optimizer=prodigy"])
def test_what_the_checkpoint_does_not_fit_is_refused(source: MemoryStorage, one: str) -> None:
    target = MemoryStorage()
    with pytest.raises(BadInput, match="a fork keeps it"):
        fork(source, target, sets=[one])
    assert not target.objects


def test_fewer_steps_than_the_checkpoint_has_are_refused(source: MemoryStorage) -> None:
    with pytest.raises(BadInput, match="checkpoint-2 has made 2 steps already"):
        fork(source, MemoryStorage(), sets=["max_train_steps=1"])


def test_a_damaged_checkpoint_is_not_copied_and_a_sound_one_ends_the_fork(source: MemoryStorage) -> None:
    key, target = "checkpoint-2/trainer_state.safetensors", MemoryStorage()
    sound = source.objects[key]
    source.objects[key] = b"x" + sound[1:]
    with pytest.raises(CheckpointDamaged, match="is not what was written"):
        fork(source, target)
    assert not read_log(target).line
    source.objects[key] = sound
    assert fork(source, target).is_new
    assert read_log(target).commit(read_log(target).line[0]).folder == "checkpoint-2-a2"
    assert not [key for key in target.objects if key.startswith("checkpoint-2/")], "what was half copied is cleared"


def test_a_step_that_is_not_there_is_named(source: MemoryStorage) -> None:
    with pytest.raises(BadInput, match="7 is no checkpoint of this run"):
        fork(source, MemoryStorage(), "7")


def change_the_last_state(source: MemoryStorage, **changed: object) -> None:
    entry = read_log(source).entries[3]
    source.delete("log/00000004.json")
    put_entry(source, entry.model_copy(update={"state": entry.state.model_copy(update=changed)}))


def test_the_segments_go_along(source: MemoryStorage) -> None:
    change_the_last_state(source, segments=(SEGMENT,))
    target = MemoryStorage()
    fork(source, target, "3")
    last = read_log(target).last
    assert last is not None
    assert last.state.segments == (SEGMENT,)


@pytest.mark.parametrize(("sets", "size"), [((), 3), (("train_batch_size=5", "gradient_accumulation_steps=2"), 2)])
def test_what_fitted_into_memory_goes_along_as_a_size_that_divides_the_batch(
    sets: Sequence[str], size: int, source: MemoryStorage
) -> None:
    record = read_record(source)
    assert record is not None
    source.delete("run.json")
    options = {**record.options, "train_batch_size": 6}
    write_record(source, record.model_copy(update={"options": options, "effective_batch": 6}))
    smaller = SmallerMicroBatch(size=3, from_step=2, attempt=1, device_memory_bytes=None)
    change_the_last_state(source, smaller_micro_batch=smaller)
    target = MemoryStorage()
    fork(source, target, "3", sets)
    last = read_log(target).last
    assert last is not None
    assert last.state.smaller_micro_batch == smaller.model_copy(update={"size": size, "attempt": 0})
    assert last.state.smaller_micro_batch is not None
    assert last.state.smaller_micro_batch.who == "the run that this one began from"


@pytest.mark.parametrize("is_old", [False, True])
def test_other_portions_of_a_step_leave_the_blocks_as_they_were(is_old: bool, source: MemoryStorage) -> None:
    if is_old:
        record = read_record(source)
        assert record is not None
        source.delete("run.json")
        write_record(source, record.model_copy(update={"block_size": None}))
    first, second = MemoryStorage(), MemoryStorage()
    fork(source, first, sets=["train_batch_size=2", "gradient_accumulation_steps=2"])
    fork(first, second, sets=["train_batch_size=1", "gradient_accumulation_steps=4"])
    for target in (first, second):
        made = read_record(target)
        assert made is not None
        assert (made.block_size, made.samples_a_block) == (4, 4)


def test_a_run_that_two_processes_began_counts_them_whatever_number_goes_on() -> None:
    source, target = MemoryStorage(), MemoryStorage()
    make_run(source, effective_batch=8)
    fork(source, target, sets=["train_batch_size=2", "num_processes=3"])
    made = read_record(target)
    assert made is not None
    assert (made.effective_batch, made.processes_at_start) == (4, 2)


def test_the_command_says_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(LocalStorage(tmp_path / "dog"))
    words = ["fork", str(tmp_path / "dog"), "--to", str(tmp_path / "new"), "--set", "learning-rate=5e-5"]
    assert main(words) == 0
    assert f"begins at step 3 of {tmp_path / 'dog'}" in (told := capsys.readouterr().out)
    assert f"Go on: dbr train --output_dir {tmp_path / 'new'} --resume latest" in told
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forked"]["is_new"] is False
    assert main([*words, "--step", "2"]) == 2
    assert main(["fork", str(tmp_path / "dog"), "--to", str(tmp_path / "third"), "--set", "learning_rate"]) == 2
    assert "an option is set as NAME=VALUE" in capsys.readouterr().err


def test_a_training_of_half_a_fork_is_refused_with_the_command_that_ends_it(tmp_path: Path) -> None:
    make_run(LocalStorage(tmp_path / "dog"))
    target = LocalStorage(tmp_path / "new")
    with pytest.raises(Died):
        fork(LocalStorage(tmp_path / "dog"), FaultyStorage(target, at=6, fault=Fault.DIES_AFTER))
    assert read_record(target) is not None
    assert main(["train", "--output_dir", str(target.root), "--resume", "latest"]) == 78


def test_forking_needs_no_heavy_library(tmp_path: Path) -> None:
    make_run(LocalStorage(tmp_path / "dog"))
    words = ["fork", str(tmp_path / "dog"), "--to", str(tmp_path / "new")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "heavy: 0 []", done.stderr
