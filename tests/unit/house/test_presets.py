"""The run files by GPU memory: each adds up, fits, and is what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.workflows.estimate import Asked, estimate_run

ROOT = Path(__file__).parents[3]
SIZES = (8, 12, 16, 24, 80)
EACH = pytest.mark.parametrize("size", SIZES)


def _text(size: int) -> str:
    return (ROOT / "configs" / f"sdxl_{size}gb.yaml").read_text()


def _options(size: int) -> TrainOptions:
    return resolve(parse_train(["--config", str(ROOT / "configs" / f"sdxl_{size}gb.yaml")]), recorded=None)


def _rows(text: str) -> dict[str, float]:
    """The table in the head: what, to GB."""
    return {what: float(gigabytes) for what, gigabytes in re.findall(r"^#   (\S.*?) {2,}(\d+\.\d\d)$", text, re.M)}


@EACH
def test_the_head_says_what_is_estimated_and_it_leaves_a_tenth_of_the_memory(size: int) -> None:
    estimate = estimate_run(parse_train(["--config", str(ROOT / "configs" / f"sdxl_{size}gb.yaml")]), Asked())
    counted = {part.name: round(part.size_bytes / 1e9, 2) for part in estimate.parts}
    together = round(estimate.needed_bytes / 1e9, 2)
    assert _rows(_text(size)) == {**counted, "together": together}
    assert f"text encoders and VAE need {estimate.encoding_bytes / 1e9:.1f} GB" in _text(size)
    assert together < 0.9 * size


@EACH
def test_a_step_is_of_four_pictures_in_bf16(size: int) -> None:
    options = _options(size)
    assert options.training.precision == "bf16"
    assert options.training.train_batch_size * options.training.gradient_accumulation_steps == 4


@EACH
def test_the_readmes_row_is_that_of_the_file(size: int) -> None:
    options = _options(size)
    (row,) = re.findall(
        rf"^\| \[{size}gb\]\(configs/sdxl_{size}gb.yaml\) \| (.*) \|$", (ROOT / "README.md").read_text(), re.M
    )
    base, rank, pictures, _, estimate = row.split(" | ")
    assert ("nf4" in base) == (options.training.base_precision == "nf4")
    assert (int(rank), int(pictures)) == (options.lora.rank, options.training.train_batch_size)
    assert estimate == f"{_rows(_text(size))['together']:.1f} GB"


@EACH
def test_config_new_writes_it(size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "run.yaml"
    assert main(["config", "new", "--preset", f"{size}gb", str(target)]) == 0
    assert target.read_text() == _text(size)
    assert str(target) in capsys.readouterr().out


def test_a_size_without_a_file_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "new", "--preset", "10gb"]) == 2
    assert "12gb" in capsys.readouterr().err
