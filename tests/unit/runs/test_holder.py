"""Rule 4: when is the attempt that holds a run thought gone?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dreambooth_resume.errors import AccessDenied, HolderAlive, StorageUnavailable
from dreambooth_resume.runs.entries import Process
from dreambooth_resume.runs.holder import SILENCE_SECONDS, Patience, is_known_gone, this_process, wait_until_free
from dreambooth_resume.runs.home import status_key
from dreambooth_resume.runs.log import make_entry, put_entry
from tests.fakes.logs import NOTHING_YET, adopt, commit, finished, put_log, stopped
from tests.fakes.memory_storage import MemoryStorage

pytestmark = pytest.mark.quick

ME = Process(host="me", boot_id="my boot", pid_namespace="pid:[2]", pid=1, started="1")


@dataclass
class Clock:
    """Time that passes only while somebody sleeps; `then` says what happens meanwhile."""

    now: float = 1000.0
    sleeps: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def meanwhile(self) -> None:
        """What others do during a sleep."""

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        self.meanwhile()

    def patience(self, *, wait_seconds: float = 600.0, take_over: bool = False, **more: object) -> Patience:
        return Patience(
            wait_seconds=wait_seconds,
            take_over=take_over,
            monotonic=lambda: self.now,
            sleep=self.sleep,
            tell=self.told.append,
            should_stop=more.get("should_stop", lambda: False),  # type: ignore[arg-type]
        )


class Beating(Clock):
    """A holder that lives until `until`, on another machine, whose wall clock says anything."""

    def __init__(self, storage: MemoryStorage, *, attempt: int = 1, until: float = 1e9) -> None:
        super().__init__()
        self.storage, self.attempt, self.until = storage, attempt, until
        self.beats = 0

    def meanwhile(self) -> None:
        if self.now < self.until:
            self.beats += 1
            self.storage.objects[status_key(self.attempt)] = f"beat {self.beats // 10}".encode()


def test_a_run_that_nobody_trained_is_free() -> None:
    log, reason = wait_until_free(MemoryStorage(), mine=ME, patience=Clock().patience())
    assert (log.entries, reason) == ((), "nobody has trained this run yet")


@pytest.mark.parametrize("last", [stopped(), finished(2)], ids=["stopped", "finished"])
def test_a_holder_that_said_goodbye_is_gone_at_once(last: object) -> None:
    storage, clock = MemoryStorage(), Clock()
    written = put_log(storage, adopt(), commit(1), last)  # type: ignore[arg-type]
    log, reason = wait_until_free(storage, mine=ME, patience=clock.patience())
    assert log == written
    assert "stopped" in reason
    assert clock.sleeps == []


def test_a_stop_of_an_attempt_before_says_nothing_of_the_holder() -> None:
    storage, clock = MemoryStorage(), Clock()
    put_log(storage, adopt(), stopped(), adopt())
    with pytest.raises(HolderAlive):
        wait_until_free(storage, mine=ME, patience=clock.patience(wait_seconds=5))


def test_a_heartbeat_that_never_comes_is_waited_for_by_the_starters_own_clock() -> None:
    storage, clock = MemoryStorage(), Clock()
    put_log(storage, adopt())
    _, reason = wait_until_free(storage, mine=ME, patience=clock.patience())
    assert "no sign of life for 60 s" in reason
    assert SILENCE_SECONDS <= clock.now - 1000.0 < SILENCE_SECONDS + 2


def test_a_heartbeat_that_moves_keeps_the_run() -> None:
    storage = MemoryStorage()
    put_log(storage, adopt())
    clock = Beating(storage)
    with pytest.raises(HolderAlive, match="gpu-7, pid 7"):
        wait_until_free(storage, mine=ME, patience=clock.patience())
    assert 600.0 <= clock.now - 1000.0 < 602.0


def test_a_heartbeat_that_falls_silent_frees_the_run_60_s_later() -> None:
    storage = MemoryStorage()
    put_log(storage, adopt())
    clock = Beating(storage, until=1200.0)
    wait_until_free(storage, mine=ME, patience=clock.patience())
    assert 1200.0 + SILENCE_SECONDS - 10 < clock.now < 1200.0 + SILENCE_SECONDS + 2


def test_what_the_heartbeat_says_of_the_time_decides_nothing() -> None:
    storage = MemoryStorage()
    put_log(storage, adopt())
    storage.objects[status_key(1)] = b'{"updated_at": "1970-01-01T00:00:00+00:00"}'
    with pytest.raises(HolderAlive):
        wait_until_free(storage, mine=ME, patience=Clock().patience(wait_seconds=SILENCE_SECONDS - 5))


def test_a_stop_while_we_wait_frees_the_run_with_the_log_that_says_so() -> None:
    storage = MemoryStorage()
    put_log(storage, adopt(), commit(1))
    clock = Beating(storage)

    def stop_after_a_while() -> None:
        if len(clock.sleeps) == 5:
            put_entry(storage, make_entry(number=3, attempt=1, body=stopped(), state=NOTHING_YET))

    clock.meanwhile = stop_after_a_while  # type: ignore[method-assign]
    log, _ = wait_until_free(storage, mine=ME, patience=clock.patience())
    assert len(clock.sleeps) == 5
    assert log.next_number == 4


def test_a_new_holder_gets_its_own_60_s() -> None:
    storage = MemoryStorage()
    put_log(storage, adopt())
    clock = Clock()

    def somebody_adopts_just_before_we_would() -> None:
        if clock.now > 1050.0 and len(storage.objects) == 1:
            put_entry(storage, make_entry(number=2, attempt=2, body=adopt(), state=NOTHING_YET))

    clock.meanwhile = somebody_adopts_just_before_we_would  # type: ignore[method-assign]
    log, reason = wait_until_free(storage, mine=ME, patience=clock.patience())
    assert clock.now >= 1050.0 + SILENCE_SECONDS
    assert "attempt 2" in reason
    assert log.next_number == 3


def test_take_over_asks_nobody() -> None:
    storage, clock = MemoryStorage(), Clock()
    put_log(storage, adopt())
    _, reason = wait_until_free(storage, mine=ME, patience=clock.patience(take_over=True))
    assert "--take-over" in reason
    assert clock.sleeps == []


def test_the_process_that_holds_the_run_need_not_wait_for_itself() -> None:
    storage, clock = MemoryStorage(), Clock()
    put_log(storage, adopt(process=ME))
    assert "this process" in wait_until_free(storage, mine=ME, patience=clock.patience())[1]
    assert clock.sleeps == []


def test_waiting_is_told_once_and_says_what_to_do() -> None:
    storage, clock = MemoryStorage(), Clock()
    put_log(storage, adopt())
    wait_until_free(storage, mine=ME, patience=clock.patience())
    assert len(clock.told) == 1
    assert "gpu-7" in clock.told[0]
    assert "--take-over" in clock.told[0]


def test_many_starters_do_not_look_in_step() -> None:
    storage, clock = MemoryStorage(), Clock()
    put_log(storage, adopt())
    wait_until_free(storage, mine=ME, patience=clock.patience())
    assert len(set(clock.sleeps)) > len(clock.sleeps) / 2
    assert 0 < min(clock.sleeps) <= max(clock.sleeps) <= 2.0


def test_a_notice_ends_the_waiting() -> None:
    storage, clock = MemoryStorage(), Clock()
    put_log(storage, adopt())
    with pytest.raises(HolderAlive):
        wait_until_free(storage, mine=ME, patience=clock.patience(should_stop=lambda: clock.now > 1010.0))
    assert clock.now < 1015.0


@pytest.mark.parametrize("error", [AccessDenied("403"), StorageUnavailable("503")])
def test_a_heartbeat_that_cannot_be_read_is_not_silence(error: Exception) -> None:
    storage = MemoryStorage()
    put_log(storage, adopt())

    def answer(call: str, key: str) -> None:
        if key.startswith("status/"):
            raise error

    storage.before = answer
    with pytest.raises(type(error)):
        wait_until_free(storage, mine=ME, patience=Clock().patience())


def changed(process: Process, **values: object) -> Process:
    return process.model_copy(update=values)


def test_this_process_lives() -> None:
    assert not is_known_gone(this_process())
    assert this_process() == this_process()


def test_a_reused_pid_is_another_process() -> None:
    assert is_known_gone(changed(this_process(), started="12345"))


@pytest.mark.parametrize("elsewhere", [{"boot_id": "other"}, {"pid_namespace": "pid:[7]"}])
def test_of_a_process_on_another_boot_or_in_another_namespace_nothing_is_known(elsewhere: dict[str, str]) -> None:
    assert not is_known_gone(changed(this_process(), started="12345", **elsewhere))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here: there a clock that is set can mislead")
def test_the_start_is_told_in_ticks_since_boot_and_not_by_the_wall_clock() -> None:
    """psutil adds the boot's moment by the wall clock, so it told of another process after the clock was set."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 < int(this_process().started) / os.sysconf("SC_CLK_TCK") <= uptime + 1


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], Process]]:
    """A process that waits, and what it says of itself."""
    program = (
        "import sys; from dreambooth_resume.runs.holder import this_process\n"
        "print(this_process().model_dump_json(), flush=True); sys.stdin.read()"
    )
    path = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert process.stdout is not None
        yield process, Process.model_validate_json(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def test_a_process_is_known_gone_from_its_death_on_even_unreaped(child: tuple[subprocess.Popen[str], Process]) -> None:
    running, process = child
    assert not is_known_gone(process)
    os.kill(running.pid, signal.SIGSTOP)
    assert not is_known_gone(process), "a frozen process may wake"
    os.kill(running.pid, signal.SIGKILL)
    for _ in range(500):
        if is_known_gone(process):
            break
        time.sleep(0.01)
    assert Path(f"/proc/{running.pid}").exists(), "it is a zombie: nobody has waited for it"
    assert is_known_gone(process)
    running.wait()
    assert is_known_gone(process)


def test_a_starter_on_the_same_boot_takes_a_dead_holders_run_at_once(
    child: tuple[subprocess.Popen[str], Process],
) -> None:
    running, process = child
    storage, clock = MemoryStorage(), Clock()
    put_log(storage, adopt(process=process))
    running.kill()
    running.wait()
    _, reason = wait_until_free(storage, mine=this_process(), patience=clock.patience())
    assert "no more" in reason
    assert clock.sleeps == []
