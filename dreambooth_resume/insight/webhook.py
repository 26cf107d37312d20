"""One message to a web hook: which form it wants, what is sent, and one bounded try at sending it.

The address is a secret, since whoever has it may post there: it is shown as its host alone, in errors too.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Literal
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5.0
"""Of each step of a try: connecting, sending, and each piece of the answer."""
_ANSWER_BYTES = 1024
_DISCORD_CHARACTERS = 2000
_SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
_DISCORD_HOSTS = ("discord.com", "discordapp.com", "ptb.discord.com", "canary.discord.com")

Kind = Literal["interrupted", "resumed", "stalled", "failed", "finished", "budget"]
Form = Literal["slack", "discord", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened to a run. `text` is for people, in a few lines; the rest is for programs."""

    kind: Kind
    run: str
    """The last part of the home's name."""
    home: str
    text: str
    host: str
    step: int | None = None
    max_train_steps: int | None = None
    durable_step: int | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where messages go, and in which form."""

    url: str
    form: Form

    @property
    def shown(self) -> str:
        """What may be read by anybody: `hooks.slack.com`."""
        return urlsplit(self.url).hostname or "the web hook"

    def __repr__(self) -> str:
        return f"Address({self.shown}, {self.form})"


class NotSent(Exception):
    """There was no answer; the message says why, and nothing of the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the web hook said."""

    status: int
    retry_after_seconds: float | None = None

    @property
    def is_taken(self) -> bool:
        return 200 <= self.status < 300

    @property
    def may_be_asked_again(self) -> bool:
        """Too busy, or a fault of its own: anything else would be answered the same again."""
        return self.status in (408, 425, 429) or self.status >= 500


def address_of(text: str) -> Address:
    """The address behind `--notify`, which the option has checked: `https://…`, or `slack+https://…`."""
    form, plus, url = text.partition("+")
    if plus and form == "slack":
        return Address(url=url, form="slack")
    if plus and form == "discord":
        return Address(url=url, form="discord")
    parts = urlsplit(text)
    host = (parts.hostname or "").lower()
    if host in _SLACK_HOSTS:
        return Address(url=text, form="slack")
    if host in _DISCORD_HOSTS and parts.path.startswith("/api/webhooks/"):
        # Discord takes Slack's form at this address of its own.
        return Address(url=text, form="slack" if parts.path.rstrip("/").endswith("/slack") else "discord")
    return Address(url=text, form="json")


def body_of(event: Event, form: Form, *, now: datetime | None = None) -> bytes:
    """The JSON that is sent. Names and reasons come from outside, so nobody is called by them (`@everyone`)."""
    if form == "slack":
        escaped = event.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return json.dumps({"text": escaped}).encode()
    if form == "discord":
        cut = event.text if len(event.text) <= _DISCORD_CHARACTERS else event.text[: _DISCORD_CHARACTERS - 1] + "…"
        return json.dumps({"content": cut, "allowed_mentions": {"parse": []}}).encode()
    facts = {
        "event": event.kind,
        "run": event.run,
        "home": event.home,
        "text": event.text,
        "step": event.step,
        "max_train_steps": event.max_train_steps,
        "durable_step": event.durable_step,
        "exit_code": event.exit_code,
        "host": event.host,
        "at": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
    }
    return json.dumps(facts).encode()


def post(address: Address, body: bytes, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Answer:
    """Send `body` once. Proxies of the environment are used; a redirect is not followed, since it may lead anywhere.

    Raises NotSent without an answer.
    """
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": f"dbr/{_version()}"}
    try:
        request = urllib.request.Request(address.url, data=body, headers=headers, method="POST")
        with _OPENER.open(request, timeout=timeout_seconds) as response:
            response.read(_ANSWER_BYTES)
            return Answer(status=response.status)
    except urllib.error.HTTPError as error:
        with error:
            return Answer(status=error.code, retry_after_seconds=_seconds(error.headers.get("Retry-After")))
    except (OSError, http.client.HTTPException, ValueError) as error:
        # From None, and in our words: the library's own hold the address.
        raise NotSent(_reason(error)) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002  as the library calls them
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: http.client.HTTPMessage,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    told = inner.strerror if isinstance(inner, OSError) else None
    return told or type(inner).__name__


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:  # a date
        return None


def _version() -> str:
    try:
        return version("dreambooth-resume")
    except PackageNotFoundError:
        return "source"
