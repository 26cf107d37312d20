"""An S3 service behind a proxy that can do it harm, and a home in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.s3_client import Clock
from tests.fakes.fault_proxy import FaultProxy, shared_proxy
from tests.fakes.s3_server import ENVIRONMENT, S3Server, shared_server

OpenS3 = Callable[..., S3Storage]
# Waits between two tries are there, but short.
QUICK = Clock(sleep=lambda seconds: time.sleep(seconds / 50))


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return shared_server()


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    proxy = shared_proxy(s3_server.port)
    yield proxy
    proxy.clear()


@pytest.fixture
def home(s3_server: S3Server) -> str:
    return s3_server.new_home()


@pytest.fixture
def open_s3(home: str) -> OpenS3:
    """The home through a proxy: `open_s3(proxy, operation_seconds=1)`."""

    def open_s3(through: FaultProxy | S3Server, **settings: object) -> S3Storage:
        return S3Storage(home, S3Settings(endpoint_url=through.url, **settings), clock=QUICK)  # type: ignore[arg-type]

    return open_s3


@pytest.fixture
def s3(proxy: FaultProxy, open_s3: OpenS3) -> S3Storage:
    """The home through the proxy, with little patience."""
    return open_s3(proxy, connect_seconds=1.0, read_seconds=0.3, operation_seconds=3.0)
