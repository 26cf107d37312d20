"""`dbr estimate`: what is printed, what is refused, and a run's own numbers beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.runs.record import Pins, new_record, write_record
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import measure

ROOT = Path(__file__).parents[3]
PRESET = ["--config", str(ROOT / "configs" / "sdxl_12gb.yaml"), "--max_train_steps", "800"]


def test_one_gpu_is_told_part_by_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["estimate", *PRESET, "--gpu", "l4", "--trace", "evenings"]) == 0
    page = capsys.readouterr().out
    for told in (
        "counted by stock SDXL's shapes",
        "2,567.5 million numbers x 2 bytes",
        "L4, 24.2 GB: it fits",
        "800 steps of 4 pictures, 1 at once",
        "trace evenings",
        "the best interval is",
        "on spot with interruptions",
    ):
        assert told in page, told


def test_without_a_name_every_gpu_has_a_row_and_this_machines_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA L4, 23034, 12, 570.1'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["estimate", *PRESET, "--json", "--price-per-hour", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [one["machine"]["name"] for one in found["machines"]]
    assert names[0] == "here"
    assert {"l4", "a10g", "t4", "rtx4090", "a100", "h100", "h200"} <= set(names)
    here = found["machines"][0]
    assert here["machine"]["memory_bytes"] == 23_034 * 2**20
    assert here["spot_cost"] == pytest.approx(here["interrupted"]["without_notice"]["paid"] / 3600 * 0.5)
    assert here["on_demand_cost"] is None
    assert found["needed_bytes"] == pytest.approx(sum(part["size_bytes"] for part in found["parts"]))


def test_what_does_not_fit_is_told_what_to_change_first(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--train_batch_size", "4", "--no-gradient_checkpointing"]
    assert main(["estimate", *PRESET, *words, "--gradient_accumulation_steps", "1", "--gpu", "t4"]) == 0
    page = capsys.readouterr().out
    assert "it does not fit" in page
    assert "1. --train_batch_size 1 --gradient_accumulation_steps 4" in page
    assert "2. --gradient_checkpointing" in page
    assert "it has no bf16: --mixed_precision fp16" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "needs a run file"),
        ([*PRESET, "--gpu", "potato"], "is no GPU of the table"),
        ([*PRESET, "--gpu", ","], "names no GPU"),
        ([*PRESET, "--hours-between-interruptions", "0"], "is not between"),
        ([*PRESET, "--hours-between-interruptions", "nan"], "is not between"),
        ([*PRESET, "--efficiency", "1.5"], "is not between"),
        ([*PRESET, "--step-seconds", "soon"], "invalid float value"),
        ([*PRESET, "--trace", "/nowhere.csv"], "can't be read"),
        ([*PRESET, "--rnak", "4"], "rank"),
        (["--config", "/nowhere.yaml"], "nowhere.yaml"),
        (["--home", "/nowhere"], "there is no such folder"),
        (["--home", "runs/dog", "--rank", "4"], "a run's options are in its home"),
        (["--pretrained_model_name_or_path", "a/b", "--instance_data_dir", "/no", "--instance_prompt", "p"], "/no"),
    ],
)
def test_bad_input_is_refused_with_the_fix(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *words]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert "fix: " in shown


def _run(folder: Path) -> LocalStorage:
    storage = LocalStorage(folder)
    options = {
        "pretrained_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0",
        "instance_data_dir": "/nowhere",
        "instance_prompt": "a photo of sks dog",
        "train_batch_size": 1,
        "gradient_accumulation_steps": 4,
        "max_train_steps": 10,
        "mixed_precision": "bf16",
        "seed": 1,
    }
    numerics = {"device": "cuda", "device_name": "NVIDIA L4"}
    write_record(
        storage,
        new_record(
            options=dict(options),
            seed=1,
            effective_batch=4,
            block_size=1,
            pins=Pins(base_model={}, dataset="d"),
            numerics=numerics,
        ),
    )
    return storage


def test_a_run_is_held_against_its_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = _run(tmp_path / "dog")
    first = begin(storage, "A")
    first.commit(1)
    second = begin(storage, "B")
    second.commit(3)
    measure(storage, 2, dict.fromkeys(range(2, 8), 0.5), seconds=2.5)
    second.stop()
    assert main(["estimate", "--home", str(storage.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "NVIDIA L4"
    assert found["estimate"]["machines"][0]["machine"]["name"] == "l4"
    assert found["happened"]["step"] == 3
    assert found["happened"]["interruptions"] == 2  # one was lost, one was told to leave
    assert main(["estimate", "--home", str(storage.root)]) == 0
    page = capsys.readouterr().out
    assert "estimate" in page
    assert "happened" in page


def test_a_run_that_nobody_has_trained_has_nothing_to_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = _run(tmp_path / "dog")
    assert main(["estimate", "--home", str(storage.root)]) == 2
    assert "nothing was trained here yet" in capsys.readouterr().err


def test_no_heavy_library_is_loaded_and_nothing_is_written(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom dreambooth_resume.cli.main import main\n"
        f"code = main({['estimate', *PRESET, '--gpu', 'l4', '--output_dir', 'home']!r})\n"
        "print('heavy:', code, [name for name in ('torch', 'diffusers', 'boto3') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=100, check=False
    )
    assert done.stdout.splitlines()[-1] == "heavy: 0 []", done.stderr
    assert list(tmp_path.iterdir()) == []
