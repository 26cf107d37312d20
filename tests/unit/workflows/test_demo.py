"""The demo removes nothing but its own, kills children that live, and shouts when bytes differ."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from dreambooth_resume.cli import demo as command
from dreambooth_resume.cli.main import main
from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows import demo
from dreambooth_resume.workflows.demo import INTERRUPTIONS, MARKER, DemoResult, Life, SameFile, run_demo, start_afresh
from tests.fakes.watched_run import hold


class Quiet:
    """A reporter that keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.phases: set[str] = set()

    def message(self, text: str) -> None:
        self.messages.append(text)

    def phase(self, name: str, done: int, total: int) -> None:
        self.phases.add(name)

    def step(self, update: object) -> None:
        raise AssertionError("the demo trains nothing itself")

    def close(self) -> None:
        pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_new_folder_is_made_the_demos_own(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "demo"
    if kind == "empty":
        folder.mkdir()
    start_afresh(folder)
    assert names(folder) == [MARKER]


def test_a_second_demo_removes_what_the_first_made(tmp_path: Path) -> None:
    start_afresh(tmp_path)
    (tmp_path / "home" / "log").mkdir(parents=True)
    (tmp_path / "loss.png").write_bytes(b"")
    start_afresh(tmp_path)
    assert names(tmp_path) == [MARKER]


def test_a_folder_with_anything_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with pytest.raises(BadInput, match="holds home"):
        start_afresh(tmp_path)
    assert names(tmp_path) == ["home"]


def test_what_a_user_put_into_the_demos_folder_is_not_removed(tmp_path: Path) -> None:
    start_afresh(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "my notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"my notes\.txt"):
        start_afresh(tmp_path)
    assert names(tmp_path) == [MARKER, "model", "my notes.txt"]


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    folder, precious = tmp_path / "demo", tmp_path / "precious"
    precious.mkdir()
    (precious / "lora").write_text("mine")
    start_afresh(folder)
    (folder / "home").symlink_to(precious)
    start_afresh(folder)
    assert names(folder) == [MARKER]
    assert names(precious) == ["lora"]


def test_a_demo_whose_run_is_being_trained_is_left_alone(tmp_path: Path) -> None:
    start_afresh(tmp_path)
    hold(LocalStorage(tmp_path / "home"), this_process())
    with pytest.raises(BadInput) as raised:
        start_afresh(tmp_path)
    assert raised.value.fix == f"dbr stop {tmp_path / 'home'}"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="can't be written"):
        start_afresh(tmp_path / "file" / "demo")


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        start_afresh(tmp_path / "file")


def result(*, same: bool) -> DemoResult:
    lives = (
        Life(exit_code=-9, began_step=0, reached_step=9, sent=signal.SIGKILL),
        Life(exit_code=0, began_step=5, reached_step=40, sent=None),
    )
    lora = SameFile(name="lora", undisturbed_sha256="a" * 64, killed_sha256=("a" if same else "b") * 64)
    return DemoResult(folder=Path("runs/demo"), lives=lives, lora=lora, others=(), seconds=60.0)


@pytest.mark.parametrize(("same", "code"), [(True, 0), (False, 1)])
def test_differing_bytes_are_loud_and_end_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], same: bool, code: int
) -> None:
    monkeypatch.setattr(demo, "run_demo", lambda *_words, **_options: result(same=same))
    assert command.run([]) == code
    page = capsys.readouterr().out
    assert ("THE BYTES DIFFER" in page) is not same
    assert page.count("a" * 64) == (2 if same else 1)
    assert "1        0          9        SIGKILL   -9    4" in page


def test_the_next_command_can_be_typed_where_dbr_is_not_on_the_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "run_demo", lambda *_words, **_options: result(same=True))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv" / "bin" / "dbr"), "demo"])
    assert command.run([]) == 0
    page = capsys.readouterr().out
    assert "next        .venv/bin/dbr status runs/demo/home" in page
    assert ".venv/bin/dbr train --output_dir runs/demo/home --max_train_steps 400 --resume latest" in page


def test_a_folder_of_others_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("")
    assert main(["demo", "--dir", str(tmp_path)]) == 2
    assert "thesis.txt" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_kills_for_real_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    reporter = Quiet()
    # A kill and a notice: another kill of the same kind would show nothing new.
    shown = run_demo(tmp_path / "demo", reporter, rng=random.Random(7), interruptions=INTERRUPTIONS[1:])
    assert shown.is_exact
    assert [life.exit_code for life in shown.lives] == [-9, 75, 0]
    assert [life.sent for life in shown.lives] == [signal.SIGKILL, signal.SIGTERM, None]
    # A notice costs no step; a kill costs at most the steps since the last commit, and the one before it if that
    # was still being written.
    assert shown.redone_steps(1) == 0
    assert 0 <= shown.redone_steps(0) <= 10
    assert shown.weights.is_file()
    assert shown.chart.read_bytes().startswith(b"\x89PNG")
    assert len(reporter.messages) == 4
