"""The list of runs: what an error says is shown as text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dreambooth_resume.errors import StorageUnavailable
from dreambooth_resume.ui.commands import Commands
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.open_run import OpenRuns
from dreambooth_resume.ui.served import Served
from tests.unit.ui.test_markup import HOSTILE, assert_harmless

gr = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'dreambooth-resume[ui]'")


class HostileHomes(Homes):
    """Every run's storage fails, with words of its own."""

    def found(self, home: object) -> str:
        raise StorageUnavailable(HOSTILE)


def test_an_error_is_told_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dreambooth_resume.ui import runs_page
    from dreambooth_resume.ui.site import Site

    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", said.append)
    homes, served = HostileHomes([str(tmp_path)]), Served()
    with gr.Blocks(analytics_enabled=False) as demo:
        runs_page.build(Site(homes=homes, runs=OpenRuns(homes), commands=Commands(), served=served))
    act: Any = next(one.fn for one in demo.fns.values() if one.name == "act")
    act("", "all", "newest", {}, SimpleNamespace(act="stop", home="x"))
    served.close()
    (told,) = said
    assert told
    assert_harmless(told)


def test_a_click_is_not_dropped_while_another_one_is_being_handled(tmp_path: Path) -> None:
    from dreambooth_resume.ui import run_page, runs_page
    from dreambooth_resume.ui.site import Site

    homes, served = Homes([str(tmp_path)]), Served()
    site = Site(homes=homes, runs=OpenRuns(homes), commands=Commands(), served=served)
    for page, lists in ((runs_page, 1), (run_page, 2)):
        with gr.Blocks(analytics_enabled=False) as demo:
            page.build(site)
        modes = [one.trigger_mode for one in demo.fns.values() if one.name == "act"]
        assert modes == ["multiple"] * lists  # "once", which is Gradio's own, drops it without a word
    served.close()
