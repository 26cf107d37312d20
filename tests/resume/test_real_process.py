"""The same promise through a real `exec`, and the result in the hands of plain Diffusers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, committed_steps, result_digests, shown_step

LENGTH = {"max_train_steps": 20, "checkpointing_steps": 5}


def command(bench: Bench, home: Path, **changed: object) -> list[str]:
    return [sys.executable, "-m", "dreambooth_resume", "train", *bench.words(home, **changed)]


def test_exec_kill_and_exec_again(bench: Bench, undisturbed: Undisturbed, home: Path, tmp_path: Path) -> None:
    words, log = command(bench, home, **LENGTH), tmp_path / "output.txt"
    with log.open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + 90
        # Saves go on behind the training: on a slow disk step 6 is made before the checkpoint of step 5 is there.
        while not (shown_step(log.read_text()) >= 6 and committed_steps(home)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    again = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
    assert again.returncode == 0, again.stderr
    assert "Resuming from checkpoint-" in again.stdout
    assert result_digests(home) == undisturbed(**LENGTH)


LOAD = """
import sys, torch
from diffusers import StableDiffusionXLPipeline
def picture(pipe):
    return pipe("a photo of sks robot", num_inference_steps=2, height=32, width=32, output_type="np",
                generator=torch.Generator().manual_seed(1)).images[0]
for folder in sys.argv[2:]:
    torch.manual_seed(0)
    pipe = StableDiffusionXLPipeline.from_pretrained(sys.argv[1])
    pipe.set_progress_bar_config(disable=True)
    before = picture(pipe)
    pipe.load_lora_weights(folder)
    config = pipe.unet.peft_config["default_0"]
    print("rank", config.r, "alpha", config.lora_alpha, "changed", float(abs(picture(pipe) - before).max()) > 1e-4)
"""


def test_plain_diffusers_loads_the_result_with_its_alpha(bench: Bench, home: Path) -> None:
    bench.run(home, rank=2, lora_alpha=16, learning_rate=1e-2)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(bench.model), str(home), str(home / "checkpoint-6")],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["rank 2 alpha 16 changed True"] * 2
