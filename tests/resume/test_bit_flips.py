"""A thousand bits flipped at random over the files of a checkpoint and the log: not one of them is believed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dreambooth_resume.checkpoint.reader import load_checkpoint
from dreambooth_resume.errors import CheckpointDamaged, RefusedToGoOn
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.resume.harness import Bench

FLIPS = 1000


@pytest.fixture(scope="module")
def trained(bench: Bench) -> tuple[dict[str, bytes], Log]:
    """What a short run left, and its log."""
    home = bench.folder / "bit-flips"
    bench.run(home, max_train_steps=2, checkpointing_steps=2)
    storage = LocalStorage(home)
    return {found.key: storage.read(found.key) for found in storage.list()}, read_log(storage)


def flipped(objects: dict[str, bytes], keys: list[str], chance: random.Random) -> tuple[str, MemoryStorage]:
    """A home like it with one bit flipped, every bit of `keys` as likely as any other, and where that was."""
    sizes = [len(objects[key]) for key in keys]
    key = chance.choices(keys, weights=sizes)[0]
    bit = chance.randrange(8 * len(objects[key]))
    body = bytearray(objects[key])
    body[bit // 8] ^= 1 << bit % 8
    storage = MemoryStorage()
    storage.objects = {**objects, key: bytes(body)}
    return f"{key}, bit {bit}", storage


def test_no_flipped_bit_of_a_checkpoint_is_loaded(trained: tuple[dict[str, bytes], Log]) -> None:
    objects, log = trained
    ref = ref_of(log, log.usable_line()[-1])
    keys, chance = [file.key for file in ref.files], random.Random(0)
    # The small files too, of which chance alone would hardly ever take one.
    tries = [[key] for key in keys for _ in range(FLIPS // 10)]
    tries += [keys] * (FLIPS - len(tries))
    for among in tries:
        where, storage = flipped(objects, among, chance)
        with pytest.raises(CheckpointDamaged):
            print(where, load_checkpoint(storage, ref))


def test_no_flipped_bit_of_the_log_or_the_runs_record_is_believed(trained: tuple[dict[str, bytes], Log]) -> None:
    """Refused, or (a blank between two words) read as what was written: never as anything else."""
    objects, log = trained
    chance = random.Random(1)
    record = read_record(flipped(objects, ["log/00000001.json"], chance)[1])
    keys = ["run.json", *(key for key in objects if key.startswith("log/"))]
    refused = 0
    for _ in range(FLIPS):
        where, storage = flipped(objects, keys, chance)
        try:
            assert (read_log(storage), read_record(storage)) == (log, record), f"{where} was believed"
        except RefusedToGoOn:
            refused += 1
    assert refused > FLIPS / 2


def test_a_run_with_a_flipped_bit_in_its_record_is_refused(bench: Bench, home: Path) -> None:
    """One digit of the learning rate, and everything would look right."""
    bench.run(home, max_train_steps=2)
    body = (home / "run.json").read_bytes()
    (home / "run.json").write_bytes(body.replace(b'"learning_rate": 0.001', b'"learning_rate": 0.003'))
    assert (home / "run.json").read_bytes() != body
    process = bench.start(home, max_train_steps=4)
    assert process.wait() == 78, process.output()
    assert "run.json can't be read (changed after it was written)" in process.output()
