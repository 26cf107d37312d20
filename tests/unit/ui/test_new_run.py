"""A wish becomes a run: a name that is taken, uploads that are gone, and the page that asks for it."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.errors import AccessDenied
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.ui import new_run
from dreambooth_resume.ui.commands import Command, Commands
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.new_run import UPLOADS, Wish, begin_run, review_of
from dreambooth_resume.ui.open_run import OpenRuns
from dreambooth_resume.ui.served import Served
from dreambooth_resume.ui.uploads import KEPT_SECONDS
from tests.fakes.watched_run import record_run
from tests.unit.ui.test_draft import png

gr = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'dreambooth-resume[ui]'")
from dreambooth_resume.ui.site import Site  # noqa: E402  needs gradio


class StartingCommands(Commands):
    """Starts nothing: every command is for ever under way."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[Command] = []

    def begin(self, home: str, verb: str, words: Sequence[str]) -> Command:
        command = Command(id="1", home=home, verb=verb, words=tuple(words), state="running", text="", at="")
        self.begun.append(command)
        return command

    def of(self, home: str) -> tuple[Command, ...]:
        return tuple(one for one in reversed(self.begun) if one.home == home)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "runs").mkdir()
    png(tmp_path / "pictures" / "1.png")
    homes, served = Homes([str(tmp_path / "runs")]), Served()
    yield Site(homes=homes, runs=OpenRuns(homes), commands=StartingCommands(), served=served, files=(str(tmp_path),))
    served.close()


def wish_of(site: Site, tmp_path: Path, *, uploads: tuple[Path, ...] = ()) -> Wish:
    values = {"pretrained_model_name_or_path": "some/model", "instance_prompt": "a photo of sks dog"}
    folder = "" if uploads else str(tmp_path / "pictures")
    return Wish(place=site.homes.places[0], name="dog", values=values, folder=folder, uploads=uploads)


def test_a_name_that_holds_a_run_is_refused_beside_its_field(site: Site, tmp_path: Path) -> None:
    wish = wish_of(site, tmp_path)
    assert review_of(site, wish).errors == ()
    record_run(LocalStorage(tmp_path / "runs" / "dog"))
    made = begin_run(site, wish)
    (error,) = made.errors
    assert (error.name, made.words) == ("name", ())
    assert "holds a run" in error.what
    assert site.commands.of(made.home) == ()


def test_a_second_click_on_start_is_not_told_that_the_name_is_taken(site: Site, tmp_path: Path) -> None:
    wish = wish_of(site, tmp_path)
    assert begin_run(site, wish).errors == ()
    record_run(LocalStorage(tmp_path / "runs" / "dog"))
    assert "name" not in [error.name for error in review_of(site, wish).errors]


def handlers_of(site: Site) -> tuple[dict[str, Any], dict[str, Any]]:
    """The page's own functions and its components, by name: a component's is its elem_id."""
    from dreambooth_resume.ui import new_run_page

    with gr.Blocks(analytics_enabled=False) as demo:
        new_run_page.build(site)
    components = {one.elem_id: one for one in demo.blocks.values() if getattr(one, "elem_id", None)}
    return {one.name: one for one in demo.fns.values()}, components


def test_what_check_finds_is_not_replaced_by_an_earlier_start(site: Site, tmp_path: Path) -> None:
    functions, components = handlers_of(site)
    typed = {
        "name": "dog", "place": site.homes.places[0], "where": "local", "folder": str(tmp_path / "pictures"),
        "option-pretrained_model_name_or_path": "some/model", "option-instance_prompt": "a photo of sks dog",
    }  # fmt: skip
    data = {one: one.value if type(one).__name__ == "State" else None for one in functions["started"].inputs}
    data |= {components[name]: value for name, value in typed.items()}
    (home,) = functions["follow"].inputs
    assert functions["started"].fn(data)[home].endswith("/dog")
    data[components["option-rank"]] = "0"
    assert functions["checked_form"].fn(data)[home] == ""
    assert functions["started"].fn(data)[home] == ""


def test_the_fields_of_the_chosen_launcher_count_and_errors_stand_beside_them(site: Site, tmp_path: Path) -> None:
    functions, components = handlers_of(site)
    data = {one: one.value if type(one).__name__ == "State" else None for one in functions["checked_form"].inputs}
    typed = {
        "name": "dog", "place": site.homes.places[0], "where": "slurm", "folder": str(tmp_path / "pictures"),
        "option-slurm-signal_seconds": "5", "option-aws-disk_gb": "1",
    }  # fmt: skip
    data |= {components[name]: value for name, value in typed.items()}
    shown = functions["checked_form"].fn(data)
    assert "at least 30" in shown[components["option-slurm-signal_seconds"]]["info"]
    assert components["option-aws-disk_gb"] not in shown
    (bad,) = [one for one, value in shown.items() if value == ["slurm.signal_seconds"]]
    # Mended, the field says again what it is for.
    data |= {components["option-slurm-signal_seconds"]: "60", bad: ["slurm.signal_seconds"]}
    again = functions["checked_form"].fn(data)
    assert "is told to save" in again[components["option-slurm-signal_seconds"]]["info"]
    assert not [name for name in components if re.fullmatch(r"option-.*-(secrets|image|image_id|ami|hf_.*)", name)]


def test_uploads_are_kept_by_a_start_alone_and_under_the_name_that_check_shows(site: Site, tmp_path: Path) -> None:
    wish = wish_of(site, tmp_path, uploads=(png(tmp_path / "up" / "a.png"),))
    kept = tmp_path / "runs" / UPLOADS
    checked = review_of(site, wish)
    assert checked.errors == ()
    assert not kept.exists()
    shown = next(word for word in checked.words if word.startswith("--instance_data_dir="))
    folder = Path(shown.partition("=")[2])
    assert folder.parent == kept
    assert str(folder) in checked.yaml
    begun = begin_run(site, wish)
    assert begun.words == checked.words
    assert begin_run(site, wish).words == checked.words, "a second click keeps nothing twice"
    assert [path.name for path in folder.iterdir()] == [f"0001-{digest_of(tmp_path / 'up' / 'a.png')}.png"]
    assert sorted(path.name for path in kept.iterdir()) == [folder.name, f"{folder.name}.json"]
    assert str(site.served.folder) not in f"{begun.words}{begun.plan}{begun.yaml}{begun.differs}"


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:10]


def test_uploads_that_no_run_needs_go_at_a_later_start(site: Site, tmp_path: Path) -> None:
    names = ("begun", "copied", "failed", "young")
    sets = {name: png(tmp_path / "up" / f"{name}.png", 64 + number) for number, name in enumerate(names)}
    folders = {}
    for name, upload in sets.items():
        made = begin_run(site, replace(wish_of(site, tmp_path, uploads=(upload,)), name=name))
        shown = next(word for word in made.words if word.startswith("--instance_data_dir="))
        folders[name] = Path(shown.partition("=")[2])
    long_ago = time.time() - KEPT_SECONDS - 60
    for name in ("begun", "copied", "failed"):
        os.utime(folders[name].with_suffix(".json"), (long_ago, long_ago))
    for name in ("begun", "copied"):
        record_run(LocalStorage(tmp_path / "runs" / name))
    LocalStorage(tmp_path / "runs" / "copied").write("inputs.json", [b"{}"])
    foreign = tmp_path / "runs" / UPLOADS / "of an earlier release"
    foreign.mkdir()
    begin_run(site, replace(wish_of(site, tmp_path, uploads=(sets["young"],)), name="next"))
    assert {name for name, folder in folders.items() if folder.is_dir()} == {"begun", "young"}
    assert foreign.is_dir()


def test_a_place_is_tried_before_a_run_is_begun_in_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = site.homes.places
    before = sorted(Path(place).rglob("*"))
    told = new_run.test_access(site, place)
    assert "can be read and written; a second writer is refused" in told
    assert "GB free" in told
    assert sorted(path for path in Path(place).rglob("*") if path.is_file()) == [one for one in before if one.is_file()]
    assert "none of the places" in new_run.test_access(site, f"{place}/../elsewhere")

    def refuse(_storage: object) -> None:
        raise AccessDenied("s3:PutObject is missing")

    monkeypatch.setattr(new_run, "check_access", refuse)
    assert "s3:PutObject is missing" in new_run.test_access(site, place)
