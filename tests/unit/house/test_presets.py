"""The run files by GPU memory: each adds up, fits, and is what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions

ROOT = Path(__file__).parents[3]
SIZES = (8, 12, 16, 24, 80)
EACH = pytest.mark.parametrize("size", SIZES)
UNET, LINEAR = 2.567463684, 2.2253568
"""SDXL's UNet: numbers in all and in linear layers of its blocks, in 10^9."""
LORA_A_RANK = 1.45152e-3


def _text(size: int) -> str:
    return (ROOT / "configs" / f"sdxl_{size}gb.yaml").read_text()


def _options(size: int) -> TrainOptions:
    return resolve(parse_train(["--config", str(ROOT / "configs" / f"sdxl_{size}gb.yaml")]), recorded=None)


def _rows(text: str) -> dict[str, float]:
    """The table in the head: what, to GB."""
    return {what: float(gigabytes) for what, gigabytes in re.findall(r"^#   (\S.*?) {2,}(\d+\.\d)\b", text, re.M)}


@EACH
def test_the_estimate_adds_up_and_leaves_a_tenth_of_the_memory(size: int) -> None:
    rows = _rows(_text(size))
    together = rows.pop("together")
    assert sum(rows.values()) == pytest.approx(together, abs=0.2)  # each is rounded
    assert together < 0.9 * size


@EACH
def test_the_estimate_is_of_these_options(size: int) -> None:
    options, rows = _options(size), _rows(_text(size))
    base = sum(gigabytes for what, gigabytes in rows.items() if what.startswith("UNet"))
    quantised = options.training.base_precision == "nf4"
    assert base == pytest.approx(LINEAR * 0.516 + (UNET - LINEAR) * 2 if quantised else UNET * 2, abs=0.11)
    bytes_each = 10 if options.optimization.use_8bit_adam else 16
    assert rows[f"LoRA of rank {options.lora.rank}"] == pytest.approx(
        options.lora.rank * LORA_A_RANK * bytes_each, abs=0.051
    )
    a_picture = 2.5 if options.training.gradient_checkpointing else 5.6
    assert rows["activations"] == pytest.approx(options.training.train_batch_size * a_picture, abs=0.051)
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
    assert float(estimate.split()[0]) == _rows(_text(size))["together"]


@EACH
def test_config_new_writes_it(size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "run.yaml"
    assert main(["config", "new", "--preset", f"{size}gb", str(target)]) == 0
    assert target.read_text() == _text(size)
    assert str(target) in capsys.readouterr().out


def test_a_size_without_a_file_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "new", "--preset", "10gb"]) == 2
    assert "12gb" in capsys.readouterr().err
