"""What can be wrong with the file itself, always with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.config.messages import format_error
from dreambooth_resume.config.yaml_file import LARGEST_FILE_BYTES, read_yaml
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rank: 4\nseed: 1\nrank: 8\n", "run.yaml:3: rank: stands twice, first at run.yaml:1"),
        ("max-train-steps: 4\nmax_train_steps: 8\n", "run.yaml:2: max_train_steps: stands twice"),
        ("lora:\n  rank: 4\n", "run.yaml:1: lora: options stand in the file without a heading"),
        ("- rank\n", "run.yaml: is not a list of options"),
        ("rank\n", "run.yaml: is not a list of options"),
        ("rank: 4\ninstance_prompt: a: b\n", "run.yaml:2: this is not YAML"),
        ("rank: 4\n\tseed: 3\n", "run.yaml:2: this is not YAML"),
        ("instance_prompt: 2026-13-41\n", "run.yaml:1: instance_prompt: the value can't be read"),
        ("instance_prompt: !!python/name:os.system x\n", "run.yaml:1: this is not YAML"),
        ("? [a, b]\n: 3\n", "run.yaml:1: a key must be the name of an option"),
        ("rank: 4\n---\nrank: 8\n", "run.yaml:2: this is not YAML"),
    ],
)
def test_bad_file_is_refused_with_its_line(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text)
    with pytest.raises(BadInput) as refusal:
        read_yaml(Path("run.yaml"))
    message = format_error(refusal.value)
    assert told in message
    assert "\n  fix: " in message


def test_file_that_is_not_there_a_folder_not_text_or_huge(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    for name, told in {
        "none.yaml": "there is no such file",
        ".": "can't be read",
        "binary.yaml": "is not text in UTF-8",
        "huge.yaml": "which no file of options has",
    }.items():
        with pytest.raises(BadInput, match=told):
            read_yaml(tmp_path / name)


def test_keys_come_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# comment\nrank: 8\n\nno-such-key: [1]\n")
    first, second = read_yaml(path)
    assert (first.name, first.value, first.where) == ("rank", 8, f"{path}:2: rank")
    assert (second.name, second.value, second.where) == ("no_such_key", [1], f"{path}:4: no-such-key")
