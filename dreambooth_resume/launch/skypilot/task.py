"""The managed job's YAML: infra/skypilot.yaml with a launch's values. It holds names of secrets, never their values."""

from __future__ import annotations

import sys
from typing import Any, cast

import yaml

from dreambooth_resume.launch.base import LaunchRequest
from dreambooth_resume.launch.lists import listed
from dreambooth_resume.launch.machine_settings import infra_file, machine_settings, service_settings, told_of_notices
from dreambooth_resume.launch.skypilot.settings import SkyPilotSettings

TEMPLATE = "skypilot.yaml"
_BY_HAND = " # by hand"
_SCRIPT_END = "END_OF_STARTUP_SH"
_COPY = f'cp infra/startup.sh "$DBR_ROOT/startup.sh"{_BY_HAND}\n'
_PYTHON = "3.11"


class _Text(str):
    """Shown in its own lines."""


class _Dumper(yaml.SafeDumper):
    """Writes such text as a block."""


_Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def task(request: LaunchRequest, settings: SkyPilotSettings) -> dict[str, Any]:
    """A task as `sky jobs launch` takes it."""
    template = cast("dict[str, Any]", yaml.safe_load(infra_file(TEMPLATE)))
    resources: dict[str, Any] = {
        **template["resources"],
        "accelerators": {name: int(count or 1) for name, _, count in _parts(settings.accelerators)},
        "use_spot": not settings.on_demand,
        "disk_size": settings.disk_gb,
    }
    if settings.infra is not None:
        resources["infra"] = settings.infra
    if settings.image_id is not None:
        resources["image_id"] = settings.image_id
    cloud = settings.infra.partition("/")[0] if settings.infra is not None else None
    own = machine_settings(told_of_notices(request, cloud))
    told = {name: value for name, value in (own | service_settings(request)).items() if value}
    found: dict[str, Any] = {
        "name": request.name,
        "resources": resources,
        "envs": told,
        "setup": _Text(_setup(template["setup"])),
        "run": _Text(_launched(template["run"])),
    }
    if names := listed(settings.secrets):
        # null: `sky jobs launch --secret NAME` has the value, from the shell's environment.
        found["secrets"] = dict.fromkeys(names)
    return found


def _setup(template: str) -> str:
    """The script goes along, and the Python is that of here: with it the versions of the packages were tested."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    written = f"cat > \"$DBR_ROOT/startup.sh\" << '{_SCRIPT_END}'\n{infra_file('startup.sh')}{_SCRIPT_END}\n"
    before, _, behind = template.replace(_PYTHON, here).partition(_COPY)
    return _launched(before) + written + _launched(behind)


def _launched(template: str) -> str:
    return "".join(line for line in template.splitlines(keepends=True) if not line.rstrip().endswith(_BY_HAND))


def task_yaml(request: LaunchRequest, settings: SkyPilotSettings) -> str:
    """The task as YAML."""
    return yaml.dump(task(request, settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def launch_words(name: str, settings: SkyPilotSettings) -> tuple[str, ...]:
    """What stands behind `sky jobs`, before the file: submitted, and not waited for."""
    secrets = [word for secret in listed(settings.secrets) for word in ("--secret", secret)]
    return ("launch", "-y", "-d", "-n", name, *secrets)


def _parts(accelerators: str) -> list[tuple[str, str, str]]:
    return [one.partition(":") for one in listed(accelerators)]
