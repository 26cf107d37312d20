"""The pages in a real browser, on homes that were made without training."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from dreambooth_resume.runs.samples import write_samples
from dreambooth_resume.storage.local import LocalStorage
from tests.browser.conftest import MOVED, Tab
from tests.browser.serving import ServedPage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import dead_process, hold, measure, record_run

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(400)]

HOSTILE = "<img src=x onerror=window.hacked=1><b>'\"${window.hacked=2}{{value}}`"
LOGIN = ("me", "a secret with ümlaut")
NewTab = Callable[..., Tab]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: one that was killed after step 40, one with a hostile name and prompt, one that can't be read."""
    runs = tmp_path_factory.mktemp("page") / "runs"
    for name in ("dog", HOSTILE):
        storage = LocalStorage(runs / name)
        record_run(storage)
        attempt = begin(storage, steps=50)
        attempt.commit(20)
        measure(storage, 1, {step: 1.0 / step for step in range(1, 31)})
        recipe = {"prompt": name, "seed": 0}
        for step in (20, 40):
            write_samples(storage, (_png("red"), _png("blue")), step=step, attempt=1, recipe=recipe)
    hold(LocalStorage(runs / "dog"), dead_process())
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text("{")
    return runs


@pytest.fixture(scope="module")
def served(folder: Path, chromium: object) -> Iterator[ServedPage]:
    page = ServedPage([folder], cwd=folder.parent)
    yield page
    page.close()


def _png(color: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(out, "PNG")
    return out.getvalue()


def _address(served: ServedPage, home: Path) -> str:
    return f"{served.url}/run?home={quote(str(home), safe='')}"


def test_the_list_shows_every_run_and_search_narrows_it(served: ServedPage, new_tab: NewTab) -> None:
    tab = new_tab()
    tab.page.goto(served.url)
    rows = tab.page.locator("table.runs tbody tr")
    rows.nth(2).wait_for()
    assert rows.count() == 3
    assert tab.page.get_by_role("button", name="Resume").count() == 1
    unreadable = tab.page.locator("tr", has_text="broken")
    assert "Unreadable" in unreadable.inner_text()
    tab.page.get_by_placeholder("Search").fill("dog")
    tab.page.wait_for_function("document.querySelectorAll('table.runs tbody tr').length === 1")
    tab.page.locator("time.ago", has_text="ago").or_(tab.page.locator("time.ago", has_text="just now")).first.wait_for()
    tab.page.get_by_placeholder("Search").fill("nothing like it")
    tab.page.get_by_text("No run fits").wait_for()
    tab.assert_clean()


def test_the_keyboard_reaches_a_run_from_the_list(served: ServedPage, new_tab: NewTab) -> None:
    tab = new_tab()
    tab.page.goto(served.url)
    link = tab.page.get_by_role("link", name="dog", exact=True)
    link.focus()
    tab.page.keyboard.press("Enter")
    tab.page.locator("#head h2", has_text="dog").wait_for()
    tab.assert_clean()


def test_the_page_of_a_run_shows_all_of_it_at_every_width(served: ServedPage, folder: Path, new_tab: NewTab) -> None:
    for width in (390, 1440):
        tab = new_tab(width, color_scheme="dark" if width == 390 else "light")
        tab.page.goto(_address(served, folder / "dog"))
        tab.page.locator("#head .chip-interrupted").wait_for()
        tab.page.locator("figure.chart svg path.main").first.wait_for()
        assert tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        tab.assert_clean()
    for name, found in (
        ("Timeline", "Attempt 2"),
        ("Checkpoints", "verified when saved"),
        ("Log", "Nobody kept its output"),
        ("Configuration", "max_train_steps"),
        ("Samples", "step 40"),
    ):
        tab.page.get_by_role("tab", name=name).first.click()
        tab.page.get_by_text(found).first.wait_for()
    picture = tab.page.locator(".pics img").first
    tab.page.wait_for_function("(img) => img.complete && img.naturalWidth > 0", arg=picture.element_handle())
    tab.assert_clean()


def test_a_zoomed_curve_stays_zoomed_while_the_page_updates(served: ServedPage, folder: Path, new_tab: NewTab) -> None:
    storage = LocalStorage(folder / "zoomed")
    record_run(storage)
    attempt = begin(storage, steps=50)
    attempt.commit(10)
    measure(storage, 1, dict.fromkeys(range(1, 11), 1.0))
    tab = new_tab()
    tab.page.goto(_address(served, folder / "zoomed"))
    plot = tab.page.locator("figure.chart .plot").first
    plot.locator("path.main").wait_for(state="attached")  # a level line has no height, and so counts as hidden
    box = plot.bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + 200, box["y"] + 100)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 500, box["y"] + 100)
    tab.page.mouse.up()
    read = tab.page.locator("figure.chart .read").first
    tab.page.mouse.move(5, 5)
    read.get_by_text("double click shows all").wait_for()
    before = plot.locator("path.main").get_attribute("d")
    plot.focus()
    attempt.commit(12)
    measure(storage, 1, {step: 1.0 / step for step in range(1, 13)})
    tab.page.locator("#head", has_text="step 12").wait_for()
    tab.page.wait_for_function(MOVED, arg=before)
    tab.page.wait_for_function("document.activeElement.dataset.key.startsWith('plot|')")
    assert "double click shows all" in read.inner_text()
    plot.dblclick()
    tab.page.mouse.move(5, 5)
    tab.page.wait_for_function("!document.querySelector('figure.chart .read').textContent.includes('double click')")
    tab.assert_clean()


def test_hostile_names_and_prompts_are_shown_and_not_run(served: ServedPage, folder: Path, new_tab: NewTab) -> None:
    tab = new_tab()
    tab.page.goto(served.url)
    tab.page.get_by_role("link", name=HOSTILE, exact=True).click()
    tab.page.locator("#head h2", has_text="onerror").wait_for()
    assert tab.page.locator("#head h2").inner_text() == HOSTILE
    tab.page.get_by_role("tab", name="Samples").first.click()
    tab.page.locator(".pics figcaption").first.wait_for()
    assert tab.page.locator(".pics figcaption").first.inner_text() == HOSTILE
    assert tab.page.evaluate("window.hacked") is None
    tab.assert_clean()


def test_a_run_elsewhere_and_files_outside_are_never_shown(served: ServedPage, folder: Path, new_tab: NewTab) -> None:
    outside = LocalStorage(folder.parent / "outside")
    record_run(outside)
    tab = new_tab()
    for home in (outside.root, folder / ".." / "outside", Path("/etc")):
        tab.page.goto(_address(served, home))
        tab.page.get_by_text("There is no such run here").wait_for()
    for path in (outside.root / "run.json", folder / "dog" / "run.json", Path("/etc/passwd")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{served.url}/gradio_api/file={path}", timeout=60)
        assert refused.value.code == 403
    stranger = urllib.request.Request(served.url, headers={"Host": "rebound.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(stranger, timeout=60)
    assert refused.value.code == 400
    forged = urllib.request.Request(
        f"{served.url}/gradio_api/upload", data=b"", headers={"Origin": "http://127.0.0.1:1"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(forged, timeout=60)
    assert refused.value.code == 403
    tab.assert_clean()


def test_captions_follow_their_pictures_and_go_with_them(served: ServedPage, folder: Path, new_tab: NewTab) -> None:
    pictures = []
    for color in ("red", "blue"):
        pictures.append(str(folder.parent / f"{color}.png"))
        Path(pictures[-1]).write_bytes(_png(color))
    tab = new_tab()
    tab.page.goto(f"{served.url}/new-run")
    tab.page.locator("#uploads input[type=file]").set_input_files(pictures)
    tab.page.locator("#findings figure").nth(1).wait_for()
    tab.page.locator("#captions").get_by_text("0002-").first.wait_for()
    kept = tab.page.locator("#findings figcaption").nth(1).inner_text()[5:15]
    tab.page.locator("#uploads").get_by_label("Remove this file").first.click()
    tab.page.locator("#findings figcaption", has_text=f"0001-{kept}").wait_for()
    tab.page.locator("#captions").get_by_text(f"0001-{kept}").first.wait_for(state="attached")
    tab.page.locator("#uploads").get_by_label("Clear").first.click()
    tab.page.wait_for_function("!document.querySelector('#findings figure')")
    tab.page.locator("#captions").wait_for(state="hidden")
    tab.assert_clean()


def test_an_upload_is_offered_for_download_and_never_shown(served: ServedPage) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.html"\r\n\r\n<b>mine</b>\r\n--x--\r\n'
    words = {"Content-Type": "multipart/form-data; boundary=x"}
    sent = urllib.request.Request(f"{served.url}/gradio_api/upload", data=body, headers=words)
    (path,) = json.loads(urllib.request.urlopen(sent, timeout=60).read())
    answer = urllib.request.urlopen(f"{served.url}/gradio_api/file={path}", timeout=60)
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_the_page_never_loads_torch(served: ServedPage, folder: Path, new_tab: NewTab) -> None:
    tab = new_tab()
    for address in (served.url, _address(served, folder / "dog")):
        tab.page.goto(address)
        tab.page.locator(".dbr h2").first.wait_for()
    tab.page.get_by_role("button", name="Download LoRA").click()
    tab.page.locator("#download").get_by_text("Save dog-20.safetensors").wait_for()
    assert served.facts()["loaded"] == []
    with tab.page.expect_download() as download:
        tab.page.locator("#download").click()
    stored = (folder / "dog" / "checkpoint-20" / "pytorch_lora_weights.safetensors").read_bytes()
    assert Path(download.value.path()).read_bytes() == stored


def test_a_wrong_password_shows_nothing(folder: Path, new_tab: NewTab, chromium: object) -> None:
    page = ServedPage([folder], cwd=folder.parent, login=LOGIN)
    try:
        tab = new_tab(390)
        tab.page.goto(page.url)
        for password in ("wrong", LOGIN[1]):
            tab.page.get_by_label("username").fill(LOGIN[0])
            tab.page.get_by_label("password").fill(password)
            tab.page.get_by_role("button", name="Login").click()
            if password == "wrong":
                tab.page.get_by_text("Incorrect").or_(tab.page.get_by_text("incorrect")).first.wait_for()
                for path in ("config", "gradio_api/info"):
                    with pytest.raises(urllib.error.HTTPError) as refused:
                        urllib.request.urlopen(f"{page.url}/{path}", timeout=60)
                    assert refused.value.code == 401
        tab.page.get_by_role("link", name="dog", exact=True).wait_for()
    finally:
        page.close()
