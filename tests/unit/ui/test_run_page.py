"""The buttons of a run's page: a browser may send any text with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.ui import run_parts
from dreambooth_resume.ui.commands import Command, Commands
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.open_run import OpenRun, OpenRuns
from dreambooth_resume.ui.served import Served
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import record_run

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
