"""What the page Doctor may examine, and how what was found is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.ui.commands import Commands
from dreambooth_resume.ui.doctor_parts import doctor_words, examined, home_words
from dreambooth_resume.ui.errands import Errand, Errands
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.open_run import OpenRuns
from dreambooth_resume.ui.served import Served
from tests.fakes.watched_run import record_run
from tests.unit.ui.test_markup import HOSTILE, assert_harmless

gr = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'dreambooth-resume[ui]'")
from dreambooth_resume.ui import doctor_page, try_page  # noqa: E402  needs gradio
from dreambooth_resume.ui.doctor_page import wanted_words  # noqa: E402  needs gradio
from dreambooth_resume.ui.site import Site  # noqa: E402  needs gradio


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    record_run(LocalStorage(tmp_path / "runs" / "dog"))
    (tmp_path / "files").mkdir()
    homes, served = Homes([str(tmp_path / "runs")]), Served()
    files = (str(tmp_path / "files"),)
    yield Site(homes=homes, runs=OpenRuns(homes), commands=Commands(), served=served, files=files)
    served.close()


def errand(output: str, *lines: str, state: str = "failed") -> Errand:
    return Errand(
        id="1", words=("doctor", "--json"), state=state, ahead=0, lines=lines, output=output, seconds=2.0,  # type: ignore[arg-type]
    )  # fmt: skip


def printed(*findings: dict[str, str]) -> str:
    return json.dumps({"findings": findings, "seconds": 1.25, "is_fatal": True})


def test_a_run_of_the_page_and_a_file_within_its_folders_may_be_examined_and_nothing_else(
    site: Site, tmp_path: Path
) -> None:
    run, file = str(tmp_path / "runs" / "dog"), tmp_path / "files" / "run.yaml"
    file.write_text("rank: 4\n")
    assert wanted_words(site, run, "") == [f"--output_dir={run}"]
    assert wanted_words(site, "", str(file)) == [f"--config={file}"]
    (tmp_path / "outside.yaml").write_text("rank: 4\n")
    (tmp_path / "files" / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    for asked in (
        (run, str(file)), ("", ""), (str(tmp_path), ""), ("/etc", ""), ("", str(tmp_path / "outside.yaml")),
        ("", str(tmp_path / "files" / "link.yaml")), ("", f"{tmp_path}/files/../outside.yaml"), ("", "/etc/passwd"),
        ("", "s3://bucket/run.yaml"), ("", "--unfenced"), ("", str(tmp_path / "files" / "none.yaml")),
    ):  # fmt: skip
        with pytest.raises(BadInput):
            wanted_words(site, *asked)
    assert home_words("s3://b/dog", ["--s3_region", "x"]) == ["--storage_uri=s3://b/dog", "--s3_region", "x"]
    assert doctor_words(["--rank=4"], deep=True) == ["doctor", "--rank=4", "--deep", "--json"]


def test_findings_come_in_groups_the_worst_first_each_with_its_fix() -> None:
    fatal = {"severity": "fatal", "about": "home", "what": "s3:PutObject is missing", "fix": "a policy statement"}
    fine = {"severity": "fine", "about": "disk", "what": "90 GB are free"}
    said = examined(errand(printed(fine, fatal)))
    assert (
        said.index("Would stop it") < said.index("PutObject") < said.index("a policy statement") < said.index("90 GB")
    )
    assert "1 would stop it, 1 fine; 1.2 s" in said
    assert "Nothing stands in its way" in examined(errand(printed(fine), state="done"))


def test_what_is_no_diagnosis_is_told_in_the_words_of_the_process() -> None:
    said = examined(errand("", "dbr: --config run.yaml: there is no such file"))
    assert "there is no such file" in said
    assert "Ended, as asked" in examined(errand("", state="ended"))
    assert "dbr doctor --json" in examined(errand("", state="running"))


def test_hostile_findings_stay_text() -> None:
    hostile = {"severity": "warning", "about": HOSTILE, "what": HOSTILE, "where": HOSTILE, "fix": HOSTILE}
    assert_harmless(examined(errand(printed(hostile))))
    assert_harmless(examined(errand(HOSTILE, HOSTILE)))


class NotedErrands(Errands):
    """Carries out nothing; notes whose errands were ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []

    def end_of(self, tab: str) -> None:
        self.ended.append(tab)


def test_a_tab_that_asks_for_what_is_refused_no_longer_waits_for_what_it_asked_for_before(site: Site) -> None:
    paintings, examinations = NotedErrands(), NotedErrands()
    site = replace(site, paintings=paintings, examinations=examinations)
    request = SimpleNamespace(session_hash="mine")
    with gr.Blocks(analytics_enabled=False) as demo:
        try_page.build(site)
    begin: Any = next(one for one in demo.fns.values() if one.name == "begin")
    assert begin.fn(dict.fromkeys(begin.inputs), request)[1] is None
    with gr.Blocks(analytics_enabled=False) as demo:
        doctor_page.build(site)
    examine: Any = next(one.fn for one in demo.fns.values() if one.name == "examine")
    assert examine("", "", False, request)[1] == ""
    assert (paintings.ended, examinations.ended) == (["mine"], ["mine"])
