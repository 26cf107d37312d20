"""The buttons of a run's page: a browser may send any text with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.ui import run_parts
from dreambooth_resume.ui.commands import Command, Commands, CommandState
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.open_run import OpenRun, OpenRuns
from dreambooth_resume.ui.served import Served
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import record_run
from tests.unit.ui.test_markup import HOSTILE, assert_harmless

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'dreambooth-resume[ui]'")


class NotedCommands(Commands):
    """Notes what would be started."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[str, ...]] = []

    def begin(self, home: str, verb: str, words: Sequence[str]) -> Command:
        self.noted.append(tuple(words))
        return Command(id="1", home=home, verb=verb, words=tuple(words), state="running", text="", at="")


@pytest.mark.parametrize("act", ["back", "delete", "verify", "kohya"])
def test_only_a_checkpoint_of_the_run_becomes_a_word_of_a_command(act: str, tmp_path: Path) -> None:
    from dreambooth_resume.ui.run_page import _do
    from dreambooth_resume.ui.site import Site

    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    attempt = begin(storage, steps=50)
    for step in (20, 40):
        attempt.commit(step)
    homes, commands, served = Homes([str(tmp_path)]), NotedCommands(), Served()
    site = Site(homes=homes, runs=OpenRuns(homes), commands=commands, served=served)
    run: Any = OpenRun(str(storage.root), storage)
    for name in ("", "latest", "30", "--unfenced", "../cat", "checkpoint-20 --take_over"):
        with pytest.raises(BadInput):
            _do(site, run, act, name)
    assert commands.noted == []
    _do(site, run, act, "checkpoint-20")
    (words,) = commands.noted
    assert act == "verify" or "checkpoint-20" in words
    served.close()


def test_a_checkpoint_is_exported_once_and_offered_from_then_on(tmp_path: Path) -> None:
    from dreambooth_resume.ui.exports import begin_export, exported
    from dreambooth_resume.ui.site import Site

    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    begin(storage, steps=50).commit(20)
    homes, commands, served = Homes([str(tmp_path)]), NotedCommands(), Served()
    site = Site(homes=homes, runs=OpenRuns(homes), commands=commands, served=served)
    view = OpenRun(str(storage.root), storage).view()
    assert view is not None
    begin_export(site, view, "checkpoint-20")
    (words,) = commands.noted
    path = Path(words[words.index("--to") + 1])
    assert path.name == "dog-20-kohya.safetensors"
    assert path.is_relative_to(served.folder)
    assert exported(site, view, "checkpoint-20") == {}
    assert "Kohya file" in run_parts.checkpoints(view)
    path.write_bytes(b"made by dbr export")
    path.with_stem("dog-20-kohya_emb").write_bytes(b"new tokens")
    begin_export(site, view, "checkpoint-20")
    assert len(commands.noted) == 1
    files = exported(site, view, "checkpoint-20")
    assert list(files) == ["dog-20-kohya.safetensors", "dog-20-kohya_emb.safetensors"]
    shown = run_parts.checkpoints(view, lambda _folder: files)
    assert "Kohya file" not in shown
    assert 'download="dog-20-kohya_emb.safetensors"' in shown
    served.close()


@pytest.fixture
def dog(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    begin(storage, steps=50).commit(20)
    return storage


def test_what_a_torn_home_lacks_is_said(dog: LocalStorage, tmp_path: Path) -> None:
    from dreambooth_resume.ui.run_page import _do, _whole
    from dreambooth_resume.ui.site import Site

    homes, served = Homes([str(tmp_path)]), Served()
    site = Site(homes=homes, runs=OpenRuns(homes), commands=NotedCommands(), served=served)
    run: Any = OpenRun(str(dog.root), dog)
    (lora,) = [found.key for found in dog.list() if found.key.endswith("pytorch_lora_weights.safetensors")]
    dog.delete(lora)
    with pytest.raises(BadInput, match=f"its {lora} is gone"):
        _do(site, run, "download", "checkpoint-20")
    dog.write(lora, [b"something else"])
    with pytest.raises(BadInput, match="is not what was saved"):
        _do(site, run, "download", "checkpoint-20")
    assert _whole(site, str(dog.root), "samples/20-a1/0.png") is None
    served.close()


def test_a_download_for_which_there_is_no_room_says_so(dog: LocalStorage, tmp_path: Path) -> None:
    from dreambooth_resume.ui.run_page import _do
    from dreambooth_resume.ui.site import Site

    homes, served = Homes([str(tmp_path)]), Served()
    site = Site(homes=homes, runs=OpenRuns(homes), commands=NotedCommands(), served=served)
    run: Any = OpenRun(str(dog.root), dog)
    path = _do(site, run, "download", "checkpoint-20")
    assert path.read_bytes() == dog.read("checkpoint-20/pytorch_lora_weights.safetensors")
    path.unlink()
    path.mkdir()  # in place of a full disk: the copy can't go there
    with pytest.raises(BadInput, match="its copy can't be written"):
        _do(site, run, "download", "checkpoint-20")
    assert list(path.parent.iterdir()) == [path]
    served.close()


def test_a_fork_into_a_bucket_goes_to_the_service_that_the_page_was_given(dog: LocalStorage, tmp_path: Path) -> None:
    from dreambooth_resume.ui.run_page import _fork
    from dreambooth_resume.ui.site import Site

    homes, commands, served = Homes([str(tmp_path), "s3://bucket/runs"]), NotedCommands(), Served()
    s3_words = ("--s3_endpoint_url", "http://127.0.0.1:9")
    site = Site(homes=homes, runs=OpenRuns(homes), commands=commands, served=served, s3_words=s3_words)
    run = OpenRun(str(dog.root), dog)
    _fork(site, run, "20", "s3://bucket/runs/new")
    _fork(site, run, "", str(tmp_path / "new"))
    far, near = commands.noted
    assert far == ("fork", run.home, "--to", "s3://bucket/runs/new", "--step", "20", *s3_words)
    assert near == ("fork", run.home, "--to", str(tmp_path / "new"))
    served.close()


@pytest.mark.parametrize(
    ("state", "ended_seconds_ago", "appears"),
    [("running", None, True), ("done", 20, True), ("done", 100, False), ("failed", 1, False)],
)
def test_a_run_that_was_started_here_and_deleted_later_is_not_starting(
    state: CommandState, ended_seconds_ago: float | None, appears: bool
) -> None:
    from dreambooth_resume.ui.run_page import _makes_a_run

    now = datetime(2026, 1, 2, tzinfo=UTC)
    ended_at = None if ended_seconds_ago is None else (now - timedelta(seconds=ended_seconds_ago)).isoformat()
    start = Command(
        id="1", home="dog", verb="start", words=(), state=state, text="",
        at=(now - timedelta(hours=1)).isoformat(), ended_at=ended_at,
    )  # fmt: skip
    assert _makes_a_run(start, now=now) is appears


def test_hostile_lines_reasons_and_options_stay_text_on_every_tab(dog: LocalStorage) -> None:
    view = OpenRun("dog", dog).view()
    assert view is not None
    (attempt,) = view.attempts
    hostile = replace(
        view,
        lines=(HOSTILE,),
        attempts=(replace(attempt, reason=f"x{HOSTILE}"),),
        options={**view.options, HOSTILE: HOSTILE},
    )
    for part in (run_parts.log, run_parts.timeline, run_parts.configuration):
        shown = part(hostile)
        assert_harmless(shown)
        assert "alert(1)" in shown


@pytest.mark.parametrize(("act", "word"), [("stop", "stop"), ("save", "save-now"), ("sample", "sample-now")])
def test_what_a_training_is_asked_for_is_the_command_that_one_could_type(
    act: str, word: str, dog: LocalStorage, tmp_path: Path
) -> None:
    from dreambooth_resume.ui.run_page import _do
    from dreambooth_resume.ui.site import Site

    homes, commands, served = Homes([str(tmp_path)]), NotedCommands(), Served()
    site = Site(homes=homes, runs=OpenRuns(homes), commands=commands, served=served)
    _do(site, OpenRun(str(dog.root), dog), act, "")
    (words,) = commands.noted
    assert words[:2] == (word, str(dog.root))
    served.close()
