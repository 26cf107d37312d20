"""Which requests reach the page: its own, a program's, a link's; never what another site makes a browser send."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from dreambooth_resume.ui.guards import Guard, refusal

HOSTS = ("127.0.0.1", "localhost", "::1")
HERE = {"host": "127.0.0.1:7860"}
JOIN = "/gradio_api/queue/join"


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("POST", JOIN, {}),  # gradio_client, curl
        ("POST", JOIN, {"origin": "http://127.0.0.1:7860"}),
        ("POST", JOIN, {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}),
        ("POST", JOIN, {"origin": "https://proxy.example", "sec-fetch-site": "same-origin"}),
        ("POST", JOIN, {"host": "localhost:9000", "origin": "http://localhost:9000"}),  # ssh -L 9000:127.0.0.1:7860
        ("POST", JOIN, {"host": "[::1]:7860", "origin": "http://[::1]:7860"}),
        ("GET", "/", {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}),
        ("GET", "/run", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}),
    ],
)
def test_the_page_itself_a_program_and_a_link_are_let_in(method: str, path: str, more: dict[str, str]) -> None:
    assert refusal(method, path, {**HERE, **more}, HOSTS) == 0


@pytest.mark.parametrize(
    ("method", "path", "more", "code"),
    [
        ("POST", JOIN, {"sec-fetch-site": "cross-site"}, 403),
        ("POST", JOIN, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ("POST", JOIN, {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:8888"}, 403),
        ("POST", JOIN, {"origin": "http://127.0.0.1:8888"}, 403),
        ("POST", JOIN, {"origin": "http://evil.example"}, 403),
        ("POST", JOIN, {"origin": "null"}, 403),
        ("POST", JOIN, {"origin": "http://[", "sec-fetch-site": "none"}, 403),
        ("GET", "/gradio_api/info", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ("GET", "/gradio_api/info", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ("GET", "/", {"host": "rebound.example"}, 400),
        ("GET", "/", {"host": "["}, 400),
        ("GET", "/", {"host": ""}, 400),
    ],
)
def test_another_site_and_another_name_are_refused(method: str, path: str, more: dict[str, str], code: int) -> None:
    assert refusal(method, path, {**HERE, **more}, HOSTS) == code


def test_any_name_will_do_where_a_password_is_asked_for() -> None:
    assert refusal("GET", "/", {"host": "gpu.example:7860"}, ()) == 0
    assert refusal("POST", JOIN, {"host": "gpu.example:7860", "origin": "http://evil.example"}, ()) == 403


@pytest.mark.parametrize(("kind", "first"), [("http", "http.response.start"), ("websocket", "websocket.close")])
def test_what_is_refused_never_reaches_the_page(kind: str, first: str) -> None:
    said: list[str] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message["type"])

    async def page(_scope: object, _receive: object, _send: object) -> None:
        said.append("page")

    async def ask(origin: bytes) -> None:
        headers = [(b"Host", b"localhost:1"), (b"Origin", origin)]
        scope = {"type": kind, "method": "POST", "path": "/", "headers": headers}
        await Guard(page, hosts=HOSTS)(scope, lambda: asyncio.sleep(0, {}), send)

    asyncio.run(ask(b"http://localhost:2"))
    assert said[0] == first
    assert "page" not in said
    said.clear()
    asyncio.run(ask(b"http://localhost:1"))
    assert said == ["page"]
