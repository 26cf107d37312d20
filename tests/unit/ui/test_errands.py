"""What a visitor waits for: one at a time, ended when nobody waits any more, and with all that it started."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dreambooth_resume.ui.errand_parts import last_words, under_way, without_result
from dreambooth_resume.ui.errands import UNWATCHED_SECONDS, Errand, Errands
from tests.unit.ui.test_markup import HOSTILE, assert_harmless

PROGRAM = """
import os, pathlib, subprocess, sys, time
words = sys.argv[1:]
print("begun", file=sys.stderr, flush=True)
if words[0] == "say":
    print(words[1], os.environ.get("DBR_TEST_WORD", "-"))
if words[0] == "fail":
    print("dbr: it went wrong", file=sys.stderr)
    sys.exit(2)
if words[0] == "wait":
    inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path(words[1]).write_text(f"{os.getpid()} {inner.pid}")
    time.sleep(600)
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def errands(clock: Clock) -> Iterator[Errands]:
    environment = {**os.environ, "DBR_TEST_WORD": "of the user"}
    made = Errands(environment=environment, program=(sys.executable, "-S", "-c", PROGRAM), monotonic=clock)
    yield made
    made.close()


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def looked(errands: Errands, name: str | None) -> Errand:
    assert name is not None
    found = errands.look(name)
    assert found is not None
    return found


def begun(errands: Errands, folder: Path, *, tab: str = "") -> tuple[str, list[int]]:
    """One that runs until it is ended, and its processes."""
    file = folder / "pids"
    name = errands.begin(["wait", str(file)], tab=tab)
    assert name is not None
    until(lambda: file.is_file() and len(file.read_text().split()) == 2)
    return name, [int(pid) for pid in file.read_text().split()]


def are_gone(pids: list[int]) -> bool:
    """A zombie counts: who reaps an orphan, and when, is the system's affair."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def test_they_take_turns_and_say_what_was_printed_in_the_users_environment(errands: Errands, tmp_path: Path) -> None:
    first, pids = begun(errands, tmp_path)
    second = errands.begin(["say", "; touch hacked"])
    assert (looked(errands, first).state, looked(errands, first).lines) == ("running", ("begun",))
    waits = looked(errands, second)
    assert (waits.state, waits.ahead) == ("waiting", 1)
    assert "1 before it" in under_way(waits, what="Painting")
    errands.end(first)
    until(lambda: looked(errands, second).is_over)
    done = looked(errands, second)
    assert (done.state, done.output) == ("done", "; touch hacked of the user\n")
    assert looked(errands, first).state == "ended"
    until(lambda: are_gone(pids))  # with all that it started
    assert errands.look("another") is None


def test_nobody_looks_any_more_and_it_ends(errands: Errands, clock: Clock, tmp_path: Path) -> None:
    name, pids = begun(errands, tmp_path)
    clock.now = UNWATCHED_SECONDS - 1
    looked(errands, name)
    clock.now += UNWATCHED_SECONDS - 1
    assert not are_gone(pids)
    clock.now += 2
    until(lambda: are_gone(pids))
    until(lambda: looked(errands, name).state == "ended")


def test_a_closed_tab_ends_its_own_after_a_moment_for_it_to_come_back(
    errands: Errands, clock: Clock, tmp_path: Path
) -> None:
    name, pids = begun(errands, tmp_path, tab="mine")
    errands.leave("another")
    clock.now = 11.0
    errands.leave("mine")
    looked(errands, name)  # it came back
    clock.now = 30.0
    assert not are_gone(pids)
    errands.leave("mine")
    clock.now = 41.0
    until(lambda: are_gone(pids))


def test_a_tab_that_asks_again_ends_what_it_asked_for_before(errands: Errands, tmp_path: Path) -> None:
    first, pids = begun(errands, tmp_path, tab="mine")
    other = errands.begin(["say", "other"], tab="another")
    second = errands.begin(["say", "second"], tab="mine")
    until(lambda: looked(errands, second).is_over)
    assert [looked(errands, one).state for one in (first, other, second)] == ["ended", "done", "done"]
    until(lambda: are_gone(pids))


def test_one_that_waits_and_is_left_never_begins_and_the_queue_has_an_end(errands: Errands, tmp_path: Path) -> None:
    _, pids = begun(errands, tmp_path)
    waiting = [errands.begin(["say", str(number)]) for number in range(21)]
    assert waiting[-1] is None
    assert waiting[0] is not None
    errands.end(waiting[0])
    assert looked(errands, waiting[0]).state == "ended"
    errands.close()
    until(lambda: are_gone(pids))
    assert errands.begin(["say", "late"]) is None


def test_a_failure_is_told_in_its_own_words(errands: Errands) -> None:
    name = errands.begin(["fail"])
    until(lambda: looked(errands, name).is_over)
    failed = looked(errands, name)
    assert failed.state == "failed"
    assert "it went wrong" in without_result(failed)


def test_a_bug_is_told_without_its_traceback_and_hostile_words_stay_text() -> None:
    lines = ("Traceback (most recent call last):", '  File "x.py"', "KeyError: 'rank'", "dbr: this is a bug in dbr")
    bug = Errand(id="1", words=("doctor", HOSTILE), state="failed", ahead=0, lines=lines, output="", seconds=1.0)
    assert last_words(bug) == lines[2:]
    hostile = Errand(id="1", words=(HOSTILE,), state="failed", ahead=0, lines=(HOSTILE,), output=HOSTILE, seconds=1.0)
    assert_harmless(without_result(hostile) + under_way(hostile, what="Painting"))
