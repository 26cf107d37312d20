"""What comes from a home or a user is text on the page, whatever it holds."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

from dreambooth_resume.runs.registry import FoundRun
from dreambooth_resume.ui import markup
from dreambooth_resume.ui.commands import Command
from dreambooth_resume.ui.view import row_of
from tests.unit.ui.test_view import NOW, RUNNING

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>{{value}}${alert(3)}`'</textarea>"


class Elements(HTMLParser):
    """Names and attributes of every element."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]


def assert_harmless(source: str) -> None:
    found = Elements(source)
    assert "script" not in found.names
    assert "img" not in found.names
    assert not [name for name in found.attributes if name.startswith("on")]
    assert "${" not in source
    assert "{{" not in source


def test_hostile_names_reasons_and_alarms_stay_text_in_the_list() -> None:
    summary = replace(RUNNING, because=HOSTILE, alarm=HOSTILE)
    row = row_of(FoundRun(home=f"runs/{HOSTILE}", summary=summary), None, now=NOW)
    broken = row_of(FoundRun(home=HOSTILE, summary=None, problem=HOSTILE), None, now=NOW)
    assert_harmless(markup.runs_table([row, broken], any_run=True, places=[HOSTILE]))
    assert_harmless(markup.runs_table([], any_run=False, places=[HOSTILE]))


def test_hostile_commands_buttons_and_charts_stay_text() -> None:
    at = datetime.now(UTC).isoformat()
    command = Command(id="1", home=HOSTILE, verb="stop", words=("stop", HOSTILE), state="failed", text=HOSTILE, at=at)
    assert_harmless(markup.command_list([command]))
    assert_harmless(markup.button(HOSTILE, HOSTILE, home=HOSTILE, name=HOSTILE, ask=HOSTILE))
    assert_harmless(markup.chart_box(HOSTILE, HOSTILE, '{"lines": [], "marks": [{"text": "</figure><script>"}]}'))
    assert_harmless(markup.problem(HOSTILE, HOSTILE))


def test_a_link_to_a_run_takes_the_whole_home() -> None:
    link = markup.run_link("s3://bucket/a b&c=d#e", "dog")
    assert re.search(r'href="([^"]*)"', link)[1] == "run?home=s3%3A%2F%2Fbucket%2Fa%20b%26c%3Dd%23e"  # type: ignore[index]


def test_what_takes_the_keyboard_can_be_found_again_after_an_update() -> None:
    assert 'data-key="run|runs/dog"' in markup.run_link("runs/dog", "dog")
    assert 'data-key="plot|runs/dog loss"' in markup.chart_box("runs/dog loss", "Loss", "{}")
    assert_harmless(markup.run_link(HOSTILE, HOSTILE) + markup.chart_box(HOSTILE, HOSTILE, HOSTILE))
