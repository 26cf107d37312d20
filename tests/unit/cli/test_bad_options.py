"""Bad options end in exit 2, at once and before anything is loaded, with messages that lie in bad_options.txt.

The file is the golden copy: read it as a user would. To write it anew: DBR_WRITE_GOLDEN=1 pytest <this file>.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main

pytestmark = pytest.mark.quick

GOLDEN = Path(__file__).parent / "bad_options.txt"
REQUIRED = '--pretrained_model_name_or_path model --instance_data_dir pictures --instance_prompt "a photo of sks dog" '

# What is typed behind `dbr train`, or the lines of run.yaml.
TYPED = [
    "",
    "--rank 8",
    "run.yaml",
    "--resum latest",
    "--lr 1e-4",
    "--save-steps 50",
    "--max_seq_length 77",
    "--max-trian-steps 40",
    "--warp_drive 9",
    REQUIRED + "--with_prior_preservation",
    "--num_class_images 0",
    REQUIRED + "--dataset_name owner/dogs",
    "--prior_generation_precision int8",
    "--hub_token hf_secret",
    "--enable_bucket",
    "--storage-uri bucket/dog",
    "--optimizer sgd",
    "--mixed_precision fp8",
    "--lr_scheduler cosin",
    "--rank 0",
    "--rank 4.5",
    "--rank",
    "--rank --seed 3",
    "--resolution 1020",
    "--learning_rate 1e4",
    "--lora_dropout 1",
    "--seed -1",
    "--checkpoints_total_limit 0",
    "--max_grad_norm 0",
    "--random_flip maybe",
    "--no-random-flip=true",
    "--instance_prompt ''",
    "--resume runs/dog/checkpoint-50",
    "--resume newest",
    "--config none.yaml",
    "--config a.yaml --config b.yaml",
    REQUIRED + "--lr_scheduler cosine --max_train_steps 40",
    REQUIRED + "--resume_request_id monday",
    REQUIRED + "--local_rank 1",
    "--local_rank -2",
    REQUIRED + "--learning_rate 2",
    REQUIRED + "--do_edm_style_training --snr_gamma 5",
]
FILES = [
    "rank: 4\nrank: 8",
    "rank: four",
    "rank: true",
    "rank:",
    "learning_rate: [1e-4]",
    "instance_prompt: 42",
    "instance_prompt: a: b",
    "lora:\n  rank: 4",
    "lr: 1e-4",
    "resume: true",
    "resume: latest\nresume_from_checkpoint: latest",
    "report_to: tensorbord",
    "- rank",
]


def _told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["train", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("dbr: ")
    assert lines[1].startswith("  fix: ")
    # The same for all, so it is not in the golden file.
    assert lines[2] == "  more: dbr help bad-input"
    assert "Traceback" not in printed.err
    return "".join(f"{line}\n" for line in lines[:2])


def test_messages_are_those_of_the_golden_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [f"$ dbr train {typed}".rstrip() + "\n" + _told(shlex.split(typed), capsys) for typed in TYPED]
    for text in FILES:
        Path("run.yaml").write_text(text + "\n")
        quoted = "".join(f"| {line}\n" for line in text.splitlines())
        blocks.append(f"{quoted}$ dbr train --config run.yaml\n" + _told(["--config", "run.yaml"], capsys))
    messages = "\n".join(blocks)
    assert "hf_secret" not in messages.replace("$ dbr train --hub_token hf_secret", "")
    if os.environ.get("DBR_WRITE_GOLDEN"):
        GOLDEN.write_text(messages)
    assert messages == GOLDEN.read_text()
