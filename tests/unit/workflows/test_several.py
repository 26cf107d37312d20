"""How many processes there are, by options, by GPUs, and by what torchrun or `accelerate launch` say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.config.load import GivenOptions, parse_train
from dreambooth_resume.errors import BadInput
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.home import Home, find_place, open_home
from dreambooth_resume.workflows.several import (
    _seeing_gpu,
    as_launched,
    is_one_too_many,
    processes_for,
)
from tests.fakes.watched_run import record_run

pytestmark = pytest.mark.quick

OF_TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "1"}


def given(*words: str) -> GivenOptions:
    return parse_train(words)


def home_at(folder: Path) -> Home:
    return open_home(find_place(given("--output_dir", str(folder))))


def test_of_the_processes_of_torchrun_the_first_trains_with_as_many() -> None:
    environment = dict(OF_TORCHRUN)
    assert not is_one_too_many(environment)
    assert is_one_too_many({**environment, "RANK": "1", "LOCAL_RANK": "1"})
    launched = as_launched(given("--rank", "8"), environment)
    assert launched.value("num_processes") == 2
    assert launched.sources["num_processes"] == "WORLD_SIZE"
    # accelerate would wait for processes that never come.
    assert environment == {"MASTER_PORT": "1"}


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "", "LOCAL_RANK": "-1"}])
def test_one_process_is_left_as_it_is(environment: dict[str, str]) -> None:
    options = given("--num_processes", "3")
    assert not is_one_too_many(environment)
    assert as_launched(options, environment) is options
    assert environment == {}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**OF_TORCHRUN, "WORLD_SIZE": "4"}, "4 processes on several machines"),
        ({"WORLD_SIZE": "two"}, "'two' is no number of processes"),
    ],
)
def test_several_machines_and_no_numbers_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        is_one_too_many(environment)


def test_another_number_than_was_started_is_refused() -> None:
    with pytest.raises(BadInput, match="is 3, and 2 processes were started"):
        as_launched(given("--num_processes", "3"), dict(OF_TORCHRUN))
    assert as_launched(given("--num_processes", "2"), dict(OF_TORCHRUN)).value("num_processes") == 2


def chosen(home: Home, wanted: int, gpus: list[str], told: list[str], sources: Mapping[str, str] | None = None) -> int:
    return processes_for(home, wanted, sources or {}, tell=told.append, gpus_here=lambda: gpus)


def test_a_new_run_wants_a_gpu_for_each_process_and_a_resumed_one_takes_what_there_is(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    with pytest.raises(BadInput, match="4 processes want a GPU each, and 2 can be seen here"):
        chosen(home_at(tmp_path / "new"), 4, ["A100", "A100"], told)
    record_run(LocalStorage(tmp_path / "dog"))
    home = home_at(tmp_path / "dog")
    assert chosen(home, 4, ["A100", "A100"], told) == 2
    assert told == ["This machine has 2 GPUs, not 4: each computes more of a step. The result is the same."]


@pytest.mark.parametrize("source", ["run.yaml", "--num_processes", "WORLD_SIZE"])
def test_the_same_command_goes_on_with_fewer_gpus_wherever_it_names_their_number(tmp_path: Path, source: str) -> None:
    told: list[str] = []
    record_run(LocalStorage(tmp_path / "dog"))
    assert chosen(home_at(tmp_path / "dog"), 4, ["A100"], told, {"num_processes": source}) == 1
    assert told == ["This machine has 1 GPU, not 4: each computes more of a step. The result is the same."]


def test_without_a_gpu_any_number_computes_and_gpus_of_several_kinds_are_refused(tmp_path: Path) -> None:
    home = home_at(tmp_path / "new")
    assert chosen(home, 3, [], []) == 3
    assert chosen(home, 2, ["A100", "A100", "T4"], []) == 2
    assert chosen(home, 1, ["A100", "T4"], []) == 1
    with pytest.raises(BadInput, match=r"of several kinds \(A100, T4\)"):
        chosen(home, 3, ["A100", "A100", "T4"], [])


@pytest.mark.parametrize(("before", "within"), [(None, "1"), ("4,7", "7"), ("GPU-a, GPU-b", "GPU-b"), ("", "")])
def test_a_process_sees_the_gpu_of_its_number_among_those_that_process_0_sees(before: str | None, within: str) -> None:
    environment: Any = {} if before is None else {"CUDA_VISIBLE_DEVICES": before}
    unchanged = dict(environment)
    with _seeing_gpu(1, environment):
        assert environment == {"CUDA_VISIBLE_DEVICES": within}
    assert environment == unchanged


STARTS_A_PROCESS = """
import multiprocessing, signal
from dreambooth_resume.preemption.signals import EXIT_CODES
from dreambooth_resume.workflows.several import START_METHOD, _signals_held_back

with _signals_held_back():
    process = multiprocessing.get_context(START_METHOD).Process(target=int)
    process.start()
    print(signal.pthread_sigmask(signal.SIG_BLOCK, []) == set(EXIT_CODES))
process.join()
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_signals_stay_held_back_until_the_first_process_is_started() -> None:
    # In a process of its own: what lets them through is started once in the life of a process.
    done = subprocess.run(
        [sys.executable, "-c", STARTS_A_PROCESS], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["True", "set()"]
