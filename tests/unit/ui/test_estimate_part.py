"""What a draft will take, beside its command: the numbers of `dbr estimate`, and what to change first."""

from __future__ import annotations

from pathlib import Path

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.insight.gpus import GPUS
from dreambooth_resume.ui.estimate_part import estimated
from dreambooth_resume.workflows.estimate import Asked, estimate_run
from tests.unit.ui.test_draft import png
from tests.unit.ui.test_markup import HOSTILE, assert_harmless


def words_for(folder: Path) -> list[str]:
    png(folder / "1.png")
    return [
        "--pretrained_model_name_or_path=some/model", f"--instance_data_dir={folder}", "--instance_prompt=x",
        "--output_dir=runs/a", "--train_batch_size=4", "--mixed_precision=fp16",
    ]  # fmt: skip


def test_one_gpu_is_told_whether_it_fits_and_what_to_change_first(tmp_path: Path) -> None:
    words = words_for(tmp_path)
    small = estimated(words, "t4")
    (t4,) = estimate_run(parse_train(words), Asked(gpus=(GPUS["t4"],))).machines
    assert "does not fit into the 16.1 GB of Tesla T4" in small
    assert t4.changes[0].words in small
    assert f"{t4.machine.speed.step_seconds:.3g} s" in small
    large = estimated(words, "h100")
    assert "It fits" in large
    assert "On spot" in large
    assert "Counted by stock SDXL" in large, "nothing of some/model is here"


def test_without_a_gpu_all_of_the_table_are_shown(tmp_path: Path) -> None:
    said = estimated(words_for(tmp_path), "")
    assert all(gpu.title in said for gpu in GPUS.values())
    assert said == estimated(words_for(tmp_path), "no such gpu")


def test_what_can_not_be_estimated_says_why_and_hostile_words_stay_text(tmp_path: Path) -> None:
    words = ["--pretrained_model_name_or_path=some/model", f"--instance_data_dir={HOSTILE}", "--instance_prompt=x"]
    said = estimated([*words, "--max_train_steps=3", f"--output_dir={tmp_path}"], "l4")
    assert "What it will take" in said
    unknown = estimated([*words, "--num_train_epochs=3", "--optimizer=prodigy", f"--output_dir={HOSTILE}"], "l4")
    assert_harmless(said + unknown)
    assert "That is not known" in estimated(["--rank=0"], "")
