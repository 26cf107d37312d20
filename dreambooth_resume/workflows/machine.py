"""This machine's GPU, driver and memory against what a run needs: asked by `dbr doctor`, and at every start."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.insight.devices import DevicesUnknown, DeviceTrouble, devices_here
from dreambooth_resume.insight.doctor import TorchBuild, judge_gpu, judge_memory
from dreambooth_resume.insight.findings import Finding
from dreambooth_resume.insight.memory import setting_of
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.workflows.adapter import adapter_of
from dreambooth_resume.workflows.estimate import find_model


def judge_here(options: TrainOptions, source: ModelSource | None = None) -> list[Finding]:
    """This machine's GPU, driver and memory against what the run needs: the quick part, for `dbr train`, too."""
    family = family_named(source.family) if source is not None else find_model(options)[0]
    side = options.data.resolution
    demands = family.demands(
        source,
        adapter_of(options, family, source),
        height=side,
        width=side,
        text_encoders=options.lora.train_text_encoder,
    )
    setting = setting_of(options, demands)
    try:
        devices = devices_here()
    except DevicesUnknown as trouble:
        what, fix = f"not known: {trouble}", "nvidia-smi shows whether it answers at all"
        return [Finding(severity="warning", about="gpu", what=what, fix=fix)]
    except DeviceTrouble as trouble:
        fix = "install the driver again, or start the machine anew"
        return [Finding(severity="fatal", about="gpu", what=f"the driver can't tell of a GPU: {trouble}", fix=fix)]
    found = judge_gpu(devices, torch_build(), setting)
    if devices and not any(finding.severity == "fatal" for finding in found):
        found += judge_memory(devices[0], setting)
    return found


def torch_build() -> TorchBuild | None:
    """What torch is installed, from its files: importing it takes seconds. None: none."""
    try:
        name = version("torch")
        spec = find_spec("torch")
    except (PackageNotFoundError, ImportError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "version.py"
        if path.is_file() and (told := re.search(r"^cuda[^=\n]*=\s*(.+)$", path.read_text(), re.M)) is not None:
            value = told[1].strip().strip("'\"")
            return TorchBuild(version=name, cuda=None if value == "None" else value)
    return TorchBuild(version=name, cuda=None)
