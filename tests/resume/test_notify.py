"""A web hook hears of an interruption, of the resume and of the end, changes no byte, and its address is nowhere."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.supervise import Order, supervise
from tests.fakes.web_hook import SECRET, running_web_hook
from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, result_digests


def test_three_attempts_are_told_of_and_end_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    with running_web_hook() as hook:
        first = bench.start(home, notify=f"slack+{hook.url}", max_train_steps=12)
        first.wait_for_step(3)
        first.send(signal.SIGTERM)
        assert first.wait() == 75, first.output()
        # Nobody listens at this port: the training neither waits nor fails.
        second = bench.start(home, notify=f"http://127.0.0.1:1/{SECRET}", max_train_steps=12)
        second.wait_for_step(6)
        second.send(signal.SIGKILL)
        second.wait()
        third = bench.run(home, notify=hook.url, max_train_steps=12)
        slack, resumed, finished = hook.bodies
        # Finished already: no news.
        bench.run(home, notify=hook.url, max_train_steps=12)
        assert len(hook.bodies) == 3
    assert slack["text"].startswith("dbr: home was interrupted, step ")
    assert "SIGTERM: step" in slack["text"]
    assert (resumed["event"], finished["event"]) == ("resumed", "finished")
    assert "Attempt 2 was lost without a word" in resumed["text"]
    assert (finished["step"], finished["exit_code"]) == (12, 0)
    assert result_digests(home) == undisturbed(max_train_steps=12)
    said = "".join(one.output() for one in (first, second, third))
    stored = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert SECRET not in said
    assert SECRET.encode() not in stored


def test_a_supervisor_tells_of_a_training_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    seen = tmp_path / "seen"
    (tmp_path / "train.py").write_text(
        "import os, pathlib, signal\n"
        f"seen = pathlib.Path({str(seen)!r})\n"
        "if not seen.exists():\n"
        "    seen.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with running_web_hook() as hook:
        monkeypatch.setenv("DBR_NOTIFY", hook.url)
        order = Order(
            home=str(tmp_path / "dog"),
            launch_id=None,
            queue=False,
            words=(),
            tell=lambda _text: None,
            program=(sys.executable, str(tmp_path / "train.py")),
        )
        assert supervise(order) == 0
    (told,) = hook.bodies
    assert told["event"] == "interrupted"
    assert "Killed by signal 9: starting again" in told["text"]
    assert not list(LocalStorage(tmp_path / "dog").list("run.json"))
