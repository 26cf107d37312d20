"""Imports go one way, no package can escape the contract, and quick commands stay quick."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

LAYERS = [
    {"__main__"},
    {"cli"},
    {"ui"},
    {"workflows"},
    {"training", "launch", "insight"},
    {"checkpoint", "data", "models", "preemption"},
    {"runs"},
    {"storage", "config"},
    {"errors", "configs", "infra"},
]
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "matplotlib", "boto3", "gradio")


def test_the_contract_is_the_design_and_is_exhaustive(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = settings["contracts"]
    assert contract["exhaustive"] is True
    assert contract["type"] == "layers"
    assert "ignore_imports" not in contract
    assert "exhaustive_ignores" not in contract
    assert [set(re.findall(r"\w+", layer)) for layer in contract["layers"]] == LAYERS
    # With ":" in place of "|" siblings could import each other.
    assert not any(":" in layer for layer in contract["layers"])
    assert not settings.get("exclude_type_checking_imports", False)


def test_layers_in_brackets_are_those_that_do_not_exist(root: Path) -> None:
    (contract,) = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    optional = set(re.findall(r"\((\w+)\)", " ".join(contract["layers"])))
    package = root / "dreambooth_resume"
    missing = {name for layer in LAYERS for name in layer if not any(package.glob(f"{name}*"))}
    assert optional == missing


@pytest.mark.parametrize("argv", [["--help"], ["runs", "."], ["status", "--help"], ["train", "--help"]])
def test_quick_commands_load_no_heavy_library(argv: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from dreambooth_resume.cli.main import main\n"
        "try:\n"
        f"    code = main({argv!r})\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        f"print('heavy:', code, [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    code, loaded = done.stdout.rsplit("heavy: ", 1)[1].split(maxsplit=1)
    assert code in {"0", "None"}, done.stderr
    assert loaded.strip() == "[]"
