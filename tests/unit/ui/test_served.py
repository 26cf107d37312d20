"""The folder that files are served from: what may lie in it, and what stays when it is full."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_resume.storage.local import LocalStorage
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


@pytest.mark.parametrize("key", ["run.json", "/etc/passwd", "../out.png", "samples/../../out.png", "samples/text.png"])
@pytest.mark.parametrize("small", [True, False])
def test_a_home_can_name_nothing_but_its_own_samples(key: str, small: bool, served: Served, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "dog")
    body = io.BytesIO()
    Image.new("RGB", (8, 8)).save(body, "PNG")
    for name in ("run.json", "samples/500-a1/0.png"):
        storage.write(name, [body.getvalue()])
    storage.write("samples/text.png", [b"a secret"])
    (tmp_path / "out.png").write_bytes(body.getvalue())
    with pytest.raises(ValueError, match="no "):
        served.picture(storage, key, small=small)
    assert list(served.folder.iterdir()) == []
    assert served.picture(storage, "samples/500-a1/0.png", small=small).is_file()
