"""Commands of the page: processes of their own, one at a time for each thing, as the user could type them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.ui.commands import Command, Commands

WAITING = """
import pathlib, sys, time
gate, mark = map(pathlib.Path, sys.argv[2:4])
mark.write_text("begun")
while sys.argv[1] == "wait" and not gate.exists():
    time.sleep(0.2)
print("it goes on", flush=True)
mark.write_text("to its end")
"""
"""A program that waits for a file, says something and leaves a mark."""
PROGRAM = (sys.executable, "-S", "-c", WAITING)


@pytest.fixture
def commands() -> Commands:
    return Commands()


def test_a_double_click_runs_one_command_and_its_words_reach_no_shell(commands: Commands, tmp_path: Path) -> None:
    place = f"{tmp_path}/$(touch {tmp_path}/hacked); echo"
    first = commands.begin(place, "look", ["runs", place])
    assert commands.begin(place, "look", ["runs", place]).id == first.id
    ended = commands.wait(first, seconds=120.0)
    assert ended.state == "failed"
    assert "there is no such folder" in ended.text
    assert not (tmp_path / "hacked").exists()
    assert commands.of(place) == (ended,)
    assert commands.begin(place, "look", ["runs", place]).id != first.id
    assert ended.typed.startswith("dbr runs '")


def test_what_it_said_is_kept_and_its_end_is_told() -> None:
    told: list[Command] = []
    commands = Commands(on_end=told.append)
    ended = commands.wait(commands.begin("dog", "help", ["options", "seed"]), seconds=120.0)
    assert (ended.state, "seed" in ended.text) == ("done", True)
    assert [one.id for one in told] == [ended.id]
    assert ended.ended_at is not None
    assert ended.ended_at >= ended.at
    assert commands.newest() == (ended,)


def test_a_command_has_the_users_environment_and_not_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib; pathlib.Path(os.environ['MARK']).write_text(os.environ.get('HF_HUB_OFFLINE', 'unset'))"
    )
    environment = {**os.environ, "MARK": str(tmp_path / "mark"), "PYTHONPATH": str(tmp_path)}
    del environment["HF_HUB_OFFLINE"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commands = Commands(environment=environment)
    commands.wait(commands.begin("dog", "help", ["--version"]), seconds=120.0)
    assert (tmp_path / "mark").read_text() == "unset"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Those that wait go on once it is there."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_stop_is_carried_out_while_long_commands_run_and_the_limit_is_told(gate: Path, tmp_path: Path) -> None:
    commands, mark = Commands(program=PROGRAM, at_once=9), tmp_path / "mark"
    long = [commands.begin(f"runs/{n}", "verify", ["wait", str(gate), str(mark)]) for n in range(9)]
    with pytest.raises(BadInput, match="run already"):
        commands.begin("runs/one-more", "verify", ["wait", str(gate), str(mark)])
    stopped = commands.wait(commands.begin("runs/0", "stop", ["go", str(gate), str(mark)]), seconds=60.0)
    assert (stopped.state, stopped.text) == ("done", "it goes on")
    assert {one.state for n in range(9) for one in commands.of(f"runs/{n}") if one.verb == "verify"} == {"running"}
    gate.touch()
    assert {commands.wait(one, seconds=60.0).state for one in long} == {"done"}


def test_the_same_verb_with_other_words_is_refused_and_not_dropped(gate: Path, tmp_path: Path) -> None:
    commands, words = Commands(program=PROGRAM), ["wait", str(gate), str(tmp_path / "mark")]
    first = commands.begin("dog", "resume", words)
    assert commands.begin("dog", "resume", words).id == first.id
    with pytest.raises(BadInput, match="being carried out already") as refused:
        commands.begin("dog", "resume", [*words, "--on", "slurm"])
    assert first.typed in refused.value.what
    assert len(commands.of("dog")) == 1
    gate.touch()
    commands.wait(first, seconds=60.0)
    assert commands.begin("dog", "resume", [*words, "--on", "slurm"]).id != first.id


@pytest.mark.parametrize("word", ["a\0b", "\ud800"])
def test_what_no_process_can_be_given_is_refused_and_blocks_nothing(word: str, tmp_path: Path) -> None:
    commands = Commands(program=PROGRAM)
    with pytest.raises(BadInput, match="no command can be given"):
        commands.begin("dog", "fork", ["go", word, str(tmp_path / "mark")])
    assert commands.of("dog") == ()
    words = ["go", "-", str(tmp_path / "mark")]
    assert commands.wait(commands.begin("dog", "fork", words), seconds=60.0).state == "done"


def test_a_command_that_breaks_the_pages_own_thread_has_failed_and_is_no_longer_running() -> None:
    commands = Commands(program=("a\0b",))  # no process can be made of it
    ended = commands.wait(commands.begin("dog", "stop", ["stop"]), seconds=60.0)
    assert (ended.state, commands.of("dog")) == ("failed", (ended,))


def test_the_page_ends_while_a_command_runs_and_the_command_goes_on_to_its_end(gate: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    page = f"""
import pathlib, sys, threading, time
from dreambooth_resume.ui.commands import Commands
commands = Commands(program=(sys.executable, "-S", "-c", {WAITING!r}))
one = commands.begin("dog", "verify", ["wait", {str(gate)!r}, {str(mark)!r}])
deadline = time.monotonic() + 60
while not pathlib.Path({str(mark)!r}).exists() and time.monotonic() < deadline:
    time.sleep(0.02)
print(commands.wait(one, seconds=0.0).state)
asks = threading.Thread(target=commands.wait, args=(one,), kwargs={{"seconds": 300.0}})  # as the API's functions do
asks.start()
commands.close()
"""
    ended = subprocess.run([sys.executable, "-c", page], capture_output=True, text=True, timeout=180.0, check=True)
    assert ended.stdout == "running\n"
    assert mark.read_text() == "begun"
    gate.touch()
    until(lambda: mark.read_text() == "to its end")
