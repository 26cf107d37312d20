"""From pictures to a LoRA in a browser, on the tiny model, by real processes; and the same by the API."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.local import LocalStorage
from tests.browser.conftest import MOVED, Tab
from tests.browser.serving import ROOT, ServedPage

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1500)]

WAIT_MS = 600_000
STEPS = 100_000
"""More than are ever trained here: how fast the machine is doesn't matter."""
BUILD = "import sys; from pathlib import Path; from dreambooth_resume.models.tiny import build_tiny_sdxl; "
NewTab = Callable[..., Tab]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, three pictures, and room for runs."""
    made = tmp_path_factory.mktemp("journey")
    subprocess.run(
        [sys.executable, "-c", f"{BUILD}build_tiny_sdxl(Path(sys.argv[1]))", str(made / "model")], check=True, cwd=ROOT
    )
    for extra in draw_pictures(made / "pictures")[3:]:
        extra.unlink()
    (made / "runs").mkdir()
    return made


@pytest.fixture(scope="module")
def served(folder: Path, chromium: object) -> Iterator[ServedPage]:
    page = ServedPage(["runs"], cwd=folder)
    yield page
    page.close()
    for home in (folder / "runs").iterdir():
        _end(home)


def _summary(home: Path) -> RunSummary:
    found = summarise(LocalStorage(home))
    assert found is not None
    return found


def _end(home: Path) -> None:
    """Whatever a failed test left running here."""
    found = summarise(LocalStorage(home)) if (home / "run.json").is_file() else None
    if found is not None and found.is_live and found.process is not None:
        os.kill(found.process.pid, signal.SIGKILL)


def _fill(tab: Tab, **fields: str) -> None:
    for name, value in fields.items():
        field = tab.page.locator(f"#option-{name} textarea, #option-{name} input, #{name} textarea, #{name} input")
        field.first.fill(value)


def _wait_for_state(tab: Tab, state: str) -> None:
    tab.page.locator(f"#head .chip-{state}").wait_for(timeout=WAIT_MS)


def _try_it(tab: Tab, served: ServedPage, step: int) -> None:
    """A picture of the result beside the base model's; one that nobody waits for any more is ended."""
    page = tab.page
    page.goto(f"{served.url}/try?home=runs%2Fdog&step={step}")
    page.wait_for_function("document.querySelector('#prompt textarea')?.value === 'a photo of sks robot'")
    steps = page.get_by_label("Denoising steps")
    steps.fill("many")
    page.locator("#paint").click()
    page.get_by_text("is no whole number from 1 to 200").wait_for()
    steps.fill("200")
    page.locator("#paint").click()
    page.locator("#painting .command-running").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Ended, as asked.").wait_for(timeout=WAIT_MS)
    steps.fill("2")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Seed").press("Enter")
    page.locator("#paint").click()
    pictures = page.locator("#pictures figure img")
    pictures.nth(1).wait_for(timeout=WAIT_MS)
    assert "seed 7, 2 steps, guidance 5, 64 × 64" in page.locator("#pictures").inner_text()
    for place in (0, 1):
        page.wait_for_function(
            "(img) => img.complete && img.naturalWidth == 64", arg=pictures.nth(place).element_handle()
        )
    bodies = []
    for who in ("base model", f"checkpoint-{step}-a2"):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Download the picture of {who}").click()
        bodies.append(Path(download.value.path()).read_bytes())
    assert download.value.suggested_filename == f"dog-checkpoint-{step}-a2-seed-7.png"
    assert bodies[0] != bodies[1]
    assert all(body.startswith(b"\x89PNG") for body in bodies)


def test_a_run_from_uploads_is_stopped_resumed_after_the_page_was_killed_and_downloaded(
    served: ServedPage, folder: Path, new_tab: NewTab
) -> None:
    tab = new_tab()
    tab.page.goto(f"{served.url}/new-run")
    pictures = sorted(str(path) for path in (folder / "pictures").glob("*.png"))
    tab.page.locator("#uploads input[type=file]").set_input_files(pictures)
    tab.page.locator("#findings figure").nth(2).wait_for()
    _fill(
        tab, pretrained_model_name_or_path="model", instance_prompt="a photo of sks robot", resolution="63", name="dog"
    )
    tab.page.locator("#check").click()
    tab.page.locator("#option-resolution.bad, .bad #option-resolution").or_(
        tab.page.locator("#option-resolution").get_by_text("not a multiple of 8")
    ).first.wait_for()
    _fill(tab, resolution="64", max_train_steps=str(STEPS))
    tab.page.locator("#options").get_by_text("All other options").click()
    tab.page.locator("#options").get_by_text("checkpoints: ").click()
    tab.page.get_by_label("checkpointing_steps").fill("20")
    tab.page.locator("#options").get_by_text("machine: ").click()
    tab.page.get_by_label("torch_threads").fill("1")
    tab.page.locator("#start").dblclick()
    tab.page.get_by_text("open the run").click(timeout=WAIT_MS)
    _wait_for_state(tab, "running")
    tab.page.locator("figure.chart path.main").first.wait_for(state="attached", timeout=WAIT_MS)
    before = tab.page.locator("figure.chart path.main").first.get_attribute("d")
    tab.page.wait_for_function(MOVED, arg=before)
    second = new_tab(390)
    second.page.goto(tab.page.url)
    _wait_for_state(second, "running")
    tab.page.get_by_role("button", name="Stop and save").click()
    _wait_for_state(tab, "stopped")
    _wait_for_state(second, "stopped")
    stopped = _summary(folder / "runs" / "dog")
    assert stopped.durable_step is not None
    assert 0 < stopped.durable_step < STEPS
    assert stopped.attempt == 1, "a double click on Start starts one run"
    url = tab.page.url
    tab.assert_clean()
    for one in (tab, second):
        one.page.context.close()

    served.kill()
    served.start()
    tab = new_tab()
    tab.page.goto(url)
    _wait_for_state(tab, "stopped")
    last = stopped.durable_step + 10
    tab.page.locator("#more").get_by_text("Continue to more steps").click()
    tab.page.get_by_label("Continue to step").fill(str(last))
    tab.page.locator("#resume-there").click()
    _wait_for_state(tab, "finished")
    tab.page.get_by_role("button", name="Download LoRA").click()
    tab.page.get_by_text(f"Save dog-{last}.safetensors").wait_for()
    with tab.page.expect_download() as download:
        tab.page.locator("#download").click()
    assert Path(download.value.path()).read_bytes() == (folder / "runs" / "dog" / WEIGHTS_NAME).read_bytes()
    tab.page.get_by_role("tab", name="Checkpoints").first.click()
    tab.page.get_by_role("button", name="Kohya file").first.click()
    with tab.page.expect_download(timeout=WAIT_MS) as download:
        tab.page.locator("#checkpoints a", has_text="-kohya.safetensors").click(timeout=WAIT_MS)
    made = Path(download.value.path()).read_bytes()
    assert b"ss_network_module" in made, "what sd-scripts and ComfyUI look for"
    _try_it(tab, served, last)
    assert served.facts()["loaded"] == []
    tab.assert_clean()


def test_the_api_starts_shows_stops_and_resumes_and_has_nothing_else(
    served: ServedPage, folder: Path, new_tab: NewTab
) -> None:
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(served.url, verbose=False)
    functions = client.view_api(return_format="dict")["named_endpoints"]
    assert set(functions) == {"/list_runs", "/run_status", "/start_run", "/stop_run", "/resume_run"}
    options: dict[str, Any] = {
        "pretrained_model_name_or_path": "model", "instance_data_dir": "pictures",
        "instance_prompt": "a photo of sks dog",
        "resolution": 64, "max_train_steps": 100_000, "checkpointing_steps": 5, "torch_threads": 1, "spot": "none",
    }  # fmt: skip
    for place, name, changed in (
        ("/tmp", "cat", {}), ("runs", "../cat", {}), ("runs", "cat", {"rank": 0}), ("runs", "cat", {"hub_token": "x"}),
        ("runs", "cat", {"instance_data_dir": "/etc"}),
    ):  # fmt: skip
        with pytest.raises(AppError, match="Fix"):
            client.predict(place, name, {**options, **changed}, api_name="/start_run")
    started = client.predict("runs", "cat", options, api_name="/start_run")
    assert started["state"] == "done"
    home = folder / "runs" / "cat"
    tab = new_tab()
    tab.page.goto(f"{served.url}/run?home=runs%2Fcat")
    _wait_for_state(tab, "running")
    # Killed without a word, supervisor and all: the page says so at its next look.
    tab.page.get_by_role("button", name="Kill").click()
    _wait_for_state(tab, "interrupted")
    assert client.predict("runs/cat", api_name="/run_status")["state"] == "interrupted"
    client.predict("runs/cat", api_name="/resume_run")
    _wait_for_state(tab, "running")
    deadline = time.monotonic() + WAIT_MS / 1000
    while _summary(home).durable_step is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert "stop" in client.predict("runs/cat", api_name="/stop_run")["said"]
    _wait_for_state(tab, "stopped")
    (cat,) = [run for run in client.predict(api_name="/list_runs") if run["name"] == "cat"]
    assert (cat["state"], cat["steps"]) == ("stopped", 100_000)
    record = read_record(LocalStorage(home))
    assert record is not None
    assert record.options["checkpointing_steps"] == 5
    with pytest.raises(AppError, match="no such run"):
        client.predict("/etc", api_name="/run_status")
