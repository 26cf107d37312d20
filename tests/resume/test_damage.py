"""Damaged checkpoints are set aside with a reason and the one before is used; strangers' files disturb nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, log_of, result_digests

STATE = "trainer_state.safetensors"
WEIGHTS = "pytorch_lora_weights.safetensors"


def truncated(folder: Path) -> str:
    body = (folder / STATE).read_bytes()
    (folder / STATE).write_bytes(body[: len(body) // 2])
    return f"{STATE} has {len(body) // 2} of {len(body)} bytes"


def bit_flipped(folder: Path) -> str:
    body = bytearray((folder / STATE).read_bytes())
    body[len(body) // 2] ^= 1
    (folder / STATE).write_bytes(body)
    return f"{STATE} is not what was written"


def half_zeros(folder: Path) -> str:
    """A lost fsync: the size is right, the second half never came to the disk."""
    body = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(body[: len(body) // 2] + bytes(len(body) - len(body) // 2))
    return f"{WEIGHTS} is not what was written"


def emptied(folder: Path) -> str:
    (folder / STATE).write_bytes(b"")
    return f"{STATE} has 0 of"


def missing(folder: Path) -> str:
    (folder / "trainer_state.json").unlink()
    return "trainer_state.json is missing"


def swapped(folder: Path) -> str:
    """The files of another step: each is whole, none is of this checkpoint."""
    shutil.copytree(folder.with_name("checkpoint-2"), folder, dirs_exist_ok=True)
    return "is not what was written"


@pytest.fixture(scope="session")
def killed_at_four(bench: Bench) -> Path:
    """A run of 6 steps that was killed with checkpoints of steps 2 and 4."""
    home = bench.folder / "killed-at-four"
    assert bench.start(home, crash=CrashPoint(call="replace", path="checkpoint-6/trainer_state.json")).wait() == KILLED
    return home


@pytest.mark.parametrize("damage", [truncated, bit_flipped, half_zeros, emptied, missing, swapped])
def test_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(
    damage: Callable[[Path], str], bench: Bench, killed_at_four: Path, undisturbed: Undisturbed, home: Path
) -> None:
    shutil.copytree(killed_at_four, home)
    reason = damage(home / "checkpoint-4")
    resumed = bench.run(home)
    assert "Set aside: checkpoint-4: " in resumed.output()
    assert reason in resumed.output()
    assert "Resuming from checkpoint-2 (attempt 1, 3 files verified) as attempt 3: step 2 of 6." in resumed.output()
    assert (home / "checkpoint-4").is_dir(), "what is damaged is evidence: never deleted"
    assert [aside.folder for aside in log_of(home).set_aside.values()] == ["checkpoint-4"]
    assert result_digests(home) == undisturbed()


def test_nothing_valid_stops_with_the_reasons_and_never_begins_again(
    bench: Bench, killed_at_four: Path, home: Path
) -> None:
    shutil.copytree(killed_at_four, home)
    for folder in ("checkpoint-2", "checkpoint-4"):
        truncated(home / folder)
    process = bench.start(home)
    assert process.wait() == 78
    assert "checkpoints were committed and none can be used" in process.output()
    assert f"checkpoint-2: {STATE} has" in process.output()
    assert f"checkpoint-4: {STATE} has" in process.output()
    assert "begin a new run in another folder" in process.output()
    assert bench.start(home).wait() == 78


def test_stray_files_disturb_nothing(bench: Bench, killed_at_four: Path, undisturbed: Undisturbed, home: Path) -> None:
    shutil.copytree(killed_at_four, home)
    strays = [".DS_Store", "notes.txt", "checkpoint-6.tmp", "log/.DS_Store", "log/00000099.json.bak", "checkpoint-4/x"]
    for stray in strays:
        (home / stray).write_bytes(b"not ours")
    (home / "checkpoint-9").mkdir()
    (home / "checkpoint-latest").mkdir()
    bench.run(home)
    assert result_digests(home) == undisturbed()
    assert all((home / stray).read_bytes() == b"not ours" for stray in strays)


def test_log_with_a_gap_is_refused_and_not_begun_again(bench: Bench, killed_at_four: Path, home: Path) -> None:
    shutil.copytree(killed_at_four, home)
    (home / "log/00000002.json").unlink()
    process = bench.start(home)
    assert process.wait() == 78
    assert "log/00000002.json is missing, but log/00000003.json is there" in process.output()


def test_log_entry_that_cannot_be_read_is_refused(bench: Bench, killed_at_four: Path, home: Path) -> None:
    shutil.copytree(killed_at_four, home)
    (home / "log/00000003.json").write_bytes(b"{")
    process = bench.start(home)
    assert process.wait() == 78
    assert "log/00000003.json can't be read" in process.output()


def test_damaged_cache_and_inputs_are_found(
    bench: Bench, killed_at_four: Path, undisturbed: Undisturbed, home: Path
) -> None:
    shutil.copytree(killed_at_four, home)
    for entry in (home / "cache").iterdir():
        body = bytearray(entry.read_bytes())
        body[-1] ^= 1
        entry.write_bytes(body)
    bench.run(home)
    assert result_digests(home) == undisturbed()


def test_damaged_copy_of_a_picture_is_named(bench: Bench, killed_at_four: Path, home: Path) -> None:
    shutil.copytree(killed_at_four, home)
    copy = sorted((home / "inputs").iterdir())[0]
    copy.write_bytes(copy.read_bytes()[:-1])
    process = bench.start(home)
    assert process.wait() == 78
    assert "the run's own copy of this picture is damaged" in process.output()
