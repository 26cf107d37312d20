"""Memory, time and cost, against arithmetic by hand; and the tables behind them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import BadInput
from dreambooth_resume.insight.devices import Device, DevicesUnknown, DeviceTrouble, devices_here, visible
from dreambooth_resume.insight.estimate import Chances, Machine, Workload, estimate, measured_speed, speed_of
from dreambooth_resume.insight.gpus import GPUS, gpu_named, gpu_of
from dreambooth_resume.insight.memory import (
    MOMENT_BYTES,
    Setting,
    certain_bytes,
    encoding_bytes,
    memory_parts,
    needed_bytes,
    setting_of,
    what_to_change,
)
from dreambooth_resume.insight.prices import price_of
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.sdxl.family import SdxlFamily
from dreambooth_resume.workflows.room import CHECKPOINT_BYTES_PER_PARAMETER

pytestmark = pytest.mark.quick

UNET, LINEAR, PER_RANK = 2_567_463_684, 2_225_356_800, 1_451_520
GB = 1_000_000_000


def setting(*words: str, rank: int = 16) -> Setting:
    base = ["--instance_data_dir", "d", "--instance_prompt", "p", "--pretrained_model_name_or_path", "m"]
    options = resolve(parse_train([*base, "--rank", str(rank), *words]), recorded=None)
    side = options.data.resolution
    demands = SdxlFamily().demands(None, LoraSpec(rank=rank, alpha=rank), height=side, width=side)
    return setting_of(options, demands)


def sizes(of: Setting) -> dict[str, float]:
    return {part.name: part.size_bytes for part in memory_parts(of)}


def test_each_part_is_what_arithmetic_by_hand_says() -> None:
    found = sizes(setting("--mixed_precision", "bf16", "--gradient_checkpointing", "--train_batch_size", "1"))
    assert found["UNet in bf16"] == UNET * 2
    assert found["LoRA and its gradients"] == 16 * PER_RANK * 8
    assert found["optimizer: AdamW"] == 16 * PER_RANK * 8
    assert found["copy while a checkpoint is written"] == 16 * PER_RANK * 12
    assert found["activations"] == pytest.approx((0.556 + 2 * 0.252) * GB, rel=0.01)
    rest = sum(size for name, size in found.items() if name != "what the allocator holds back")
    assert found["what the allocator holds back"] == pytest.approx(rest / 10)
    assert rest * 1.1 == pytest.approx(8.7 * GB, rel=0.01)


def test_every_part_says_where_its_number_comes_from() -> None:
    parts = memory_parts(setting("--no-cache_latents", "--use_ema", "--train_text_encoder", "--base_precision", "fp8"))
    assert all(len(part.source) > 6 for part in parts)
    names = {part.name for part in parts}
    assert {"VAE", "EMA", "text encoders in float32", "UNet: linear layers in fp8"} <= names


@pytest.mark.parametrize(("kind", "each"), [("nf4", 0.516), ("int8", 1.0), ("fp8", 1.0)])
def test_a_quantised_base_is_smaller_in_its_linear_layers(kind: str, each: float) -> None:
    found = sizes(setting("--mixed_precision", "bf16", "--base_precision", kind))
    assert found[f"UNet: linear layers in {kind}"] == pytest.approx(LINEAR * each)
    assert found["UNet: the rest in bf16"] == (UNET - LINEAR) * 2


@pytest.mark.parametrize(
    ("words", "moments"),
    [
        (["--optimizer", "AdamW"], 8),
        (["--use_8bit_adam"], 3),
        (["--optimizer", "prodigy", "--learning_rate", "1"], 16),
        (["--optimizer", "Lion"], 4),
    ],
)
def test_moments_are_those_of_the_optimizer(words: list[str], moments: int) -> None:
    of = setting(*words, rank=8)
    (found,) = [part for part in memory_parts(of) if part.name.startswith("optimizer")]
    assert found.size_bytes == 8 * PER_RANK * moments
    assert certain_bytes(of) == UNET * 4 + 8 * PER_RANK * (8 + moments)


def test_what_is_certain_has_no_assumption_in_it() -> None:
    with_vae = setting("--cache_latents", "false", rank=8)
    assert certain_bytes(with_vae) == UNET * 4 + 83_653_863 * 4 + 8 * PER_RANK * 16


def test_activations_grow_with_pictures_at_once_pixels_and_class_pictures() -> None:
    one = setting("--train_batch_size", "1", "--mixed_precision", "bf16")
    four = setting("--train_batch_size", "4", "--mixed_precision", "bf16")
    small = setting("--train_batch_size", "4", "--mixed_precision", "bf16", "--resolution", "512")
    prior = setting(
        *["--train_batch_size", "1", "--mixed_precision", "bf16", "--with_prior_preservation"],
        *["--class_prompt", "dog"],
    )
    single = sizes(one)["activations"]
    assert sizes(four)["activations"] == pytest.approx(4 * single)
    assert sizes(small)["activations"] == pytest.approx(single, rel=0.01)
    assert sizes(prior)["activations"] == pytest.approx(2 * single)


def test_what_to_change_comes_in_the_order_of_what_it_costs() -> None:
    large = setting("--train_batch_size", "4", "--no-cache_latents")
    words = [change.words for change in what_to_change(large, 4 * GB)]
    assert words == [
        "--train_batch_size 1 --gradient_accumulation_steps 4",
        "--gradient_checkpointing",
        "--cache_latents",
        "--mixed_precision bf16",
        "--base_precision nf4",
        "--use_8bit_adam",
        "--offload",
        "--resolution 768",
        "--resolution 512",
    ]
    needed = [change.needed_bytes for change in what_to_change(large, 4 * GB)]
    assert needed == sorted(needed, reverse=True)
    assert [change.words for change in what_to_change(large, 4 * GB, has_bf16=False)][3] == "--mixed_precision fp16"


def test_it_ends_with_the_first_change_that_makes_it_fit() -> None:
    large = setting("--train_batch_size", "4", "--mixed_precision", "bf16")
    changes = what_to_change(large, GPUS["t4"].memory_bytes)
    assert [change.in_a_run for change in changes] == [True, True]
    assert changes[-1].needed_bytes <= 0.9 * GPUS["t4"].memory_bytes < changes[0].needed_bytes
    assert what_to_change(large, GPUS["h100"].memory_bytes) == ()
    # As it would be typed.
    done = setting(*["--mixed_precision", "bf16", "--train_batch_size", "1", "--gradient_checkpointing"])
    assert needed_bytes(replace(done, accumulation=4)) == pytest.approx(changes[-1].needed_bytes)


def test_offload_leaves_a_twenty_fifth_of_the_unet_on_the_gpu() -> None:
    found = sizes(setting("--mixed_precision", "bf16", "--offload", "--train_batch_size", "1"))
    assert found["UNet in bf16, in turn"] == pytest.approx(0.204 * GB, rel=0.01)
    assert found["activations"] == pytest.approx((0.556 + 2 * 0.252) * GB, rel=0.01)  # checkpointed always


@pytest.mark.parametrize("kind", sorted(MOMENT_BYTES))
def test_a_checkpoint_holds_weights_and_moments(kind: str) -> None:
    masters = 4 if kind == "AdamWScheduleFree" else 0
    assert CHECKPOINT_BYTES_PER_PARAMETER[kind] == 4 + MOMENT_BYTES[kind] + masters


def test_encoding_needs_the_encoders_in_float32() -> None:
    assert encoding_bytes(setting()) == pytest.approx((817_720_320 + 83_653_863) * 4 + 3 * GB + GB)


def workload(*words: str) -> Workload:
    return Workload(
        model="m",
        setting=setting("--mixed_precision", "bf16", "--gradient_checkpointing", "--train_batch_size", "1", *words),
        steps=1000,
        effective_batch=4,
        latents=0,
        denoising_steps=0,
        pictures=0,
        interval_steps=100,
        interval_seconds=None,
    )


def test_time_and_cost_are_the_operations_over_the_speed() -> None:
    work, gpu = workload(), GPUS["a100"]
    # 6.803 TFLOP forward, 7.44 backward and 0.757 of the forward pass again, for four pictures.
    assert work.step_flops == pytest.approx(4 * (6.803 + 7.444 + 0.757 * 6.803) * 1e12, rel=0.01)
    speed = speed_of(gpu, work, efficiency=0.5)
    assert speed.step_seconds == pytest.approx(work.step_flops / 156e12)
    price = price_of(None, per_hour=1.0, on_demand_per_hour=3.0)
    machine = Machine(name="a100", title="A", speed=speed, memory_bytes=gpu.memory_bytes, price=price)
    (one,) = estimate(work, (machine,), Chances(mean=1e9)).machines
    assert one.train_seconds == pytest.approx(1000 * speed.step_seconds)
    assert one.total_seconds == pytest.approx(one.train_seconds + 60.0 + one.saves_seconds)
    assert one.on_demand_cost == pytest.approx(one.total_seconds / 3600 * 3.0)
    assert one.spot_cost == pytest.approx(one.total_seconds / 3600, rel=0.01)
    assert one.fits is True


def test_two_gpus_take_twice_the_samples_in_a_step_of_the_same_length_and_are_both_paid_for() -> None:
    one, gpu = workload(), GPUS["a100"]
    two = replace(one, effective_batch=2 * one.effective_batch, processes=2)
    assert speed_of(gpu, two).step_seconds == speed_of(gpu, one).step_seconds
    assert speed_of(gpu, two).flops == speed_of(gpu, one).flops, "one of them encodes and paints"
    assert "on 2 GPUs at once" in speed_of(gpu, two).source
    assert measured_speed(1.0, two, source="").flops == measured_speed(1.0, one, source="").flops
    cheap, dear = price_of("l4"), price_of("l4", gpus=2)
    assert cheap is not None
    assert dear is not None
    assert dear.on_demand_per_hour == 2 * (cheap.on_demand_per_hour or 0.0) > 0.0
    assert dear.source.startswith("2 x ")
    assert price_of("l4", per_hour=0.4, gpus=2) == price_of("l4", per_hour=0.4), "of the whole machine"


def test_more_interruptions_cost_more_and_saves_at_the_best_interval_less() -> None:
    work = replace(workload(), interval_steps=500)
    machine = Machine(name="x", title="X", speed=measured_speed(3.0, work, source="by hand"))
    rare, often = (
        estimate(work, (machine,), Chances(mean=hours * 3600)).machines[0].interrupted for hours in (24, 0.5)
    )
    assert rare.without_notice is not None
    assert often.without_notice is not None
    assert often.at_best_interval is not None
    assert rare.without_notice.paid < often.without_notice.paid
    assert often.at_best_interval.paid < often.without_notice.paid
    assert rare.best_interval_seconds > often.best_interval_seconds


def test_a_gpu_without_bf16_is_said() -> None:
    work = workload()
    machine = Machine(name="t4", title="T4", speed=speed_of(GPUS["t4"], work), has_bf16=False)
    assert "fp16" in estimate(work, (machine,), Chances()).machines[0].remark


def test_gpus_are_found_by_every_usual_name() -> None:
    assert gpu_named("H100") is gpu_named("nvidia-h100") is GPUS["h100"]
    assert gpu_named("RTX 4090") is GPUS["rtx4090"]
    for name, mib, wanted in (
        ("Tesla T4", 15_360, "t4"),
        ("NVIDIA A10G", 23_028, "a10g"),
        ("NVIDIA L4", 23_034, "l4"),
        ("NVIDIA L40S", 46_068, "l40s"),
        ("NVIDIA GeForce RTX 4090", 24_564, "rtx4090"),
        ("NVIDIA A100-SXM4-40GB", 40_960, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 81_920, "a100"),
        ("NVIDIA H100 80GB HBM3", 81_559, "h100"),
        ("NVIDIA H200", 143_771, "h200"),
        ("Tesla V100-SXM2-16GB", 16_384, "v100"),
    ):
        found = gpu_of(name, mib * 2**20)
        assert found is not None, name
        assert found.name == wanted
    assert gpu_of("AMD Instinct MI300X", 192 * GB) is None
    with pytest.raises(BadInput, match="is no GPU") as refused:
        gpu_named("h10")
    assert "--gpu h100" in str(refused.value.fix)


def test_the_price_table_has_a_date_a_source_and_gpus_that_there_are() -> None:
    import dreambooth_resume.insight as package

    table = json.loads((Path(str(package.__path__[0])) / "prices.json").read_text())
    assert table["date"].startswith("20")
    assert set(table["gpus"]) <= set(GPUS)
    for name, row in table["gpus"].items():
        assert 0 < row["spot_per_hour"] < row["on_demand_per_hour"], name
        assert row["source"]
    listed, given = price_of("l4"), price_of("l4", per_hour=0.2)
    assert listed is not None
    assert table["date"] in listed.source
    assert given is not None
    assert (given.spot_per_hour, given.source) == (0.2, "as given")
    assert price_of("v100") is None


def _driver(folder: Path, text: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_the_drivers_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert devices_here() == ()
    _driver(tmp_path, "echo 'NVIDIA L4, 23034, 12, 570.133.20'")
    assert devices_here() == (
        Device(name="NVIDIA L4", memory_bytes=23_034 * 2**20, used_bytes=12 * 2**20, driver="570.133.20"),
    )
    _driver(tmp_path, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    with pytest.raises(DeviceTrouble, match="version mismatch"):
        devices_here()
    monkeypatch.setattr("dreambooth_resume.insight.devices._PATIENCE_SECONDS", 0.1)
    _driver(tmp_path, "exec sleep 60")
    with pytest.raises(DevicesUnknown, match="has not answered within"):
        devices_here()


def test_what_the_driver_has_no_number_for_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    said = "NVIDIA GB10, [N/A], [Insufficient Permissions], 580.1, GPU-1"
    _driver(tmp_path, f"printf 'caf\\351: a warning\\n'; echo '{said}'")
    assert devices_here() == (
        Device(name="NVIDIA GB10", memory_bytes=None, used_bytes=None, driver="580.1", uuid="GPU-1"),
    )


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["H100", "L4", "T4"]),
        ("", []),
        ("-1", []),
        ("2,0", ["L4", "T4"]),
        ("GPU-b", ["H100"]),
        ("1,7,0", ["H100"]),
    ],
)
def test_the_gpus_are_those_that_cuda_will_see(
    chosen: str | None, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    rows = ["T4, 15360, 0, 570, GPU-a1", "H100, 81559, 0, 570, GPU-b2", "L4, 23034, 0, 570, GPU-c3"]
    _driver(tmp_path, "\n".join(f"echo '{row}'" for row in rows))
    assert [device.name for device in devices_here()] == names


def test_of_a_part_of_a_gpu_the_memory_is_not_known() -> None:
    whole = Device(name="H100", memory_bytes=80 * 2**30, used_bytes=0, driver="570")
    assert visible([whole], "MIG-5f1")[0].memory_bytes is None
