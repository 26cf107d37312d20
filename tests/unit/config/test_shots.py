"""The file of validation prompts: kohya's lines, JSON, JSONL and YAML mean the same; what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.config.shots import Shot, read_shots, shot_facts, shot_of
from dreambooth_resume.errors import BadInput

WHOLE = Shot(
    prompt="a photo of sks dog, on a red-and-white rug",
    negative_prompt="blurry, low quality",
    width=1024,
    height=768,
    seed=7,
    guidance_scale=5.5,
    num_inference_steps=30,
)
LINE = "a photo of sks dog, on a red-and-white rug --n blurry, low quality --w 1024 --h 768 --d 7 --l 5.5 --s 30"
OBJECT = """{"prompt": "a photo of sks dog, on a red-and-white rug", "negative_prompt": "blurry, low quality",
"width": 1024, "height": 768, "seed": 7, "guidance_scale": 5.5, "num_inference_steps": 30}"""


def read(tmp_path: Path, name: str, text: str) -> tuple[Shot, ...]:
    (tmp_path / name).write_text(text)
    return read_shots(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.txt", f"# mine\n\n{LINE}\n  a plain one\n"),
        ("prompts.json", f'[{OBJECT}, "a plain one"]'),
        ("prompts.jsonl", OBJECT.replace("\n", " ") + '\n{"prompt": "a plain one"}\n'),
        (
            "prompts.yaml",
            "- prompt: a photo of sks dog, on a red-and-white rug\n  negative_prompt: blurry, low quality\n"
            "  width: 1024\n  height: 768\n  seed: 7\n  scale: 5.5\n  sample_steps: 30\n- a plain one\n",
        ),
    ],
)
def test_every_form_says_the_same(name: str, text: str, tmp_path: Path) -> None:
    assert read(tmp_path, name, text) == (WHOLE, Shot(prompt="a plain one"))


def test_a_shot_goes_to_the_home_and_back() -> None:
    for shot in (WHOLE, Shot(prompt="a plain one")):
        assert shot_of(shot_facts(shot), where="home") == shot


@pytest.mark.parametrize(
    ("name", "text", "what", "where"),
    [
        ("p.txt", "a dog --w 1000.5", "width is 1000.5", "p.txt:1"),
        ("p.txt", "a dog\na cat --h 1001", "height is 1001", "p.txt:2"),
        ("p.txt", "a dog --ss euler_a", "--ss is not known here", "p.txt:1"),
        ("p.txt", "a dog --d 1 --d 2", "--d stands twice", "p.txt:1"),
        ("p.txt", "--w 1024", "has no prompt", "p.txt:1"),
        ("p.txt", "a dog --l nan", "guidance_scale is nan", "p.txt:1"),
        ("p.txt", "a dog --s 0", "num_inference_steps is 0", "p.txt:1"),
        ("p.txt", "a dog --d -1", "seed is -1", "p.txt:1"),
        ("p.txt", "# nothing\n", "holds no prompt", "p.txt"),
        ("p.txt", "a dog\n" * 101, "holds 101 prompts", "p.txt"),
        ("p.json", '{"prompt": "a dog"}', "is not a list of prompts", "p.json"),
        ("p.json", "[1]", "is neither a text nor an object", "p.json: entry 1"),
        ("p.json", '[{"prompt": "a dog", "sampler": "ddim"}]', "sampler is not known here", "p.json: entry 1"),
        ("p.json", '[{"prompt": "a dog", "width": true}]', "width is True", "p.json: entry 1"),
        ("p.jsonl", '{"prompt": ', "is not JSON", "p.jsonl:1"),
        ("p.yaml", "- [", "is not YAML", "p.yaml"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(name: str, text: str, what: str, where: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"(?s)^" + what.replace(".", r"\.")) as caught:
        read(tmp_path, name, text)
    assert str(caught.value.where).endswith(where)
    assert caught.value.fix


def test_a_file_that_is_not_there_or_is_none_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_shots(tmp_path / "none.txt")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff")
    with pytest.raises(BadInput, match="not text"):
        read_shots(tmp_path / "picture.txt")
