"""Which launchers there are. A new one is one file (or folder) and one line here, and passes the contract suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import cast

from pydantic import BaseModel

from dreambooth_resume.config.option import Option, options_of
from dreambooth_resume.config.values import checked
from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.base import Launcher

# Name -> ("module:Launcher", "module:Settings", what it is, in a line). Constructed with its settings alone.
LAUNCHERS: dict[str, tuple[str, str, str]] = {
    "local": (
        "dreambooth_resume.launch.local:LocalLauncher",
        "dreambooth_resume.launch.local:LocalSettings",
        "this machine: in the background, one run at a time for each GPU",
    ),
    "slurm": (
        "dreambooth_resume.launch.slurm:SlurmLauncher",
        "dreambooth_resume.launch.slurm_settings:SlurmSettings",
        "a node of this cluster: saved and requeued before the time limit and at a preemption",
    ),
    "aws": (
        "dreambooth_resume.launch.aws.launcher:AwsLauncher",
        "dreambooth_resume.launch.aws.settings:AwsSettings",
        "spot machines of Amazon EC2, replaced by AWS itself; not run on AWS so far",
    ),
    "skypilot": (
        "dreambooth_resume.launch.skypilot.launcher:SkyPilotLauncher",
        "dreambooth_resume.launch.skypilot.settings:SkyPilotSettings",
        "spot machines of any cloud, found and replaced by SkyPilot; not run on a cloud so far",
    ),
    "hf-jobs": (
        "dreambooth_resume.launch.hf_jobs.launcher:HfJobsLauncher",
        "dreambooth_resume.launch.hf_jobs.settings:HfJobsSettings",
        "Hugging Face Jobs, some hours at a time; not run on the Hub so far",
    ),
    "kubernetes": (
        "dreambooth_resume.launch.kubernetes.launcher:KubernetesLauncher",
        "dreambooth_resume.launch.kubernetes.settings:KubernetesSettings",
        "a Job of a cluster, by kubectl; not run on a cluster so far",
    ),
}


def settings_options(name: str) -> dict[str, Option]:
    """The own options of the launcher `name`. Raises BadInput for a name that is none."""
    return options_of(name, _settings_type(name))


def launcher_named(name: str, settings: Mapping[str, object]) -> Launcher:
    """The launcher `name` with these of its own options; the others have their defaults.

    Raises BadInput for a name that is none; pydantic.ValidationError for settings that were not checked.
    """
    _known(name)
    launcher = _imported(LAUNCHERS[name][0])
    return cast(Launcher, launcher(_settings_type(name).model_validate(dict(settings))))


def split_words(name: str, words: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """The launcher's own options among `words`, checked, and the words that are left, in their order.

    Flags have dashes or underscores: `--flag VALUE` or `--flag=VALUE`; on/off ones stand alone, also as `--no-flag`.
    Raises BadInput for a value that an option doesn't take.
    """
    options, settings, rest = settings_options(name), dict[str, object](), list[str]()
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=")
        option_name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        negated = options.get(option_name.removeprefix("no_")) if option_name.startswith("no_") else None
        if negated is not None and negated.kind == "bool":
            settings[negated.name] = False
            continue
        option = options.get(option_name)
        if option is None:
            rest.append(word)
            continue
        given: object = value if equals else True
        if not equals and option.kind != "bool":
            if not waiting:
                raise BadInput("needs a value", where=flag, fix=f"type {flag} VALUE")
            given = waiting.pop(0)
        settings[option.name] = checked(option, given, where=flag)
    return settings, rest


def _known(name: str) -> None:
    if name in LAUNCHERS:
        return
    near = get_close_matches(name, LAUNCHERS, n=1, cutoff=0.5)
    known = ", ".join(LAUNCHERS)
    raise BadInput(
        "is no launcher",
        where=name[:40],
        fix=f"dbr launch {near[0]} …" if near else f"dbr launch WHERE, with one of: {known}",
    )


def _settings_type(name: str) -> type[BaseModel]:
    _known(name)
    return cast("type[BaseModel]", _imported(LAUNCHERS[name][1]))


def _imported(path: str) -> type:
    module, _, attribute = path.partition(":")
    return cast(type, getattr(import_module(module), attribute))
