"""LoHa and LoKr: killed and resumed, every byte is that of an undisturbed run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, committed_steps, log_of, result_digests

LOHA: dict[str, object] = {
    "lora_type": "loha",
    "lora_alpha": 2,
    "use_ema": True,
    "gradient_checkpointing": True,
    "max_train_steps": 4,
}
LOKR: dict[str, object] = {
    "lora_type": "lokr",
    "lokr_factor": 4,
    "conv_dim": 2,
    "lora_alpha": 2,
    "max_train_steps": 4,
    "output_kohya_format": True,
    "mixed_precision": "bf16",
    "validation_steps": 3,
}


@pytest.mark.parametrize("options", [LOHA, LOKR], ids=["loha", "lokr"])
def test_killed_once_ends_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, home: Path, options: dict[str, object]
) -> None:
    if options is LOKR:
        prompts = bench.folder / "prompt.txt"
        prompts.write_text("a photo of sks robot --w 64 --h 64 --s 2\n")
        options = {**options, "validation_prompts_file": prompts}
    process = bench.start(home, **options)
    process.wait_for(lambda: committed_steps(home) != [], "the first commit")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    # What isn't given again comes from the run.
    bench.run(home, **dict.fromkeys(options))
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == undisturbed(**options)
    with safe_open(home / "pytorch_lora_weights.safetensors", framework="np") as weights:
        ends = {name.rpartition(".")[2][:4] for name in weights.keys()}  # noqa: SIM118
        assert ends == {"hada" if options["lora_type"] == "loha" else "lokr"}
        idle = [name for name in weights.keys() if not weights.get_tensor(name).any()]  # noqa: SIM118
    assert idle == []
    assert len(list(home.glob("samples/*/*.png"))) == (2 if "validation_prompts_file" in options else 0)
    assert "get_peft_config" in (home / "README.md").read_text()
