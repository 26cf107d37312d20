"""Other layers, ranks by block, convolutions: killed and resumed, every byte is that of an undisturbed run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, committed_steps, log_of, result_digests

LAYERS: dict[str, object] = {
    "lora_layers": "to_q,to_v,ff.net.2",
    "conv_dim": 2,
    "rank_pattern": "mid_block=6,attn2.to_v=3,up_blocks.0=0",
    "alpha_pattern": "ff=8",
    "lora_dropout": 0.2,
    "output_kohya_format": True,
}


def test_killed_once_ends_in_the_same_bytes(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    process = bench.start(home, **LAYERS)
    process.wait_for(lambda: committed_steps(home) != [], "the first commit")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    # What isn't given again comes from the run.
    bench.run(home, **dict.fromkeys(LAYERS))
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == undisturbed(**LAYERS)
    with safe_open(home / "pytorch_lora_weights_kohya.safetensors", framework="np") as kohya:
        names = list(kohya.keys())
        assert kohya.get_tensor("lora_unet_mid_block_resnets_0_conv1.lora_down.weight").shape[0] == 6
        assert kohya.get_tensor("lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight").shape == (2, 32, 3, 3)
        assert kohya.get_tensor("lora_unet_down_blocks_0_resnets_0_conv1.alpha") == 2
    assert not [name for name in names if "up_blocks_0" in name]


@pytest.mark.parametrize(
    ("option", "value"), [("lora_layers", "to_q"), ("use_blora", True), ("rank_pattern", "mid_block=2")]
)
def test_the_layers_stay_for_the_life_of_the_run(bench: Bench, home: Path, option: str, value: object) -> None:
    bench.run(home, max_train_steps=1, checkpointing_steps=1)
    again = bench.start(home, **{option: value})
    assert again.wait() == 2
    assert f"--{option}" in again.output()


def test_a_layer_that_the_model_lacks_is_told_before_anything_is_loaded(bench: Bench, home: Path) -> None:
    process = bench.start(home, lora_layers="to_q,to_w")
    assert process.wait() == 2
    assert "no layer to_w" in process.output()
    assert not (home / "run.json").exists()
