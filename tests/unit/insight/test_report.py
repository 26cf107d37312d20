"""The report holds all of a run, asks nobody for anything, and nothing in a home can become part of the page."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_resume.cli.main import main
from dreambooth_resume.insight.facts import read_facts
from dreambooth_resume.insight.report import report
from dreambooth_resume.insight.svg import Bar, Line, Mark, bar_chart, line_chart
from dreambooth_resume.runs.notes import post_note
from dreambooth_resume.runs.record import Pins, new_record, write_record
from dreambooth_resume.runs.samples import write_samples
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import beat, measure, record_run

pytestmark = pytest.mark.quick

NASTY = "</title></style><script>alert(1)</script><img src=http://evil.example/x onerror='y'>&\"'"


def png(colour: str = "red") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (600, 400), colour).save(written, "PNG")
    return written.getvalue()


def run_in(home: Path, *, steps: int = 80, base: float = 0.5, finished: bool = True, **options: object) -> LocalStorage:
    """A run of two attempts: the first was lost after 45 steps, 40 of them saved."""
    storage = LocalStorage(home)
    chosen = {"max_train_steps": steps, "learning_rate": 1e-4, "optimizer": "AdamW", "rank": 4, **options}
    record = new_record(
        options=chosen,  # type: ignore[arg-type]
        seed=3,
        effective_batch=4,
        pins=Pins(base_model={"unet.safetensors": "ab" * 32}, dataset="0" * 64),
        numerics={"device": "cpu", "torch": "2.13.0"},
        block_size=None,
    )
    write_record(storage, record)
    begin(storage, "A", steps=steps).commit(40)
    measure(storage, 1, {step: base - step / 400 for step in range(1, 46)})
    beat(storage, 1, step=45)
    second = begin(storage, "B", steps=steps)
    measure(storage, 2, {step: base - step / 400 for step in range(41, steps + 1)})
    if finished:
        second.commit(steps)
        second.finish()
    return storage


class Tags(HTMLParser):
    """Every tag with its attributes; fails for tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    tags = Tags()
    tags.feed(html)
    assert not tags._open
    return tags.seen


def page_of(storage: LocalStorage) -> str:
    facts = read_facts(storage)
    assert facts is not None
    return report(storage, facts)


def test_the_report_has_the_curve_the_interruption_and_every_attempt(tmp_path: Path) -> None:
    page = page_of(run_in(tmp_path / "dog", rank=8))
    assert "attempt 1 came to step 45 and the run went on from 40" in page
    assert "5 of 85 steps were trained twice" in page
    assert "exact: every attempt computed" in page
    for part in ("Verdicts", "Loss", "Timeline", "Options", "Checkpoints", "Environment"):
        assert f"<h2>{part}</h2>" in page
    assert "<td>rank</td><td>8</td><td>4</td>" in page
    assert page.count("<polyline") == 3  # the loss, its mean, and what was trained twice


def test_nothing_in_a_home_becomes_part_of_the_page_or_is_asked_for(tmp_path: Path) -> None:
    storage = run_in(tmp_path / "dog<b>", instance_prompt=NASTY)
    write_samples(storage, (png(), b"no picture"), step=40, attempt=1, recipe={"prompt": NASTY, "seed": 1})
    post_note(storage, "damage", NASTY)
    page = page_of(storage)
    tags = tags_of(page)
    assert {tag for tag, _ in tags} <= set(
        "html head meta title style body h1 h2 p div b span section svg line text polyline circle rect i table tr th td"
        " details summary figure img figcaption br".split()
    )
    assert not [attributes for _, attributes in tags if any(name.startswith("on") for name in attributes)]
    named = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(named) == 1
    assert all(value and value.startswith("data:image/jpeg;base64,") for value in named)
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert not re.search(r"url\(", page)
    assert page.count("can't be read") == 1
    assert "&lt;script&gt;" in page


def test_pictures_are_made_small_and_few(tmp_path: Path) -> None:
    storage = run_in(tmp_path / "dog")
    for step in range(1, 21):
        write_samples(storage, (png(),) * 6, step=step, attempt=1, recipe={"prompt": "a dog", "seed": 1})
    page = page_of(storage)
    assert page.count("<img") == 8 * 4
    assert ">step 1<" in page
    assert ">step 20<" in page
    assert len(page) < 400_000


def test_a_run_that_has_barely_begun_has_a_report(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    page = page_of(storage)
    tags_of(page)
    assert "<polyline" not in page


def test_the_command_writes_one_file_and_never_over_somebody_elses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = run_in(tmp_path / "dog").root
    out = tmp_path / "out.html"
    for _ in range(2):
        assert main(["report", str(home), "--out", str(out)]) == 0
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert "80 steps, 2 attempts" in capsys.readouterr().out
    out.write_text("mine")
    assert main(["report", str(home), "--out", str(out)]) == 2
    assert out.read_text() == "mine"
    assert "no page of dbr" in capsys.readouterr().err
    assert main(["report", str(home), "--out", str(tmp_path / "no" / "x.html")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dog", "out.html"]


def test_facts_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = run_in(tmp_path / "dog").root
    assert main(["report", str(home), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["summary"]["state"] == "finished"
    assert len(facts["curve"]["points"]) == 80
    assert facts["verdicts"][0]["about"] == "exactness"


def test_a_comparison_names_what_differs_and_the_losses_over_the_same_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_in(tmp_path / "dog").root
    second = run_in(tmp_path / "cat", base=0.4, learning_rate=1e-3, finished=False).root
    page = tmp_path / "both.html"
    assert main(["compare", str(first), str(second), "--html", str(page)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"learning_rate +0.0001 +0.001 +0.0001", told)
    assert "rank" not in told
    assert re.search(r"1 to 8 +0.488[78] +0.388[78] +-0.1000", told)
    assert "Not both runs are finished" in told
    html = page.read_text()
    tags_of(html)
    assert html.count("<polyline") == 4
    assert main(["compare", str(first), str(second), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["options"]] == ["learning_rate"]
    assert found["same_bytes"] is None


def test_a_run_compared_with_its_own_copy_has_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(run_in(tmp_path / "dog").root)
    assert main(["compare", home, home]) == 0
    told = capsys.readouterr().out
    assert "No option differs." in told


@pytest.mark.parametrize("words", [["report", "HOME"], ["compare", "HOME", "HOME"]])
def test_where_no_run_is_nothing_is_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(tmp_path / "none") if word == "HOME" else word for word in words]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "values", [[0.0], [1.0, 1.0], [-1e-9, 1e-9], [1e12, -1e12], [5e-324, 1e-323], [0.1, 0.2, 0.15]]
)
def test_any_finite_values_can_be_drawn(values: list[float]) -> None:
    points = [(float(x), y) for x, y in enumerate(values)]
    drawn = line_chart([Line(points=points, style="main", label="<l>")], name="<n>", marks=[Mark(x=0.0, title="<t>")])
    tags_of(drawn)
    numbers = [float(number) for pair in re.findall(r'points="([^"]+)"', drawn) for number in re.split("[ ,]", pair)]
    assert all(0 <= number <= 720 for number in numbers)
    assert "nan" not in drawn
    assert not re.search("<[lnt]>", drawn)


def test_nothing_to_draw_is_no_chart() -> None:
    assert line_chart([Line(points=[], style="main")], name="x") == bar_chart([], name="x", unit="h") == ""
    tags_of(bar_chart([Bar(label="<a>", start=0.0, end=0.0, style="good", title="<b>")], name="x", unit="h"))
