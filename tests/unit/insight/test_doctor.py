"""What is fatal, what is worth a look and what is fine: judged from facts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import AccessDenied, BadInput
from dreambooth_resume.insight.devices import Device
from dreambooth_resume.insight.doctor import (
    TorchBuild,
    judge_checkpoints,
    judge_clock,
    judge_gpu,
    judge_memory,
    judge_notices,
    judge_room,
)
from dreambooth_resume.insight.findings import Finding, of_error, sorted_findings
from dreambooth_resume.insight.memory import Setting, setting_of
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.sdxl.family import SdxlFamily

pytestmark = pytest.mark.quick

GIB = 2**30
CUDA = TorchBuild(version="2.13.0", cuda="12.8")


def setting(*words: str) -> Setting:
    base = ["--instance_data_dir", "d", "--instance_prompt", "p", "--pretrained_model_name_or_path", "m"]
    options = resolve(parse_train([*base, *words]), recorded=None)
    demands = SdxlFamily().demands(None, LoraSpec(rank=16, alpha=16), height=1024, width=1024)
    return setting_of(options, demands)


def device(gib: float, *, name: str = "NVIDIA L4", used: float = 0.0, driver: str = "570.133.20") -> Device:
    return Device(name=name, memory_bytes=int(gib * GIB), used_bytes=int(used * GIB), driver=driver)


SMALL = ("--mixed_precision", "bf16", "--gradient_checkpointing", "--train_batch_size", "1")


@pytest.mark.parametrize(
    ("ahead", "severity", "told"),
    [
        (0.3, "fine", "within"),
        (-45.0, "fine", "within 45 s"),
        (90.0, "warning", "90 s ahead"),
        (-3600.0, "fatal", "3,600 s behind"),
    ],
)
def test_a_wrong_clock_is_named_with_its_side(ahead: float, severity: str, told: str) -> None:
    (found,) = judge_clock(ahead, is_signed_with=True)
    assert found.severity == severity
    assert told in found.what
    assert (found.fix != "") == (severity != "fine")


def test_a_storage_that_tells_no_time_says_nothing() -> None:
    assert judge_clock(None, is_signed_with=True) == []


@pytest.mark.parametrize(
    ("devices", "build", "severity", "told"),
    [
        ([], CUDA, "warning", "no NVIDIA GPU"),
        ([device(22)], None, "fatal", "torch is not installed"),
        ([device(22)], TorchBuild(version="2.13.0+cpu", cuda=None), "fatal", "a build for CPUs"),
        ([device(22, driver="470.82.01")], CUDA, "fatal", "needs 525"),
        ([device(22, driver="570.0")], TorchBuild(version="2.13.0", cuda="13.0"), "fatal", "needs 580"),
        ([device(22)], CUDA, "fine", "driver 570.133.20"),
        ([device(22, driver="[N/A]")], CUDA, "fine", "driver [N/A]"),
        ([replace(device(22), memory_bytes=None)], CUDA, "fine", "memory not told"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_fatal(
    devices: list[Device], build: TorchBuild | None, severity: str, told: str
) -> None:
    found = judge_gpu(devices, build, setting(*SMALL))[0]
    assert (found.severity, told in found.what) == (severity, True)


def test_bf16_on_a_gpu_without_it_is_worth_a_look() -> None:
    found = judge_gpu([device(15, name="Tesla T4")], CUDA, setting(*SMALL))
    assert [(one.severity, one.fix) for one in found][1] == ("warning", "--mixed_precision fp16")


@pytest.mark.parametrize(
    ("one", "words", "severity", "told"),
    [
        (device(22), SMALL, "fine", "8.7 GB are needed"),
        (device(8), SMALL, "warning", "8.7 GB are needed"),
        (device(22, used=20), SMALL, "warning", "other programs have"),
        (replace(device(8), memory_bytes=None, used_bytes=None), (), "fine", "its driver does not tell"),
        # 10.3 GB of weights in float32 do not fit into 8.6, whatever else.
        (device(8), (), "fatal", "weights, gradients and moments alone take 10.6 GB"),
    ],
)
def test_memory_is_held_against_the_estimate(one: Device, words: tuple[str, ...], severity: str, told: str) -> None:
    (found,) = judge_memory(one, setting(*words))
    assert (found.severity, told in found.what) == (severity, True)
    assert (found.fix != "") == (severity != "fine")


def test_a_gpu_that_is_too_small_is_answered_by_what_to_change_first() -> None:
    (found,) = judge_memory(device(14), setting("--mixed_precision", "bf16", "--train_batch_size", "4"))
    assert found.fix.startswith("--train_batch_size 1 --gradient_accumulation_steps 4, then --gradient_checkpointing")


def test_what_a_machine_says_before_it_goes() -> None:
    assert "120 s ahead" in judge_notices("aws", 120.0, is_asked=True)[0].what
    assert "no cloud's metadata service" in judge_notices(None, None, is_asked=True)[0].what
    assert "--spot none" in judge_notices(None, None, is_asked=False)[0].what


def test_a_download_needs_room() -> None:
    assert judge_room(None, 5, where="c") == judge_room(5, 0, where="c") == []
    assert judge_room(10 * GIB, 7 * GIB, where="c")[0].severity == "fine"
    assert judge_room(6 * GIB, 7 * GIB, where="c")[0].severity == "fatal"


def test_errors_become_findings_with_their_fix() -> None:
    found = of_error("home", BadInput("is wrong", where="--rank", fix="--rank 4"))
    assert (found.what, found.where, found.fix) == ("is wrong", "--rank", "--rank 4")
    found = of_error(
        "base model", AccessDenied("o/m is gated. Accept its terms at https://hf.co/o/m, then: hf auth login")
    )
    assert found.what == "o/m is gated"
    assert found.fix.endswith("hf auth login")


def test_the_worst_comes_first_and_nothing_twice() -> None:
    fine, fatal = (Finding(severity=one, about="a", what=one) for one in ("fine", "fatal"))
    assert sorted_findings([fine, fatal, fine]) == (fatal, fine)


@pytest.mark.parametrize(("count", "severity", "fix"), [(2, "fine", ""), (9, "fatal", "make room, or keep fewer")])
def test_room_for_checkpoints_is_judged_before_a_base_model_is_fetched(count: int, severity: str, fix: str) -> None:
    (found,) = judge_checkpoints(GIB, 0.3 * GIB, count, where="runs/dog")
    assert (found.severity, found.about) == (severity, "disk")
    assert f"{count} checkpoints of 322 MB at once at least" in found.what
    assert fix in found.fix


def test_an_error_of_one_sentence_has_its_fix_in_its_last_part() -> None:
    found = of_error("base model", AccessDenied("the Hub refuses it; type: hf auth login"))
    assert (found.what, found.fix) == ("the Hub refuses it", "type: hf auth login")
