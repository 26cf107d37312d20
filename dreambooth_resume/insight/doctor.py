"""Judges what `workflows.doctor` has asked for: pure functions from facts to findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth_resume.insight.devices import Device
from dreambooth_resume.insight.findings import Finding
from dreambooth_resume.insight.gpus import gpu_of
from dreambooth_resume.insight.memory import (
    FITS_SHARE,
    Setting,
    certain_bytes,
    encoding_bytes,
    needed_bytes,
    what_to_change,
)

_CLOCK_WARNING_SECONDS, _CLOCK_FATAL_SECONDS = 60.0, 600.0
"""S3 refuses what was signed by a clock that is wrong by a quarter of an hour; a drifting one comes there later."""
_LARGE_MODEL_PARAMETERS = 500_000_000
# Source: NVIDIA's table of CUDA versions and drivers for Linux; within 12 the oldest driver of 12 will do.
_OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """The installed torch; `cuda` None: one for CPUs."""

    version: str
    cuda: str | None


LATER = Finding(
    severity="fine", about="start", what="the rest of what a start looks at is looked at once the base model is here"
)
"""Where there is no base model on this machine yet."""


def judge_clock(ahead_seconds: float | None, *, is_signed_with: bool) -> list[Finding]:
    """This machine's clock against the storage's. `is_signed_with`: the storage refuses who is too far off.

    In a folder nothing is decided by it, but other machines judge by the age of a heartbeat whether a run lives.
    """
    if ahead_seconds is None:
        return []
    off, side = abs(ahead_seconds), "ahead" if ahead_seconds > 0 else "behind"
    fix = "sudo timedatectl set-ntp true"
    if off >= _CLOCK_FATAL_SECONDS and is_signed_with:
        what = (
            f"this machine's clock is {off:,.0f} s {side} of the storage's, which soon refuses what is signed with it"
        )
        return [Finding(severity="fatal", about="clock", what=what, fix=fix)]
    if off >= _CLOCK_WARNING_SECONDS:
        what = f"this machine's clock is {off:,.0f} s {side} of the storage's"
        if not is_signed_with:
            what += ": on other machines dbr status may be wrong about whether the run lives"
        return [Finding(severity="warning", about="clock", what=what, fix=fix)]
    return [Finding(severity="fine", about="clock", what=f"within {max(1.0, off):.0f} s of the storage's")]


def judge_gpu(devices: Sequence[Device], build: TorchBuild | None, setting: Setting) -> list[Finding]:
    """Is there a GPU, and can this torch use it?"""
    if build is None:
        what = "torch is not installed"
        return [Finding(severity="fatal", about="gpu", what=what, fix="pip install torch==2.13.0")]
    if not devices:
        return [_no_gpu(setting)]
    device = devices[0]
    if build.cuda is None:
        what = f"there is a {device.name}, and torch {build.version} is a build for CPUs: it would not be used"
        fix = "pip install --force-reinstall torch==2.13.0, from a source that has it for CUDA"
        return [Finding(severity="fatal", about="gpu", what=what, fix=fix)]
    needed, driver = _OLDEST_DRIVERS.get(_major(build.cuda)), _major(device.driver)
    if needed is not None and 0 < driver < needed:
        what = f"the driver {device.driver} is too old for torch's CUDA {build.cuda}, which needs {needed} or newer"
        fix = f"install a driver from {needed} on, or a torch for an older CUDA"
        return [Finding(severity="fatal", about="gpu", what=what, fix=fix)]
    size = f"{device.memory_bytes / 1e9:.1f} GB" if device.memory_bytes is not None else "memory not told"
    what = f"{device.name}, {size}, driver {device.driver}, torch's CUDA {build.cuda}"
    found = [Finding(severity="fine", about="gpu", what=what)]
    gpu = gpu_of(device.name, device.memory_bytes)
    if gpu is not None and not gpu.has_bf16 and setting.precision == "bf16":
        what, fix = f"a {gpu.title} has no bf16: it computes it, slowly", "--mixed_precision fp16"
        found.append(Finding(severity="warning", about="gpu", what=what, where="--mixed_precision bf16", fix=fix))
    return found


def judge_memory(device: Device, setting: Setting) -> list[Finding]:
    """Does the training fit into the GPU's memory, by the estimate?"""
    needed = max(needed_bytes(setting), encoding_bytes(setting))
    if (total := device.memory_bytes) is None:
        what = f"about {needed / 1e9:.1f} GB are needed; how much the GPU has, its driver does not tell"
        return [Finding(severity="fine", about="memory", what=what, where=device.name)]
    used = device.used_bytes or 0
    where = f"{device.name}, {total / 1e9:.1f} GB"
    changes = what_to_change(setting, total)
    fix = ", then ".join(change.words for change in changes)
    if (certain := certain_bytes(setting)) > total:
        what = f"weights, gradients and moments alone take {certain / 1e9:.1f} GB"
        return [Finding(severity="fatal", about="memory", what=what, where=where, fix=fix)]
    told = f"about {needed / 1e9:.1f} GB are needed"
    if needed > FITS_SHARE * total:
        what = f"{told}: the run may go on in smaller portions by itself, or end"
        return [Finding(severity="warning", about="memory", what=what, where=where, fix=fix)]
    if needed > total - used:
        what = f"{told}, and other programs have {used / 1e9:.1f} GB"
        fix = "nvidia-smi shows them: end those that you don't need"
        return [Finding(severity="warning", about="memory", what=what, where=where, fix=fix)]
    return [Finding(severity="fine", about="memory", what=f"{told} of {total / 1e9:.1f} GB (dbr estimate)")]


def judge_notices(source: str | None, lead_seconds: float | None, *, is_asked: bool) -> list[Finding]:
    """Will this machine say that it goes away? `source` is what answered, `is_asked` False for `--spot none`."""
    if not is_asked:
        what = "no cloud is asked for notices (--spot none): only signals and dbr stop are heeded"
        return [Finding(severity="fine", about="notices", what=what)]
    if source is None:
        what = "no cloud's metadata service answers here: only signals, --notice_file and dbr stop are heeded"
        return [Finding(severity="fine", about="notices", what=what)]
    what = f"{source} answers, and tells {lead_seconds or 0:.0f} s ahead that a machine goes"
    return [Finding(severity="fine", about="notices", what=what)]


def judge_room(free_bytes: int | None, download_bytes: int, *, where: str) -> list[Finding]:
    """Is there room for what is to be downloaded?"""
    if free_bytes is None or download_bytes == 0:
        return []
    told = f"{download_bytes / 1e9:.1f} GB are to be downloaded, and {free_bytes / 1e9:.1f} GB are free"
    if free_bytes < download_bytes:
        fix = "make room, or --cache_dir FOLDER on another disk"
        return [Finding(severity="fatal", about="disk", what=told, where=where, fix=fix)]
    return [Finding(severity="fine", about="disk", what=told, where=where)]


def judge_checkpoints(free_bytes: int, each_bytes: float, count: int, *, where: str) -> list[Finding]:
    """Is there room for what the run will hold at once? `each_bytes`: weights and moments of one."""
    needed = f"{count} checkpoint{'s' if count > 1 else ''} of {each_bytes / 1e6:,.0f} MB at once"
    told = f"{needed} at least, and {free_bytes / 1e9:,.1f} GB are free"
    if free_bytes < count * each_bytes:
        fewer = ", or keep fewer: --checkpoints_total_limit 2" if count > 3 else ""
        return [Finding(severity="fatal", about="disk", what=told, where=where, fix=f"make room{fewer}")]
    return [Finding(severity="fine", about="disk", what=told, where=where)]


def _no_gpu(setting: Setting) -> Finding:
    if setting.demands.denoiser_parameters < _LARGE_MODEL_PARAMETERS:
        return Finding(severity="fine", about="gpu", what="none: a model of this size trains on a CPU")
    what = "no NVIDIA GPU can be used here: a step of such a model takes minutes on a CPU"
    fix = "train on a machine with one: dbr launch --help; what it takes: dbr estimate --config run.yaml"
    return Finding(severity="warning", about="gpu", what=what, fix=fix)


def _major(version: str) -> int:
    """0: not known."""
    first = version.partition(".")[0]
    return int(first) if first.isdecimal() else 0
