"""What is made from the schema: the YAML template and docs/options.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.not_yet import DIFFUSERS_SCRIPT
from dreambooth_resume.config.reference import markdown
from dreambooth_resume.config.schema import OPTIONS, flatten
from dreambooth_resume.config.template import EXAMPLES, commented_yaml, yaml_scalar

pytestmark = pytest.mark.quick


def _loaded(text: str, tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return flatten(resolve(parse_train(["--config", str(path)]), recorded=None))


def test_template_loads_back_to_the_defaults(tmp_path: Path) -> None:
    defaults = {name: option.default for name, option in OPTIONS.items()} | EXAMPLES
    assert _loaded(commented_yaml(), tmp_path) == defaults


def test_template_with_every_line_set_loads_back_to_the_defaults(tmp_path: Path) -> None:
    everything = re.sub(r"^#(\w+:)", r"\1", commented_yaml(), flags=re.M)
    assert set(yaml.safe_load(everything)) == set(OPTIONS)
    assert _loaded(everything, tmp_path) == _loaded(commented_yaml(), tmp_path)


def test_template_sets_only_what_has_a_value() -> None:
    assert None not in yaml.safe_load(commented_yaml()).values()


def test_template_has_the_help_of_every_option_in_short_lines() -> None:
    text = commented_yaml()
    words = " ".join(text.replace("# ", "").split())
    assert not [name for name, option in OPTIONS.items() if option.help not in words]
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    "value", [1e-8, 1e-4, 2.5e-7, 1e300, 1.0, 0.9, 3, True, None, "no", "a photo of sks dog", "1e-4", "a: b", "~", ""]
)
def test_scalar_is_read_back_as_it_was(value: object) -> None:
    read = yaml.safe_load(f"key: {yaml_scalar(value)}")["key"]
    assert (type(read), read) == (type(value), value)


def test_options_page_is_up_to_date() -> None:
    page = Path(__file__).parents[3] / "docs" / "options.md"
    assert page.read_text() == markdown(), "run: dbr options --markdown > docs/options.md"


def test_options_page_has_every_option_once() -> None:
    ours, _, others = markdown().partition("## Known, and not available yet")
    assert re.findall(r"^\| `(\w+)`", ours, re.M) == list(OPTIONS)
    assert set(re.findall(r"^\| `(\w+)` \|", others.partition("## Other")[0], re.M)) == set(DIFFUSERS_SCRIPT)
