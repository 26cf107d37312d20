"""`dbr config import` of a command line of Diffusers' scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dreambooth_resume.cli.main import main
from dreambooth_resume.config.importing.diffusers import OTHERWISE
from dreambooth_resume.config.importing.findings import About, Findings
from dreambooth_resume.config.importing.read import read_file
from dreambooth_resume.config.importing.written import imported_yaml, report
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

SCRIPT = """\
#!/bin/bash
export MODEL_NAME="stabilityai/stable-diffusion-xl-base-1.0"   # the base
OUTPUT=dog; export VAE_PATH='madebyollin/sdxl-vae-fp16-fix'
pip install -q diffusers && echo done
CUDA_VISIBLE_DEVICES=0 accelerate launch --mixed_precision=bf16 train_dreambooth_lora_sdxl.py \\
  --pretrained_model_name_or_path=$MODEL_NAME --instance_data_dir=$INSTANCE_DIR \\
  --pretrained_vae_model_name_or_path=${VAE_PATH} --output_dir "runs/$OUTPUT" \\
  --instance_prompt="a photo of sks dog" --resolution=1024 --rank $RANK --learning_rate=1e-5 \\
  --train_batch_size=1 --validation_prompt 'a photo of sks dog in a "bucket"' --random_flip \\
  --prodigy_decouple False --seed="0" --foo 3 --hub_token hf_abcdef --resume_from_checkpoint latest \\
  --max_train_steps=500 > log.txt 2>&1
"""


def imported(tmp_path: Path, text: str, name: str = "train.sh") -> Findings:
    path = tmp_path / name
    path.write_text(text)
    return read_file(path)


def said(found: Findings, about: About) -> dict[str, str]:
    return {remark.theirs: remark.text for remark in found.remarks if remark.about is about}


def test_a_script_with_continued_lines_and_variables_of_its_own_is_taken_over(tmp_path: Path) -> None:
    found = imported(tmp_path, SCRIPT)
    assert found.values == {
        "mixed_precision": "bf16",
        "pretrained_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0",
        "instance_data_dir": "$INSTANCE_DIR",
        "pretrained_vae_model_name_or_path": "madebyollin/sdxl-vae-fp16-fix",
        "output_dir": "runs/dog",
        "instance_prompt": "a photo of sks dog",
        "learning_rate": 1e-5,
        "train_batch_size": 1,
        "validation_prompt": 'a photo of sks dog in a "bucket"',
        "random_flip": True,
        "seed": 0,
        "max_train_steps": 500,
    }


def test_variables_from_elsewhere_stay_and_are_said(tmp_path: Path) -> None:
    fill_in = said(imported(tmp_path, SCRIPT), About.FILL_IN)
    assert "$INSTANCE_DIR, a variable of the shell" in fill_in["--instance_data_dir"]
    assert "rank is $RANK" in fill_in["--rank"]


def test_what_has_another_meaning_no_counterpart_or_the_default_is_named(tmp_path: Path) -> None:
    found = imported(tmp_path, SCRIPT)
    otherwise = said(found, About.OTHERWISE)
    assert otherwise["--seed"] == OTHERWISE["seed"]
    assert "true is what it trained with" in otherwise["--prodigy_decouple"]
    assert "--resume latest" in otherwise["--resume_from_checkpoint"]
    assert list(said(found, About.NOTHING)) == ['--foo ("3")']
    assert said(found, About.ANYWAY)["--resolution"] == "resolution: 1024"


def test_a_token_is_neither_copied_nor_shown(tmp_path: Path) -> None:
    found = imported(tmp_path, SCRIPT)
    assert "hf auth login" in said(found, About.OTHERWISE)["--hub_token"]
    assert "hf_abcdef" not in imported_yaml(found, source="train.sh") + "\n".join(report(found))
    other = imported(tmp_path, "accelerate launch train_dreambooth_lora_sdxl.py --my_api_key hf_abcdef --rank 8")
    assert "hf_abcdef" not in imported_yaml(other, source="train.sh")


def test_the_file_that_is_written_trains_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, run = tmp_path / "train.sh", tmp_path / "run.yaml"
    script.write_text(SCRIPT.replace("$INSTANCE_DIR", "pictures").replace("$RANK", "8"))
    assert main(["config", "import", str(script), str(run)]) == 0
    shown = capsys.readouterr().out
    assert "Taken over: 13" in shown
    assert f"dbr train --config {run}" in shown
    values = yaml.safe_load(run.read_text())
    assert values == read_file(script).values
    options = resolve(parse_train(["--config", str(run)]), recorded=None)
    assert (options.lora.rank, options.training.train_batch_size, options.training.precision) == (8, 1, "bf16")
    assert "# Means something else here" in run.read_text()
    assert main(["config", "import", str(script), str(run)]) == 2  # never written over


def test_without_a_second_file_the_yaml_is_printed_and_the_report_stays_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.sh"
    script.write_text(SCRIPT)
    assert main(["config", "import", str(script)]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["learning_rate"] == 1e-5
    assert "Taken over: 12" in err


def test_a_line_alone_a_notebooks_cell_and_options_alone_are_read(tmp_path: Path) -> None:
    line = "accelerate launch train_dreambooth_lora_sdxl.py --rank=8 --use_dora"
    for text in (
        line,
        f"!{line}",
        f"%%bash\n{line}",
        "--rank=8 --use_dora",
        "python3 x/" + line.split()[2] + " --rank 8 --use_dora",
    ):
        assert imported(tmp_path, text).values == {"rank": 8, "use_dora": True}


def test_a_line_break_in_a_word_never_becomes_an_option(tmp_path: Path) -> None:
    words = "--instance_prompt 'a $DOG\nrank: 99' --foo 'x\nrank: 98' '--bar\nrank: 97' 3"
    found = imported(tmp_path, f"python train_dreambooth_lora_sdxl.py {words}")
    values = yaml.safe_load(imported_yaml(found, source="train.sh"))
    assert values == found.values == {"instance_prompt": "a $DOG\nrank: 99"}


def test_the_advanced_script_writes_kohyas_file_unasked(tmp_path: Path) -> None:
    text = "python train_dreambooth_lora_sdxl_advanced.py --train_text_encoder --cache_latents --adam_weight_decay 0.01"
    found = imported(tmp_path, text)
    assert found.values["output_kohya_format"] is True
    assert found.values["adam_weight_decay_text_encoder"] == 0.01
    assert "--cache_latents" in said(found, About.ANYWAY)


def test_several_processes_are_taken_and_several_machines_have_no_counterpart(tmp_path: Path) -> None:
    text = "accelerate launch --multi_gpu --num_processes=2 --num_machines 2 train_dreambooth_lora_sdxl.py --rank 8"
    found = imported(tmp_path, text)
    assert found.values["num_processes"] == 2
    nothing = said(found, About.NOTHING)
    assert nothing["accelerate launch --multi_gpu"] == "dbr train is started without accelerate launch"
    assert nothing["accelerate launch --num_machines"] == "a run is trained on one machine"


def test_what_is_missing_is_to_fill_in_and_a_contradiction_is_foretold(tmp_path: Path) -> None:
    fill_in = said(imported(tmp_path, "python train_dreambooth_lora_sdxl.py --rank 8"), About.FILL_IN)
    assert {"pretrained_model_name_or_path", "instance_prompt", "instance_data_dir"} <= set(fill_in)
    whole = SCRIPT.replace("$RANK", "8 --do_edm_style_training --snr_gamma 5").replace("$INSTANCE_DIR", "x")
    assert "snr_gamma" in said(imported(tmp_path, whole), About.FILL_IN)["dbr train would say"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("echo hello", "holds no command line"),
        ("accelerate launch train_dreambooth_lora_flux.py --rank 8", "trains something else"),
        ("", "holds no command line"),
    ],
)
def test_what_is_no_training_of_sdxl_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        imported(tmp_path, text)


def test_a_file_that_is_not_there_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="can't be read"):
        read_file(tmp_path / "none.sh")
    (tmp_path / "picture.sh").write_bytes(b"\xff\xfe\x00\x89")
    with pytest.raises(BadInput, match="UTF-8"):
        read_file(tmp_path / "picture.sh")


def test_every_name_that_means_something_else_is_an_option() -> None:
    assert set(OTHERWISE) <= set(OPTIONS)


@pytest.mark.parametrize(("typed", "backend"), [("INDUCTOR", "inductor"), ("no", None)])
def test_what_accelerate_was_told_to_compile_with_is_taken(tmp_path: Path, typed: str, backend: str | None) -> None:
    line = f"accelerate launch --dynamo_backend {typed} train_dreambooth_lora_sdxl.py --rank 8"
    values = imported(tmp_path, line).values
    assert (values.get("torch_compile"), values.get("dynamo_backend", "inductor")) == (
        (True, backend) if backend else (None, "inductor")
    )
