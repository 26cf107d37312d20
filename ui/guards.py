"""Which requests are let in: none that another site makes a browser send, and none under a name that isn't ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware. With `hosts` only these names may be asked for; empty: any, as behind a proxy."""

    def __init__(self, app: App, *, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        code = 0
        if scope["type"] in ("http", "websocket"):
            code = refusal(str(scope.get("method", "")), str(scope["path"]), _texts(scope["headers"]), self._hosts)
        if not code:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": code, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"refused: a request of another site, or another name"})


def refusal(method: str, path: str, headers: dict[str, str], hosts: Collection[str]) -> int:
    """The status of a request that isn't let in; 0 for one that is. `headers` have lower-case names."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if hosts and _name(host) not in hosts:
        # Without it a page of another site could reach this one under a name of its own that leads here.
        return 400
    site = headers.get("sec-fetch-site", "none")
    if site == "same-origin":
        # The browser's own word, which no script can set. A proxy with TLS may have put another Host.
        return 0
    if site != "none":
        is_a_link = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        return 0 if is_a_link and "gradio_api" not in path.split("/") else 403
    # Programs send no Origin; a browser without Sec-Fetch-Site, as on plain HTTP from another machine, does.
    return 0 if origin is None or _place(origin) == host.lower() else 403


def _place(origin: str) -> str:
    """Host and port of an Origin; empty for `null` and for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _texts(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
