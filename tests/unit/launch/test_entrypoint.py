"""The supervisor with a real process under it that ends as the test says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dreambooth_resume.launch.entrypoint import BY_HAND, Signals, Supervised, Supervisor, launch_here
from dreambooth_resume.launch.restart_rule import RESTARTS_WITHOUT_PROGRESS
from dreambooth_resume.launch.starts import count_start
from dreambooth_resume.launch.work import Evaluation, Training, Work
from dreambooth_resume.preemption.metadata import MetadataTrouble
from dreambooth_resume.runs.notes import read_notes
from dreambooth_resume.runs.notice import Notice
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin

# Notes its words, does what it is told to, and ends: with a code, or by a signal.
PROGRAM = """
import json, os, sys
from pathlib import Path
told = Path(sys.argv[1])
codes = json.loads(told.read_text())
with told.with_name("words.txt").open("a") as words:
    words.write(json.dumps(sys.argv[2:]) + "\\n")
code = codes.pop(0)
told.write_text(json.dumps(codes))
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""
ROOT = Path(__file__).parents[3]
NOTICE = Notice(source="AWS spot interruption", exit_code=75)


@dataclass
class Said:
    """A source of notices that says one thing after the other, and the last for ever."""

    answers: list[Notice | Exception | None]
    asked: int = 0
    name: str = "test"
    interval_seconds: float = 1.0

    def look(self) -> Notice | None:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Bench:
    """One supervised run whose processes end with `codes`."""

    folder: Path
    storage: MemoryStorage = field(default_factory=MemoryStorage)
    told: list[str] = field(default_factory=list)
    now: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def supervise(
        self,
        codes: Sequence[int],
        *,
        words: tuple[str, ...] = (),
        work: Work | None = None,
        sources: Sequence[Said] = (),
        boot: str = "boot",
        limit_seconds: float | None = None,
        signals: Signals | None = None,
    ) -> int:
        (self.folder / "codes.json").write_text(json.dumps(list(codes)))
        (self.folder / "program.py").write_text(PROGRAM)
        run = Supervised(
            home="home",
            storage=self.storage,
            work=work or Training(words=words),
            launch_id="launch",
            boot_id=boot,
            sources=sources,
            tell=self.told.append,
            last_output=lambda: "ZeroDivisionError: division by zero",
            program=(sys.executable, str(self.folder / "program.py"), str(self.folder / "codes.json")),
            limit_seconds=limit_seconds,
            monotonic=lambda: self.now,
            sleep=self.sleep,
        )
        return Supervisor(run=run, signals=signals or Signals()).supervise()

    @property
    def starts(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "words.txt").read_text().splitlines()]

    @property
    def left(self) -> list[int]:
        """The codes of the starts that were not made."""
        left: list[int] = json.loads((self.folder / "codes.json").read_text())
        return left


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_it_is_started_again_until_it_is_finished(bench: Bench) -> None:
    assert bench.supervise([75, -9, 0]) == 0
    assert bench.starts == [["train", "--resume", "latest"]] * 3
    assert bench.told[-1] == "killed by signal 9: starting again in 4 s."


@pytest.mark.parametrize("code", [2, 76, 77, 78, 79])
def test_what_nobody_restarts_is_its_own_exit_code(code: int, bench: Bench) -> None:
    assert bench.supervise([code, 0]) == code
    assert bench.left == [0]


def test_a_crash_is_noted_with_the_last_line_of_its_output(bench: Bench) -> None:
    bench.supervise([70, 75, 0])
    (note,) = read_notes(bench.storage, "exit")
    assert note.text == "exit code 70 after step 0 was saved: ZeroDivisionError: division by zero"
    assert note.values == {"launch": "launch", "boot_id": "boot", "code": 70, "durable_step": 0}


def test_poisoned_it_goes_one_commit_back_and_asks_for_that_until_the_log_has_it(bench: Bench) -> None:
    attempt = begin(bench.storage)
    attempt.commit(1)
    attempt.commit(2)
    assert bench.supervise([-9, -9, -9, 75, 76]) == 76
    back = ["train", "--resume", "latest", "--resume", "1", "--resume_request_id", "poisoned-step-2"]
    assert bench.starts[3:] == [back, back]


def test_poisoned_with_nothing_to_go_back_to_it_ends_and_says_why(bench: Bench) -> None:
    assert bench.supervise([70, 70, 70, 0]) == 78
    assert bench.left == [0]
    assert bench.told[-1].startswith("Not started again: 3 crashes on this machine with the run at step 0")
    assert any(note.text.startswith("not started again") for note in read_notes(bench.storage, "exit"))


def test_crashes_are_counted_over_supervisors_of_one_launch_and_one_boot(bench: Bench) -> None:
    bench.supervise([70, 70, 76])
    assert bench.supervise([70, 0]) == 78
    assert bench.supervise([70, 0], boot="another") == 0, "a machine that was lost never counts"


def test_starts_without_progress_are_counted_over_supervisors_and_machines_until_the_run_gets_further(
    bench: Bench,
) -> None:
    attempt = begin(bench.storage)
    attempt.commit(1)
    for _ in range(RESTARTS_WITHOUT_PROGRESS - 2):
        count_start(bench.storage, "launch", durable_step=1)
    assert bench.supervise([75, 75, 0], boot="another machine") == 78
    assert bench.left == [0]
    assert bench.told[-1].startswith("Not started again: 500 starts in a row got the run no further than step 1")
    assert bench.supervise([75, 0]) == 0, "who starts it again on purpose begins anew"
    for _ in range(RESTARTS_WITHOUT_PROGRESS - 1):
        count_start(bench.storage, "launch", durable_step=1)
    attempt.commit(2)
    assert bench.supervise([75, 0]) == 0
    assert read_notes(bench.storage, "starts") == ()


def test_where_each_start_is_ended_by_the_platform_they_are_counted_too(bench: Bench) -> None:
    class Told(Signals):
        """A platform's TERM, as soon as the training has ended."""

        first = None

        @property
        def exit_code(self) -> int | None:
            return None if bench.left else 75

    for number in range(RESTARTS_WITHOUT_PROGRESS - 2):
        assert count_start(bench.storage, "launch", durable_step=0) == number + 1
    assert bench.supervise([75], signals=Told()) == 75
    assert bench.supervise([75], signals=Told()) == 78


def test_after_a_notice_nothing_is_started_until_it_is_withdrawn(bench: Bench) -> None:
    said = Said([None, NOTICE, NOTICE, NOTICE, None])
    assert bench.supervise([75, 0], sources=[said]) == 0
    assert said.asked == 5
    assert bench.now >= 15.0
    assert "AWS spot interruption: nothing is started on this machine until that is withdrawn." in bench.told
    assert "AWS spot interruption: withdrawn. Starting again." in bench.told


def test_into_a_notice_nothing_is_started_a_first_time_either(bench: Bench) -> None:
    assert bench.supervise([0], sources=[Said([NOTICE, NOTICE, None])]) == 0
    assert bench.now >= 10.0
    assert len(bench.starts) == 1
    assert bench.told == [
        "AWS spot interruption: nothing is started on this machine until that is withdrawn.",
        "AWS spot interruption: withdrawn. Starting.",
    ]


def test_advice_and_silence_hold_nothing(bench: Bench) -> None:
    advice = Said([Notice(source="rebalance", exit_code=75, is_advice=True)])
    assert bench.supervise([75, 0], sources=[advice, Said([MetadataTrouble("no answer")])]) == 0
    assert bench.now < 5.0


def test_what_is_left_of_a_deadline_is_handed_on_and_nothing_starts_behind_it(bench: Bench) -> None:
    assert bench.supervise([75] * 20, words=("--deadline", "30s")) == 75
    assert bench.starts[0][-2:] == ["--deadline", "30s"]
    assert bench.starts[1][-2:] == ["--deadline", "28s"]
    assert len(bench.left) > 10
    # A tenth of thirty seconds before its end a training leaves: nothing is started to leave at once.
    assert float(bench.starts[-1][-1].removesuffix("s")) >= 4.0
    assert bench.told[-1] == "The deadline is over: nothing is started any more on this machine."


def test_a_wish_to_resume_otherwise_is_left_as_it_was_typed(bench: Bench) -> None:
    bench.supervise([0], words=("--resume", "300"))
    assert bench.starts == [["train", "--resume", "300"]]


def test_before_the_platforms_limit_nothing_is_started_that_has_no_time(bench: Bench) -> None:
    assert bench.supervise([75] * 20, limit_seconds=30.0) == 75
    assert len(bench.left) > 10
    assert "--deadline" not in bench.starts[0], "the training knows that limit by itself"


def test_what_is_started_knows_its_launch_and_no_other_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBR_LAUNCH", "a" * 32)
    seen = tmp_path / "seen"
    (tmp_path / "program.py").write_text(f"import os; open({str(seen)!r}, 'a').write(os.environ['DBR_LAUNCH'] + ' ')")
    for launch_id in ("b" * 32, BY_HAND):
        run = Supervised(
            home="home", storage=MemoryStorage(), work=Training(words=()), launch_id=launch_id, boot_id="boot",
            sources=(), tell=print, program=(sys.executable, str(tmp_path / "program.py")),
        )  # fmt: skip
        assert Supervisor(run=run).supervise() == 0
    launched, by_hand = seen.read_text().split(" ", 1)
    assert launch_here({"DBR_LAUNCH": launched}) == "b" * 32
    assert launch_here({"DBR_LAUNCH": by_hand.strip()}) is None, "also within a launched job"
    assert launch_here({}) is None


def scored(bench: Bench, pictures: int) -> None:
    for place in range(pictures):
        bench.storage.write(f"eval/{'0' * 16}/checkpoint-2/{place:04d}.json", [b"{}"])


def test_an_evaluation_is_started_again_with_its_own_words_by_the_same_rule(bench: Bench) -> None:
    attempt = begin(bench.storage)
    attempt.commit(1)
    attempt.commit(2)
    scored(bench, 5)
    work = Evaluation(words=("home", "--steps=all"))
    assert bench.supervise([75, -9, -9, -9, 0], work=work) == 78
    assert bench.starts == [["eval", "home", "--steps=all"]] * 4, "nor does it go back in the run"
    assert bench.told[-1].startswith("Not started again: 3 crashes on this machine with the evaluation at picture 5")
    noted = [note.text for note in read_notes(bench.storage, "exit")]  # in one second they have no order
    assert sum(text.startswith("killed by signal 9 after picture 5 was saved") for text in noted) == 3


def test_an_evaluation_that_gets_further_between_its_crashes_is_not_poisoned(bench: Bench) -> None:
    bench.supervise([70, 70, 76], work=Evaluation(words=("home",)))
    scored(bench, 1)
    assert bench.supervise([70, 70, 0], work=Evaluation(words=("home",))) == 0


SUPERVISED = """
import sys
from dreambooth_resume.launch.entrypoint import Signals, Supervised, Supervisor
from dreambooth_resume.launch.work import Training
from tests.fakes.memory_storage import MemoryStorage
signals = Signals()
signals.install()
run = Supervised(home="home", storage=MemoryStorage(), work=Training(words=()), launch_id="x", boot_id="b",
                 sources=(), tell=print, program=(sys.executable, sys.argv[1]))
sys.exit(Supervisor(run=run, signals=signals).supervise())
"""
TRAINER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
signal.signal(signal.SIGINT, lambda *_: sys.exit(76))
print("training", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 76)])
def test_a_signal_is_handed_on_and_nothing_is_started_after_it(number: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(TRAINER)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(tmp_path / "trainer.py")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == "training\n"
    supervisor.send_signal(number)
    assert supervisor.wait(20) == code
    assert "training" not in supervisor.stdout.read(), "started again"
