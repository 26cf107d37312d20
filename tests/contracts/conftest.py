"""Every kind of home: a new one is one line here, and then keeps the contract or fails."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.s3_client import Clock
from tests.fakes.fault_proxy import FaultProxy, What, shared_proxy
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.s3_server import ENVIRONMENT, shared_server

KINDS = ("links", "links refused", "links absent", "memory", "s3", "s3 with trouble")


def refuse_links(source: object, target: object, **_options: object) -> None:
    """What `os.link` does on most mounted drives."""
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if name == "links refused":
        monkeypatch.setattr(os, "link", refuse_links)
    if name == "links absent":
        monkeypatch.delattr(os, "link")
    return name


def trouble(proxy: FaultProxy) -> None:
    """Much of what is asked goes wrong at first. A conditional PUT is not: what became of it has to be looked up."""
    proxy.add(What.CUT_DOWNLOAD, verb="GET", every=13)
    proxy.add(What.DROP_ANSWER, conditional=False, every=11)
    proxy.add(What.RESET, conditional=False, every=9)
    proxy.add(What.ANSWER, conditional=False, every=7, status=503, code="SlowDown")


@pytest.fixture
def s3_settings(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Settings | None]:
    """How the S3 kinds reach their server; None for the others."""
    if not kind.startswith("s3"):
        yield None
        return
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    server = shared_server()
    if kind == "s3":
        yield S3Settings(endpoint_url=server.url)
        return
    proxy = shared_proxy(server.port)
    trouble(proxy)
    yield S3Settings(endpoint_url=proxy.url)
    proxy.clear()


@pytest.fixture
def open_again(kind: str, tmp_path: Path, s3_settings: S3Settings | None) -> Callable[[], Storage]:
    """The same home, opened by another process each time."""
    if s3_settings is not None:
        address = shared_server().new_home()
        # The waits between two tries are there, but short: trouble comes all the time here.
        clock = Clock(sleep=lambda seconds: time.sleep(seconds / 50))
        return lambda: S3Storage(address, s3_settings, clock=clock)
    memory = MemoryStorage()
    return lambda: memory if kind == "memory" else LocalStorage(tmp_path / "home")


@pytest.fixture
def storage(open_again: Callable[[], Storage]) -> Storage:
    return open_again()
