"""Same bits on the same machine, and an honest list of what differs between two."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

from dreambooth_resume.training.numerics import compare_fingerprints, numerics_fingerprint


def fingerprint(**changes: object) -> dict[str, str]:
    facts = {"micro_batch_size": 2, "mixed_precision": "no", "allow_tf32": False, **changes}
    return numerics_fingerprint(device=torch.device("cpu"), **facts)  # type: ignore[arg-type]


def test_fingerprint_names_what_decides_the_bits_on_a_cpu() -> None:
    facts = fingerprint()
    assert {"device", "torch", "diffusers", "peft", "numpy", "safetensors", "torch_threads"} <= facts.keys()
    assert {"cpu_capability", "cpu_instructions", "micro_batch_size", "mixed_precision"} <= facts.keys()
    assert facts["device"] == "cpu"
    assert facts["torch_threads"] == str(torch.get_num_threads())
    assert list(facts) == sorted(facts)
    assert json.loads(json.dumps(facts)) == facts


def test_equal_fingerprints_have_no_differences() -> None:
    assert compare_fingerprints(fingerprint(), fingerprint()) == ()


def test_differences_are_named_with_both_values() -> None:
    then, now = fingerprint(), fingerprint(micro_batch_size=1)
    now["torch"] = "9.9.9"
    now["cudnn"] = "1"
    assert compare_fingerprints(then, now) == (
        ("cudnn", "-", "1"),
        ("micro_batch_size", "2", "1"),
        ("torch", then["torch"], "9.9.9"),
    )


def test_a_package_that_the_options_need_counts_and_one_of_which_there_is_no_record_does_not() -> None:
    now = fingerprint(packages=("prodigyopt",))
    assert compare_fingerprints({**now, "prodigyopt": "1.0"}, now) == (("prodigyopt", "1.0", now["prodigyopt"]),)
    # A run of an earlier release, which noted no such package.
    assert compare_fingerprints(fingerprint(), now) == ()


def test_make_deterministic_sets_torchs_switches() -> None:
    # In a process of its own: the switches hold for a whole process, and other tests are to run without them.
    script = """
import json, os, torch
from dreambooth_resume.training.numerics import make_deterministic
make_deterministic(allow_tf32=True, torch_threads=1)
print(json.dumps([
    torch.are_deterministic_algorithms_enabled(),
    torch.is_deterministic_algorithms_warn_only_enabled(),
    torch.backends.cudnn.benchmark,
    torch.backends.cuda.matmul.allow_tf32,
    torch.backends.cudnn.allow_tf32,
    torch.get_num_threads(),
    os.environ["CUBLAS_WORKSPACE_CONFIG"],
]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(output.stdout) == [True, False, False, True, True, 1, ":4096:8"]
    assert output.stderr == ""
