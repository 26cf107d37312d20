"""The folder that files are served from: what may lie in it, and what stays when it is full."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.ui.commands import Commands
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.open_run import OpenRuns
from dreambooth_resume.ui.served import Served
from tests.fakes.memory_storage import MemoryStorage


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


def png(edge: int = 8) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (edge, 8)).save(body, "PNG")
    return body.getvalue()


def test_a_tidy_leaves_alone_what_another_thread_is_writing(served: Served) -> None:
    partial = served.folder / "0123.77.tmp"
    partial.write_bytes(b"x" * 1000)
    old = served.file("old.png", "a")
    old.write_bytes(b"x" * 90)
    served.tidy()
    assert partial.is_file()
    assert old.is_file()  # what is half written counts for nothing


def test_pictures_are_served_after_the_system_has_tidied_its_temporary_files(served: Served, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "dog")
    storage.write("samples/500-a1/0.png", [png()])
    shutil.rmtree(served.folder.parent)
    assert served.picture(storage, "samples/500-a1/0.png", small=True).is_file()
    shutil.rmtree(served.folder.parent)
    served.tidy()
    assert served.scratch("mark").parent.is_dir()


def test_a_picture_that_cannot_be_copied_leaves_no_half_of_it(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'dreambooth-resume[ui]'")
    from dreambooth_resume.ui.site import Site, sample_url

    storage = LocalStorage(tmp_path / "dog")
    storage.write("samples/500-a1/0.png", [png()])
    homes = Homes([str(tmp_path)])
    site = Site(homes=homes, runs=OpenRuns(homes), commands=Commands(), served=served)
    # In place of a full disk: a folder lies where the copy has to go, so that renaming it fails.
    there = served.picture(storage, "samples/500-a1/0.png", small=True)
    there.unlink()
    there.mkdir()
    assert sample_url(site, storage, "samples/500-a1/0.png", small=True) is None
    assert not [path for path in served.folder.iterdir() if path.suffix == ".tmp"]


def test_a_run_that_was_begun_again_shows_its_own_picture(served: Served, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "dog")
    paths = []
    for run, edge in ((b"the first run", 8), (b"another run", 9)):
        storage.write("run.json", [run])
        storage.write("samples/500-a1/0.png", [png(edge)])
        paths.append(served.picture(storage, "samples/500-a1/0.png", small=False))
    assert paths[1].read_bytes() == png(9)


class Counted(MemoryStorage):
    """Counts what is read of pictures."""

    reads = 0

    def read(self, key: str) -> bytes:
        self.reads += key.startswith("samples/")
        return super().read(key)


def test_a_sample_is_read_once_for_both_sizes_and_one_that_is_lost_not_by_every_tick() -> None:
    now, storage = [0.0], Counted()
    made = Served(monotonic=lambda: now[0])
    storage.write("samples/500-a1/0.png", [png()])
    for small in (True, False, True):
        assert made.picture(storage, "samples/500-a1/0.png", small=small).is_file()
    assert storage.reads == 1
    for _ in range(5):
        with pytest.raises(KeyNotFound):
            made.picture(storage, "samples/500-a1/1.png")
    assert storage.reads == 2
    storage.write("samples/500-a1/1.png", [png()])
    now[0] = 31.0
    assert made.picture(storage, "samples/500-a1/1.png").is_file()
    made.close()


@pytest.mark.parametrize("key", ["run.json", "/etc/passwd", "../out.png", "samples/../../out.png", "samples/text.png"])
@pytest.mark.parametrize("small", [True, False])
def test_a_home_can_name_nothing_but_its_own_samples(key: str, small: bool, served: Served, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "dog")
    body = png()
    for name in ("run.json", "samples/500-a1/0.png"):
        storage.write(name, [body])
    storage.write("samples/text.png", [b"a secret"])
    (tmp_path / "out.png").write_bytes(body)
    with pytest.raises(ValueError, match="no "):
        served.picture(storage, key, small=small)
    assert list(served.folder.iterdir()) == []
    assert served.picture(storage, "samples/500-a1/0.png", small=small).is_file()
