"""A run that is put together in a browser: what may be set, what may be read, and what would be started."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.launchers import LAUNCHERS
from dreambooth_resume.ui.draft import (
    PRESETS,
    askable,
    bounds,
    home_of,
    launcher_fields,
    left_to_a_terminal,
    preset_values,
    review,
    store_pictures,
)
from dreambooth_resume.ui.new_run import may_use
from dreambooth_resume.ui.new_run_parts import reviewed
from dreambooth_resume.ui.places_to_run import launcher_remarks
from tests.fakes.s3_server import ENVIRONMENT, shared_server
from tests.unit.ui.test_markup import HOSTILE, assert_harmless


def png(path: Path, size: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (size, 3, 4)).save(path, "PNG")
    return path


def look(values: dict[str, str], home: str, **more: object):  # type: ignore[no-untyped-def]  # a Review
    return review(values, where="local", home=home, preset=None, may_use=lambda _path: True, **more)  # type: ignore[arg-type]


def test_every_wrong_field_is_named_at_once_with_its_fix(tmp_path: Path) -> None:
    made = look(
        {"rank": "0", "learning_rate": "fast", "lr_scheduler": "linaer", "center_crop": "maybe"}, str(tmp_path / "a")
    )
    assert [error.name for error in made.errors] == ["rank", "learning_rate", "lr_scheduler", "center_crop"]
    assert made.errors[0].what == "0 is too small: it must be at least 1"
    assert "linear" in made.errors[2].fix
    assert made.words == ()


def test_a_contradiction_is_found_beside_its_field(tmp_path: Path) -> None:
    png(tmp_path / "pictures" / "1.png")
    values = {
        "pretrained_model_name_or_path": "some/model", "instance_prompt": "a photo of sks dog",
        "instance_data_dir": str(tmp_path / "pictures"), "with_prior_preservation": "true",
    }  # fmt: skip
    made = look(values, str(tmp_path / "a"))
    assert len(made.errors) == 1
    assert made.errors[0].name in OPTIONS
    assert not (tmp_path / "a").exists()


def test_neither_secrets_nor_what_the_page_decides_can_be_set(tmp_path: Path) -> None:
    made = look({"hub_token": "x", "output_dir": "/", "storage_uri": "s3://b/c", "nonsense": "1"}, str(tmp_path / "a"))
    assert {error.what for error in made.errors} == {"can't be set here"}
    assert len(made.errors) == 4
    asked = {option.name for option in askable()}
    assert "hub_token" not in asked
    assert {"rank", "learning_rate", "spot"} <= asked


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("hf-jobs", "secrets"), ("skypilot", "secrets"), ("skypilot", "image_id"), ("kubernetes", "image"),
        ("aws", "hf_token_parameter"), ("aws", "ami"),
    ],
)  # fmt: skip
def test_what_hands_the_pages_secrets_on_is_left_to_a_terminal(where: str, name: str, tmp_path: Path) -> None:
    made = review(
        {name: "AWS_SECRET_ACCESS_KEY"}, where=where, home=str(tmp_path / "a"), preset=None, may_use=lambda _path: True
    )
    (error,) = made.errors
    assert (error.name, error.what) == (name, "could hand secrets on, so a browser may not name it")
    assert f"dbr launch {where}" in error.fix
    assert name in left_to_a_terminal(where)
    assert name not in [option.name for option in launcher_fields(where)]


def test_a_launchers_own_options_are_checked_and_compared_with_its_defaults(tmp_path: Path) -> None:
    home = str(tmp_path / "a")
    wrong = review({"signal_seconds": "5"}, where="slurm", home=home, preset=None, may_use=lambda _path: True)
    assert [(error.name, error.what) for error in wrong.errors] == [
        ("signal_seconds", "5 is too small: it must be at least 30")
    ]
    foreign = review({"partition": "night"}, where="local", home=home, preset=None, may_use=lambda _path: True)
    assert [error.name for error in foreign.errors] == ["partition"]
    png(tmp_path / "pictures" / "1.png")
    values = {
        "pretrained_model_name_or_path": "some/model", "instance_prompt": "a photo of sks dog",
        "instance_data_dir": str(tmp_path / "pictures"), "queue": "false",
    }  # fmt: skip
    made = look(values, home)
    assert made.errors == ()
    assert "--queue=false" in made.words
    assert ("queue", "true", "false") in made.differs


def test_paths_outside_are_refused_before_they_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "out").symlink_to("/etc")
    monkeypatch.chdir(tmp_path)
    folders = [str(tmp_path / "mine")]
    for fine in ("stabilityai/sdxl", "mine/pictures", str(tmp_path / "mine" / "x"), "s3://bucket/model"):
        assert may_use(fine, folders), fine
    for bad in ("/etc", "~/.ssh", "../x", "mine/../../x", "mine/out/passwd", "mine/out", "file:///etc", "./other"):
        assert not may_use(bad, folders), bad
    made = review(
        {"pretrained_model_name_or_path": "/etc"}, where="local", home=str(tmp_path / "mine" / "a"), preset=None,
        may_use=lambda path: may_use(path, folders),
    )  # fmt: skip
    assert "outside" in made.errors[0].what


@pytest.mark.parametrize("name", ["", " ", "../dog", "a/b", "-x", ".hidden", "a b", "x" * 101, "dog;rm"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        home_of("runs", name)
    assert home_of("s3://bucket/runs/", "dog-2") == "s3://bucket/runs/dog-2"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_one_that_train_takes(name: str) -> None:
    values = preset_values(name)
    assert "instance_prompt" not in values
    needed = ["--pretrained_model_name_or_path=x", "--instance_prompt=x", "--instance_data_dir=x"]
    assert resolve(parse_train([*needed, *(f"--{key}={value}" for key, value in values.items())]), recorded=None)


def test_bounds_are_told_in_words() -> None:
    assert bounds(OPTIONS["rank"]) == "at least 1"
    assert bounds(OPTIONS["caption_dropout"]) == "at least 0, at most 1"
    assert bounds(OPTIONS["instance_prompt"]) == ""


def test_uploads_get_names_of_our_own_and_are_pictures(tmp_path: Path) -> None:
    first = png(tmp_path / "up" / "..%2F..%2Fevil.png")
    second = tmp_path / "up" / "claims.png"
    Image.new("RGB", (32, 32)).save(second, "JPEG")
    plain = store_pictures([first, second], {}, tmp_path / "kept")
    names = sorted(path.name for path in plain.iterdir())
    assert [re.sub("-[0-9a-f]{10}[.]", ".", name) for name in names] == ["0001.png", "0002.jpg"]
    kept = store_pictures([first, second], {names[1]: " a red ball "}, tmp_path / "kept")
    text = names[1].replace(".jpg", ".txt")
    assert sorted(path.name for path in kept.iterdir()) == [*names, text]
    assert (kept / text).read_text() == "a red ball"
    assert store_pictures([first, second], {names[1]: "a red ball"}, tmp_path / "kept") == kept
    assert kept != plain


def test_a_caption_follows_its_picture_when_another_is_taken_out(tmp_path: Path) -> None:
    cat, dog, owl = (png(tmp_path / f"{size}.png", size) for size in (64, 72, 80))
    names = sorted(path.name for path in store_pictures([cat, dog], {}, tmp_path / "kept").iterdir())
    captions = dict(zip(names, ("a cat", "a dog"), strict=True))
    left = store_pictures([dog, owl], captions, tmp_path / "kept")
    assert {path.name[:4]: path.read_text() for path in left.glob("*.txt")} == {"0001": "a dog"}
    assert not list(store_pictures([owl], captions, tmp_path / "kept").glob("*.txt"))


@pytest.mark.parametrize("body", [b"", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\nnot really", b"GIF89a"])
def test_what_is_no_picture_is_refused(body: bytes, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(body)
    with pytest.raises(BadInput, match="no picture"):
        store_pictures([bad], {}, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_an_upload_that_is_gone_is_to_be_dropped_again(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no longer here") as gone:
        store_pictures([tmp_path / "gone.png"], {}, tmp_path / "kept")
    assert gone.value.fix == "drop it again"


def test_a_picture_of_too_many_pixels_is_refused_unread(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("1", (40_000, 4_000)).save(out, "PNG")
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(out.getvalue())
    with pytest.raises(BadInput):
        store_pictures([bomb], {}, tmp_path / "kept")


def test_each_launcher_has_a_remark_where_it_lacks_something(tmp_path: Path) -> None:
    bare = launcher_remarks(lambda _program: None, tmp_path)
    assert set(bare) == set(LAUNCHERS)
    assert bare["local"] == ""
    assert "sbatch" in bare["slurm"]
    assert "dbr launch kubernetes" in bare["kubernetes"]
    assert launcher_remarks(lambda program: f"/usr/bin/{program}", tmp_path)["slurm"] == ""


def test_hostile_values_stay_text_in_the_review(tmp_path: Path) -> None:
    made = look({"rank": HOSTILE, "instance_prompt": HOSTILE, HOSTILE: "1"}, str(tmp_path / "a"))
    assert_harmless(reviewed(made, ()))


def test_the_options_of_a_bucket_may_be_words_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(tmp_path / "pictures" / "1.png")
    values = {
        "pretrained_model_name_or_path": "some/model", "instance_prompt": "x",
        "instance_data_dir": str(tmp_path / "pictures"),
    }  # fmt: skip
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    s3_words = ("--s3_endpoint_url", shared_server().url, "--s3_region", "us-east-1")
    made = look(values, shared_server().new_home(), s3_words=s3_words)
    assert made.errors == ()
    assert made.train_words[-4:] == s3_words
