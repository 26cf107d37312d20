"""One Chromium for the tests of a worker. Where there is none these tests are skipped, with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.serving import TIMEOUT_MS

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip

MOVED = (
    "(old) => { const line = document.querySelector('figure.chart path.main'); "
    "return line && line.getAttribute('d') !== old }"
)
"""Is the first curve another one than it was? While it is drawn anew there is none."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'dreambooth-resume[ui]'")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed: make system-deps")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


class Tab:
    """A page of the browser with what went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.outside: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._saw(request.url))
        page.on("dialog", lambda dialog: dialog.accept())

    def _saw(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.outside.append(url)

    def assert_clean(self) -> None:
        """No error of a script, and no request to anywhere else."""
        assert self.errors == []
        assert self.outside == []


@pytest.fixture
def new_tab(chromium: Any) -> Iterator[Any]:
    made = []

    def make(width: int = 1440, **more: Any) -> Tab:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **more)
        made.append(context)
        return Tab(context.new_page())

    yield make
    for context in made:
        context.close()
