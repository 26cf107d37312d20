"""Turns on a machine: first come, first served, and the places of the dead are free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dreambooth_resume.launch.queue import Gpu, Place, gpus_here, gpus_named, only_one, waiting_turn

HOLDER = """
import sys, time
from pathlib import Path
from dreambooth_resume.launch.queue import gpus_named, waiting_turn
with waiting_turn(Path(sys.argv[1]), gpus_named("0"), told_to_leave=lambda: False, tell=print) as place:
    print("has", place.name, flush=True)
    if len(sys.argv) > 2:
        import subprocess
        child = subprocess.Popen(["sleep", "60"], pass_fds=place.descriptors, stdout=subprocess.DEVNULL)
        print(child.pid, flush=True)
    time.sleep(60)
"""


def hold(folder: Path, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "has 0\n"
    return process


def taken_at_once(folder: Path, gpus: tuple[str, ...]) -> str | None:
    """The name of the place that is free now, if there is one."""
    with waiting_turn(folder, gpus_named(*gpus), told_to_leave=lambda: True, tell=lambda _text: None) as place:
        return place.name if place else None


def test_one_run_for_each_gpu(tmp_path: Path) -> None:
    def enter(number: int) -> None:
        with waiting_turn(tmp_path, gpus_named("0", "1"), told_to_leave=end.is_set, tell=told.append) as place:
            places[number] = place
            end.wait(30)

    end, told = threading.Event(), list[str]()
    places: dict[int, Place | None] = {}
    threads = [threading.Thread(target=enter, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    while len(places) < 2:
        time.sleep(0.01)
    assert taken_at_once(tmp_path, ("0", "1")) is None
    end.set()
    for thread in threads:
        thread.join()
    assert sorted(place.name for place in places.values() if place) == ["0", "1"]
    assert {place.environment["CUDA_VISIBLE_DEVICES"] for place in places.values() if place} == {"0", "1"}
    assert taken_at_once(tmp_path, ("0", "1")) == "0"


def test_several_gpus_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    def taken(wanted: int) -> str | None:
        with waiting_turn(
            tmp_path, gpus_named("0", "1", "2"), wanted=wanted, told_to_leave=lambda: True, tell=lambda _text: None
        ) as place:
            return place.name if place else None

    assert taken(2) == "0,1"
    assert taken(5) == "0,1,2"  # all that there are
    holder = hold(tmp_path)
    assert (taken(2), taken(3), taken(1)) == ("1,2", None, "1")
    holder.kill()
    holder.wait()


def test_a_machine_without_a_gpu_is_one_place(tmp_path: Path) -> None:
    with waiting_turn(tmp_path, (), told_to_leave=lambda: False, tell=print) as place:
        assert place is not None
        assert place.environment == {}
        assert taken_at_once(tmp_path, ()) is None


def test_who_is_killed_leaves_its_place(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    assert taken_at_once(tmp_path, ("0",)) is None
    holder.kill()
    holder.wait()
    assert taken_at_once(tmp_path, ("0",)) == "0"


def test_a_training_keeps_its_gpu_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    holder = hold(tmp_path, "with a child")
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    try:
        assert taken_at_once(tmp_path, ("0",)) is None
    finally:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while taken_at_once(tmp_path, ("0",)) is None:
        assert time.monotonic() < deadline


def test_first_come_first_served_past_the_dead(tmp_path: Path) -> None:
    order: list[int] = []

    def enter(number: int) -> None:
        with waiting_turn(
            tmp_path, (), told_to_leave=lambda: False, tell=lambda _text: waiting[number].set(), sleep=sleep
        ):
            order.append(number)

    def sleep(_seconds: float) -> None:
        time.sleep(0.01)

    waiting = [threading.Event() for _ in range(3)]
    threads = [threading.Thread(target=enter, args=(number,)) for number in range(3)]
    with waiting_turn(tmp_path, (), told_to_leave=lambda: False, tell=print) as first:
        assert first is not None
        (tmp_path / "queue" / "00000000000000000001-7").touch()  # of somebody who died while waiting
        for number, thread in enumerate(threads):
            thread.start()
            assert waiting[number].wait(10)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]
    assert list((tmp_path / "queue").iterdir()) == []


def test_the_second_is_told_that_it_is_the_second(tmp_path: Path) -> None:
    with only_one(tmp_path / "a.lock") as first, only_one(tmp_path / "a.lock") as second:
        assert (first, second) == (True, False)
    with only_one(tmp_path / "a.lock") as third:
        assert third is True


@pytest.mark.parametrize(
    ("value", "expected"), [("0,2", ("0", "2")), ("", ()), ("-1", ()), ("GPU-1a2b", ("GPU-1a2b",))]
)
def test_gpus_are_those_that_may_be_used(
    value: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert gpus_here() == gpus_named(*expected)


def test_a_container_that_sees_one_gpu_of_several_locks_the_hosts_and_uses_cudas_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for number, seen in ((3, ("nvidia3",)), (5, ("nvidia5", "nvidia10"))):
        devices = tmp_path / str(number)
        devices.mkdir()
        for name in (*seen, "nvidiactl", "nvidia-uvm", "null"):
            (devices / name).touch()
    alone, two = gpus_here(tmp_path / "3"), gpus_here(tmp_path / "5")
    assert alone == (Gpu(lock="3", visible="0"),)
    assert two == (Gpu(lock="5", visible="0"), Gpu(lock="10", visible="1"))
    state = tmp_path / "state"
    with waiting_turn(state, alone, told_to_leave=lambda: True, tell=print) as place:
        assert place is not None
        assert place.environment == {"CUDA_VISIBLE_DEVICES": "0"}
        assert (state / "places" / "3.lock").exists()
        # Another container of the host with the same folder: its first GPU is another one, and free.
        with waiting_turn(state, two, wanted=2, told_to_leave=lambda: True, tell=print) as others:
            assert others is not None
            assert others.environment == {"CUDA_VISIBLE_DEVICES": "0,1"}
        with waiting_turn(state, alone, told_to_leave=lambda: True, tell=print) as second:
            assert second is None
