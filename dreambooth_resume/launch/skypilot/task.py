"""The managed job's YAML, from values alone. It holds names of secrets and never their values."""

from __future__ import annotations

import sys
from typing import Any

import yaml

from dreambooth_resume.errors import ComeBack
from dreambooth_resume.launch.base import LaunchRequest
from dreambooth_resume.launch.lists import listed
from dreambooth_resume.launch.machine_settings import infra_file, machine_settings, service_settings
from dreambooth_resume.launch.skypilot.settings import SkyPilotSettings

_SCRIPT_END = "END_OF_STARTUP_SH"
# The same Python as here: the versions of the packages are those that were tested with it.
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_PLACE = 'export DBR_ROOT="$HOME/dbr" DBR_SERVICE=foreground\n'
_SETUP = f"""\
set -euo pipefail
{_PLACE}\
# Images of clouds have older Pythons than dbr needs.
export PATH="$HOME/.local/bin:$PATH" UV_PYTHON_PREFERENCE=only-managed
command -v uv > /dev/null || python3 -m pip install --quiet --user uv
uv python install {_PYTHON}
DBR_PYTHON=$(uv python find --no-project {_PYTHON})
export DBR_PYTHON
mkdir -p "$DBR_ROOT"
cat > "$DBR_ROOT/startup.sh" << '{_SCRIPT_END}'
"""
_SETUP_END = f"""\
{_SCRIPT_END}
# Not its own code: a machine that can't be prepared is no reason to pay for the next.
bash "$DBR_ROOT/startup.sh" prepare || exit 1
"""
_RUN = f"""\
{_PLACE}\
exec bash "$DBR_ROOT/startup.sh" train
"""


class _Text(str):
    """Shown in its own lines."""


class _Dumper(yaml.SafeDumper):
    """Writes such text as a block."""


_Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def task(request: LaunchRequest, settings: SkyPilotSettings) -> dict[str, Any]:
    """A task as `sky jobs launch` takes it."""
    resources: dict[str, Any] = {
        "accelerators": {name: int(count or 1) for name, _, count in _parts(settings.accelerators)},
        "use_spot": not settings.on_demand,
        "disk_size": settings.disk_gb,
        "job_recovery": {
            "strategy": "EAGER_NEXT_REGION",
            # The supervisor has tried crashes again already, on a machine that is warm.
            "max_restarts_on_errors": 0,
            "recover_on_exit_codes": [ComeBack.exit_code],
        },
    }
    if settings.infra is not None:
        resources["infra"] = settings.infra
    if settings.image_id is not None:
        resources["image_id"] = settings.image_id
    told = {name: value for name, value in (machine_settings(request) | service_settings(request)).items() if value}
    found: dict[str, Any] = {
        "name": request.name,
        "resources": resources,
        "envs": told,
        "setup": _Text(_SETUP + infra_file("startup.sh") + _SETUP_END),
        "run": _Text(_RUN),
    }
    if names := listed(settings.secrets):
        # null: `sky jobs launch --secret NAME` has the value, from the shell's environment.
        found["secrets"] = dict.fromkeys(names)
    return found


def task_yaml(request: LaunchRequest, settings: SkyPilotSettings) -> str:
    """The task as YAML."""
    return yaml.dump(task(request, settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def launch_words(name: str, settings: SkyPilotSettings) -> tuple[str, ...]:
    """What stands behind `sky jobs`, before the file: submitted, and not waited for."""
    secrets = [word for secret in listed(settings.secrets) for word in ("--secret", secret)]
    return ("launch", "-y", "-d", "-n", name, *secrets)


def _parts(accelerators: str) -> list[tuple[str, str, str]]:
    return [one.partition(":") for one in listed(accelerators)]
