"""The folder that files are served from: what may lie in it, and what stays when it is full."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dreambooth_resume.ui.served import Served


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served(bytes_kept=100)
    yield made
    made.close()


def test_uploads_lie_beside_what_is_served_and_outlive_a_tidy(served: Served) -> None:
    served.uploads.mkdir()
    dropped = served.uploads / "dropped.html"
    dropped.write_bytes(b"x" * 1000)
    copied = served.file("copied.png", "a")
    copied.write_bytes(b"x" * 1000)
    served.tidy()
    assert not dropped.is_relative_to(served.folder)
    assert dropped.is_file()
    assert not copied.exists()
    served.close()
    assert not dropped.exists()
