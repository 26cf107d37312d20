"""Every run file in configs/ loads, and the complete one is complete."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.not_yet import DIFFUSERS_SCRIPT
from dreambooth_resume.config.schema import OPTIONS, flatten

ROOT = Path(__file__).parents[3]
RUN_FILES = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))

# Options of one moment, not of a run file: how an attempt takes the run up.
ON_THE_COMMAND_LINE = {"resume_from_checkpoint", "resume_request_id", "allow_change", "take_over", "unfenced"}
SECRET = {"hub_token", "notify"}
# Their default depends on the run or the machine, so the file has a line without a value, or none.
WITHOUT_A_VALUE = {"torch_threads"}


@pytest.mark.parametrize("name", RUN_FILES)
def test_run_file_loads_and_is_a_whole_run(name: str) -> None:
    given = parse_train(["--config", str(ROOT / "configs" / name)])
    options = resolve(given, recorded=None)
    assert options.training.max_train_steps is not None
    assert set(given.values) <= set(OPTIONS)


@pytest.mark.parametrize("name", RUN_FILES)
def test_run_file_is_found_as_package_data(name: str) -> None:
    assert (files("dreambooth_resume.configs") / name).read_text() == (ROOT / "configs" / name).read_text()


def test_the_demo_is_the_run_of_the_readme() -> None:
    values = parse_train(["--config", str(ROOT / "configs" / "demo.yaml")]).values
    assert values["output_dir"] == "runs/demo/home"
    assert values["pretrained_model_name_or_path"] == "runs/demo/model"
    assert values["instance_data_dir"] == "runs/demo/pictures"


def _lines(text: str) -> dict[str, tuple[bool, object]]:
    """Option name to (given, value) for every line `name: value  # words` and `# name: value`."""
    found = {}
    for commented, name, value in re.findall(r"^(# )?([a-z_0-9]+):(?: +([^#\n]*?))? *(?:#.*)?$", text, re.M):
        found[name] = (not commented, yaml.safe_load(value) if value else None)
    return found


def test_the_complete_run_file_names_every_option() -> None:
    named = set(_lines((ROOT / "configs" / "sdxl.yaml").read_text()))
    assert set(OPTIONS) - ON_THE_COMMAND_LINE - SECRET - WITHOUT_A_VALUE == named


def test_commented_lines_of_the_complete_run_file_show_the_defaults() -> None:
    path = ROOT / "configs" / "sdxl.yaml"
    resolved = flatten(resolve(parse_train(["--config", str(path)]), recorded=None))
    for name, (given, value) in _lines(path.read_text()).items():
        assert given or value == resolved[name], name


def test_the_flag_table_says_not_yet_where_the_program_does() -> None:
    rows = dict(re.findall(r"^\| `--(\w+)` \| (.*) \|$", (ROOT / "README.md").read_text(), re.M))
    assert {name for name, here in rows.items() if here == "not yet"} == set(DIFFUSERS_SCRIPT)
    assert {name for name, here in rows.items() if here != "not yet"} <= set(OPTIONS)


def test_the_policies_in_the_docs_are_those_of_the_options() -> None:
    text = (ROOT / "docs" / "how-resume-works.md").read_text()
    for policy in ("free", "applied", "refused", "never"):
        (row,) = re.findall(rf"^\| {policy} \| ([^|]*)\|", text, re.M)
        for name in re.findall(r"`--(\w+)`", row):
            assert str(OPTIONS[name].policy) == policy, name
