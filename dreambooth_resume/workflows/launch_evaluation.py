"""Launching an evaluation: a job of its own beside the run, by the launchers that train.

It holds nothing and adopts nothing: it reads checkpoints, and writes scores below `eval/`, as `dbr eval` does wherever
it runs. Kill anywhere: a note of a launch without a job is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import BadInput
from dreambooth_resume.insight.evaluation import PROMPTS
from dreambooth_resume.launch.base import Launcher
from dreambooth_resume.launch.launchers import LAUNCHERS, launcher_named
from dreambooth_resume.workflows.home import Home, find_place
from dreambooth_resume.workflows.launch import Prepared, reachable_home, request_for, with_the_service_of_here
from dreambooth_resume.workflows.one_launch import refuse_a_second

FILES = {
    "prompts": "one of short, objects, live",
    "dino_model": "name one of the Hub",
    "clip_model": "name one of the Hub",
    "instance_data_dir": "leave it out: the home has copies of the run's pictures",
    "pretrained_model_name_or_path": "name one of the Hub, or upload it: s3://BUCKET/NAME",
}
"""Options of `dbr eval` that may name what only this machine has, with what to type for a launcher to others."""
_RECORDED = ("pretrained_model_name_or_path", "pretrained_vae_model_name_or_path", "base_config")


def prepare_evaluation(
    where: str,
    options: Mapping[str, str],
    home_words: tuple[str, ...],
    *,
    settings: Mapping[str, object],
    tell: Callable[[str], None] = lambda _text: None,
) -> Prepared:
    """Look at everything that this launch needs. Raises BadInput for what is missing or can't work there.

    `options` are those of `dbr eval` that were given, by name; `home_words` the options of `dbr train` that name the
    home and say how it is reached; `settings` the launcher's own.
    """
    launcher = launcher_named(where, settings)
    if not launcher.evaluates:
        can = ", ".join(name for name in LAUNCHERS if _evaluates(name))
        raise BadInput(
            "launches trainings alone",
            where=f"--on {where}",
            fix=f"one of {can}; or on any machine that reaches the home, without --on: dbr eval HOME",
        )
    given = parse_train(home_words)
    if find_place(given).is_remote and not launcher.shares_folders:
        given = with_the_service_of_here(given)
    home = reachable_home(where, launcher, given, tell)
    if not launcher.shares_folders:
        _refuse_files(home, options, where)
    refuse_a_second(home.storage, purpose="eval")
    request = request_for(home, given, resolve(given, recorded=home.recorded), purpose="eval")
    launcher.check(request)
    return Prepared(where=where, launcher=launcher, request=request, home=home, words=_words(options))


def _evaluates(name: str) -> bool:
    launcher: Launcher = launcher_named(name, {})
    return launcher.evaluates


def _words(options: Mapping[str, str]) -> tuple[str, ...]:
    """As they are typed there, files by their absolute paths: the job is started from another working directory."""
    return tuple(f"--{name}={_absolute(name, value)}" for name, value in options.items())


def _absolute(name: str, value: str) -> str:
    return str(Path(value).expanduser().absolute()) if _is_file(name, value) else value


def _is_file(name: str, value: str) -> bool:
    return name in FILES and value not in PROMPTS and Path(value).expanduser().exists()


def _refuse_files(home: Home, options: Mapping[str, str], where: str) -> None:
    """Raises BadInput for what only this machine has."""
    recorded = {
        name: str(value)
        for name in _RECORDED
        if name not in options and (value := (home.recorded or {}).get(name)) is not None
    }
    for name, value in {**recorded, **options}.items():
        if (name in FILES or name in recorded) and value not in PROMPTS and Path(value).expanduser().exists():
            flag = f"--{name.replace('_', '-')}"
            raise BadInput(
                f"{value} is on this machine alone, and {where} has other machines",
                where=flag if name in options else f"{name} of the run",
                fix=FILES.get(name, "--on local, or without --on"),
            )
