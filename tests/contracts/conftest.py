"""Every kind of home: a new one is one line here, and then keeps the contract or fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.memory_storage import MemoryStorage

KINDS = ("links", "links refused", "links absent", "memory")


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


@pytest.fixture
def open_again(kind: str, tmp_path: Path) -> Callable[[], Storage]:
    """The same home, opened by another process each time."""
    memory = MemoryStorage()
    return lambda: memory if kind == "memory" else LocalStorage(tmp_path / "home")


@pytest.fixture
def storage(open_again: Callable[[], Storage]) -> Storage:
    return open_again()
