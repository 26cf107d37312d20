"""Compare, Doctor and the estimate of a draft in a real browser; Try it is in test_journey.py, with its real run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.runs.samples import write_samples
from dreambooth_resume.storage.local import LocalStorage
from tests.browser.conftest import Tab
from tests.browser.serving import ServedPage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import measure, record_run

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

WAIT_MS = 400_000
TOKEN = "hf_CanaryOfThisTest0123456789"
NewTab = Callable[..., Tab]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that were recorded without training, pictures, and a run file that is wrong and has a token."""
    made = tmp_path_factory.mktemp("more")
    pictures = draw_pictures(made / "pictures")
    (made / "bad.yaml").write_text(f"pretrained_model_name_or_path: nowhere/model\nhub_token: {TOKEN}\nrank: 0\n")
    for name, slope in (("slow", 0.001), ("quick", 0.004)):
        storage = LocalStorage(made / "runs" / name)
        record_run(storage)
        begin(storage, steps=50).commit(20)
        measure(storage, 1, {step: 0.5 - slope * step for step in range(1, 31)})
        body = pictures[0].read_bytes()
        write_samples(storage, (body,), step=20, attempt=1, recipe={"prompt": "a robot", "seed": 0})
    return made


@pytest.fixture(scope="module")
def served(folder: Path, chromium: object) -> Iterator[ServedPage]:
    page = ServedPage(["runs"], cwd=folder)
    yield page
    page.close()


def _compare(tab: Tab, served: ServedPage) -> None:
    page = tab.page
    page.goto(served.url)
    for name in ("slow", "quick"):
        page.get_by_label(f"Compare {name}").check()
    # The list is drawn anew, and the choice is kept.
    page.get_by_placeholder("Search").fill("slow")
    page.get_by_label("Compare quick").wait_for(state="detached")
    assert page.get_by_label("Compare slow").is_checked()
    page.get_by_role("link", name="Compare 2", exact=True).click()
    page.wait_for_url("**/compare?home=runs%2Fslow&home=runs%2Fquick")
    page.locator("#head .keys li").nth(1).wait_for()
    homes = [f"home={quote(f'runs/{name}', safe='')}" for name in ("slow", "quick", "gone")]
    page.goto(f"{served.url}/compare?{'&'.join(homes)}")
    lines = page.locator("#losses figure.chart svg path.c0, #losses figure.chart svg path.c1")
    lines.nth(1).wait_for(state="attached")
    assert page.get_by_role("alert").inner_text().startswith("runs/gone: there is no such run")
    read = page.locator("#losses figure.chart .read").first
    assert re.search(r"slow 0\.48\d+\s+quick 0\.4[34]\d+", read.inner_text())
    assert page.locator("#samples table img").count() == 2
    page.get_by_text("None: they were told the same.").wait_for()
    # With the keyboard alone: one away, and the address follows.
    page.get_by_label("Runs to compare").focus()
    page.keyboard.press("Backspace")
    page.wait_for_function("!window.location.search.includes('gone')")
    page.locator("#head [role=alert]").wait_for(state="detached")
    page.keyboard.press("Backspace")
    page.get_by_text("Choose another one").wait_for()
    assert "home=runs%2Fslow" in page.url
    assert "quick" not in page.url


def _doctor(tab: Tab, served: ServedPage) -> None:
    page = tab.page
    page.goto(f"{served.url}/doctor")
    file = page.get_by_label("or a run file of this machine")
    file.fill("/etc/passwd")
    page.get_by_role("button", name="Examine").click()
    page.get_by_text("outside of the folders that this page may read").wait_for()
    file.fill("bad.yaml")
    file.press("Enter")
    page.locator("#diagnosis .finding-fatal").first.wait_for(timeout=WAIT_MS)
    said = page.locator("#diagnosis").inner_text()
    assert "This run would not begin" in said
    assert "0 is too small" in said
    assert "instance_data_dir" in said
    assert TOKEN not in page.content()
    page.get_by_role("button", name="Cancel").wait_for(state="hidden")


def _estimate_and_doctor_of_a_draft(tab: Tab, served: ServedPage) -> None:
    page = tab.page
    page.goto(f"{served.url}/new-run")
    for name, value in (
        ("folder", "pictures"), ("option-pretrained_model_name_or_path", "nowhere/model"), ("name", "draft"),
        ("option-instance_prompt", "a photo of sks robot"), ("option-resolution", "64"),
        ("option-max_train_steps", "500"),
    ):  # fmt: skip
        page.locator(f"#{name} textarea, #{name} input").first.fill(value)
    page.locator("#check").click()
    review = page.locator("#review")
    review.get_by_text("What it will take").wait_for(timeout=WAIT_MS)
    said = review.inner_text()
    assert "500 steps of 4 pictures" in said
    assert "Tesla T4" in said
    assert "dbr launch local --output_dir=runs/draft" in said
    page.locator("#look-deeper").click()
    page.locator("#examined .finding-fine", has_text="8 in ").wait_for(timeout=WAIT_MS)
    model = page.locator("#examined .finding-fatal", has_text="base model").inner_text()
    assert "nowhere/model" in model
    assert "Fix:" in model


def test_runs_are_compared_examined_and_estimated(served: ServedPage, new_tab: NewTab) -> None:
    tab = new_tab()
    for look in (_compare, _doctor, _estimate_and_doctor_of_a_draft):
        look(tab, served)
        tab.assert_clean()
    phone = new_tab(390, color_scheme="dark")
    for path in ("/compare?home=runs%2Fslow&home=runs%2Fquick", "/doctor", "/try?home=runs%2Fslow"):
        phone.page.goto(served.url + path)
        phone.page.locator(".dbr h2").first.wait_for()
        phone.page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth")
    phone.assert_clean()
    assert served.facts()["loaded"] == [], "torch never comes into the page's process"
