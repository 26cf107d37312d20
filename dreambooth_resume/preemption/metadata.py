"""One short question to a cloud's metadata service, which is one hop away or not there at all."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

LINK_LOCAL = "http://169.254.169.254"
"""Where AWS, GCP and Azure answer. By number: off a cloud, a name would have to be looked up first."""
_LARGEST_ANSWER_BYTES = 64 * 1024


class MetadataTrouble(Exception):
    """No answer, or none that makes sense. It never ends a training: the next look asks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a metadata service said, and when by its own clock, which is right where the machine's may not be."""

    status: int
    body: str
    now: datetime
    flavor: str


def ask(
    base_url: str,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    timeout_seconds: float = 1.0,
) -> Answer:
    """The answer, whatever its status. No proxy is used: these addresses mean this very machine.

    Raises MetadataTrouble without an answer within `timeout_seconds`.
    """
    address = urlsplit(base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 80, timeout=timeout_seconds)
    try:
        connection.request(method, address.path.rstrip("/") + path, headers=headers or {})
        response = connection.getresponse()
        body = response.read(_LARGEST_ANSWER_BYTES).decode("utf-8", errors="replace")
        date, flavor = response.getheader("Date", ""), response.getheader("Metadata-Flavor", "")
    except (OSError, http.client.HTTPException) as error:
        raise MetadataTrouble(f"{base_url}{path}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    return Answer(status=response.status, body=body, now=_time_of(date), flavor=flavor)


def _time_of(date: str) -> datetime:
    try:
        return parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return datetime.now(UTC)
