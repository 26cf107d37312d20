"""Launching a run: everything is looked at first, then the home is filled, then the launcher starts its job.

Kill anywhere: what lies in the home then is what the next launch would put there, and a note of a launch, whose job
`dbr stop` finds by the launch's number. A start that fails takes back what it made, and its note.
"""

from __future__ import annotations

import os
import shlex
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import JsonValue

from dreambooth_resume.config.change_policy import refuse_if_refused
from dreambooth_resume.config.contradictions import refuse_cost_without_price
from dreambooth_resume.config.load import GivenOptions, parse_train
from dreambooth_resume.config.option import is_secret
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.schema import flatten
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.inputs import CLASS_INPUTS_LIST, store_inputs
from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.base import Job, Launcher, LaunchRequest, Purpose
from dreambooth_resume.launch.launchers import launcher_named, split_words
from dreambooth_resume.launch.ledger import remember
from dreambooth_resume.launch.package import describe_package, installed_version, store_package
from dreambooth_resume.launch.record import read_launches, write_launch, write_started
from dreambooth_resume.storage.access import check_access
from dreambooth_resume.storage.patience import patiently
from dreambooth_resume.storage.probe import probe
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.workflows.class_pictures import find_class_pictures
from dreambooth_resume.workflows.home import (
    S3_OPTIONS,
    Home,
    find_place,
    open_home,
    refuse_half_a_fork,
    s3_settings,
)
from dreambooth_resume.workflows.one_launch import forget_old_stops, refuse_a_second, refuse_if_stopped, take_back
from dreambooth_resume.workflows.packages import extras_for
from dreambooth_resume.workflows.pictures import find_datasets
from dreambooth_resume.workflows.preflight import choose_options
from dreambooth_resume.workflows.typed import home_words, typed
from dreambooth_resume.workflows.validation_pictures import find_validation_pictures

COPIED = ("instance_data_dir", "class_data_dir", "validation_data_dir", "dataset_name")
"""Options that name folders whose pictures a launch puts into the home."""
NEEDED_THERE = (
    "pretrained_model_name_or_path",
    "pretrained_vae_model_name_or_path",
    "base_config",
    "network_weights",
    "validation_prompts_file",
)
"""Options that may name what only this machine has: refused for a launcher to other machines."""
LEFT_OUT = ("output_dir", "stage_dir", "cache_dir", "logging_dir")
"""Options that name folders of this machine: another one has its own."""
_INSTEAD = {
    "hub_token": "leave it out; here type: hf auth login; elsewhere HF_TOKEN comes from the platform's secret store",
    "notify": "leave it out, and set DBR_NOTIFY where the run is trained; the platform's secret store hands it out",
}
"""How a machine gets what a launch may not carry."""
OF_THE_MACHINE = ("price_per_hour", "on_demand_price_per_hour", "spot", "notice_file", "deadline")
"""Options that tell of the machine that was launched, and not of the run."""
MEANT_THERE = ("notice_file",)
"""Options that name files of the machine that trains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A launch in which everything was looked at and nothing was made."""

    where: str
    launcher: Launcher
    request: LaunchRequest
    home: Home
    words: tuple[str, ...]
    """Of `dbr train` or `dbr eval`, for the note: neither the home nor a secret is among them."""
    to_store: tuple[tuple[str, PictureSet], ...] = ()

    @property
    def settings(self) -> dict[str, JsonValue]:
        return self.launcher.settings.model_dump(mode="json")


def prepare(
    where: str,
    words: Sequence[str],
    *,
    settings: Mapping[str, object] | None = None,
    tell: Callable[[str], None] = lambda _text: None,
) -> Prepared:
    """Look at everything that this launch needs. Raises BadInput for what is missing or can't work there.

    `words` are options of `dbr train` and of the launcher; `settings` of the launcher hold where `words` say nothing.
    `tell` hears of storage that doesn't answer yet, and of what will hardly work there.
    """
    own, rest = split_words(where, words)
    launcher = launcher_named(where, {**(settings or {}), **own})
    given = _absolute(parse_train(rest))
    _refuse_secrets(given)
    if find_place(given).is_remote and not launcher.shares_folders:
        given = with_the_service_of_here(given)
    home = reachable_home(where, launcher, given, tell)
    if home.log.finished is not None and "max_train_steps" not in given.values:
        raise BadInput(
            "the run is finished, and nothing is left to train", where=home.place.flag,
            fix="--max_train_steps MORE, or look at it: dbr status " + shlex.quote(home.storage.describe()),
        )  # fmt: skip
    options = choose_options(home, _to_resume(given))
    refuse_if_refused(options.changes)
    if not launcher.shares_folders:
        _refuse_folders(home, options.train, given, where)
    request = request_for(home, given, options.train)
    refuse_a_second(home.storage)
    to_store = _to_store(home, options.train)
    launcher.check(request)
    request = _with_price(request, launcher, given)
    return Prepared(
        where=where,
        launcher=launcher,
        request=request,
        home=home,
        words=_words_to_keep(given, home, launcher),
        to_store=to_store,
    )


def reachable_home(where: str, launcher: Launcher, given: GivenOptions, tell: Callable[[str], None]) -> Home:
    """The home of these options. Raises BadInput for a folder, where the machines of `where` don't see it."""
    place = find_place(given)
    if not place.is_remote and not launcher.shares_folders:
        raise BadInput(
            f"is a folder of this machine, which a machine of {where} can't see",
            where=place.flag,
            fix="--storage_uri s3://BUCKET/NAME, or dbr launch local",
        )
    if not launcher.shares_folders and (warning := _own_endpoint(s3_settings(given.value), where)):
        tell(f"warning: {warning}")
    home = patiently(lambda: open_home(place), tell=tell)
    refuse_half_a_fork(home)
    return home


def prepare_again(
    home: str, where: str | None, words: Sequence[str], *, tell: Callable[[str], None] = lambda _text: None
) -> Prepared:
    """A further launch of the run in `home`: on `where`, or on the launcher of the last one, with its settings.

    `words` come on top of those of that launch. Raises BadInput for a home that was never launched, without `where`.
    """
    given = parse_train([*home_words(home), *_s3_words(words)])
    launches = read_launches(find_place(given).storage)
    last = launches[-1] if launches else None
    if last is None and where is None:
        raise BadInput(
            "was not launched, so it isn't known where to",
            where=home,
            fix=f"dbr resume {shlex.quote(home)} --on local, or in this terminal: dbr train "
            f"{shlex.join(home_words(home))} --resume latest",
        )
    chosen = where or (last.launcher if last else "")
    settings = last.settings if last and last.launcher == chosen else {}
    before = last.words if last else ()
    if last is not None and last.launcher != chosen:
        before = without_the_machine(before)
    return prepare(chosen, [*before, *words, *home_words(home)], settings=settings, tell=tell)


def without_the_machine(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a launch without what they say of its machine: elsewhere the price is another, and the notices too.

    `words` are as a note has them, pairs of `typed`.
    """
    flags = {f"--{name}" for name in OF_THE_MACHINE}
    pairs = zip(words[::2], words[1::2], strict=True)
    return tuple(word for flag, value in pairs if flag not in flags for word in (flag, value))


def plan(prepared: Prepared) -> str:
    """Exactly what `start` would send now, as text. Makes nothing; another launch has another number."""
    request = prepared.request
    if prepared.launcher.needs_package:
        request = replace(request, package=describe_package(extras=extras_for(request.options)))
    return prepared.launcher.plan(request)


def start(prepared: Prepared, tell: Callable[[str], None]) -> Job:
    """Fill the home and start the job. Raises what the launcher does, with nothing left of the launch."""
    storage, request, launcher = prepared.home.storage, prepared.request, prepared.launcher
    if prepared.home.place.is_remote:
        check_access(storage)
    probe(storage, allow_unfenced=request.options.checkpoints.unfenced)
    for list_key, pictures in prepared.to_store:
        store_inputs(storage, pictures, list_key=list_key)
    if launcher.needs_package:
        request = replace(request, package=store_package(storage, extras=extras_for(request.options)))
    write_launch(
        storage,
        request.launch_id,
        launcher=prepared.where,
        settings=prepared.settings,
        words=prepared.words,
        version=installed_version(),
        purpose=request.purpose,
    )
    job: Job | None = None
    try:
        # Each writes its note before it looks for others': of two at once, at least one sees the other.
        refuse_a_second(storage, besides=request.launch_id, purpose=request.purpose)
        if request.purpose == "train":
            forget_old_stops(storage)
        started = job = launcher.start(request)
        patiently(lambda: write_started(storage, request.launch_id, launcher=prepared.where, job=started), tell=tell)
        patiently(lambda: refuse_if_stopped(storage, request.launch_id, purpose=request.purpose), tell=tell)
    except BaseException:
        take_back(storage, request, launcher, job, tell)
        raise
    try:
        remember(
            request.launch_id, home=request.home, launcher=prepared.where, job=job, s3=request.s3,
            purpose=request.purpose,
        )  # fmt: skip
    except OSError as error:
        tell(f"warning: dbr launch list on this machine won't show it, because of {error}. The home knows it all.")
    return job


def _s3_words(words: Sequence[str]) -> list[str]:
    """Those of `words` that say how S3 is reached: the home has to be opened before the others mean anything."""
    found: list[str] = []
    for place, word in enumerate(words):
        flag, equals, _ = word.partition("=")
        if flag.removeprefix("--").replace("-", "_") in S3_OPTIONS:
            takes_next = not equals and place + 1 < len(words) and not words[place + 1].startswith("--")
            found += [word, words[place + 1]] if takes_next else [word]
    return found


def request_for(home: Home, given: GivenOptions, options: TrainOptions, *, purpose: Purpose = "train") -> LaunchRequest:
    """What a launcher is given for a job on this home, with a number of its own."""
    place, launch_id = home.place, uuid.uuid4().hex
    address = place.storage.describe() if place.is_remote else os.path.abspath(place.storage.describe())  # noqa: PTH100
    s3_words = [word for name in S3_OPTIONS if name in given.values for word in typed(name, given.values[name])]
    return LaunchRequest(
        launch_id=launch_id,
        home=address,
        s3=s3_settings(given.value),
        options=options,
        command=("supervise", address, "--launch", launch_id, *s3_words),
        purpose=purpose,
    )


def _with_price(request: LaunchRequest, launcher: Launcher, given: GivenOptions) -> LaunchRequest:
    """The request with what the platform says that the machine costs, unless the user has said it.

    Raises BadInput for a budget in dollars where nobody knows.
    """
    if "price_per_hour" not in given.values and (price := launcher.price(request)) is not None:
        words = [*typed("price_per_hour", price.per_hour)]
        if price.on_demand_per_hour is not None:
            words += typed("on_demand_price_per_hour", price.on_demand_per_hour)
        return replace(request, command=(*request.command, *words))
    refuse_cost_without_price(request.options, given.sources)
    return request


def _words_to_keep(given: GivenOptions, home: Home, launcher: Launcher) -> tuple[str, ...]:
    """The options of `dbr train` for the note: neither the home, nor what only this machine has, is among them."""
    left_out = {"storage_uri"} if home.place.is_remote else {"storage_uri", "output_dir"}
    if not launcher.shares_folders:
        left_out |= set(LEFT_OUT)
    return tuple(word for name, value in given.values.items() if name not in left_out for word in typed(name, value))


def _to_resume(given: GivenOptions) -> GivenOptions:
    """What every launched machine does: start the run, or go on with it."""
    if "resume_from_checkpoint" in given.values:
        return given
    return replace(given, values={**given.values, "resume_from_checkpoint": "latest"})


def _absolute(given: GivenOptions) -> GivenOptions:
    """Files and folders that are there, by their absolute paths: the run is started from another working directory."""
    found = {
        name: os.path.abspath(str(given.values[name]))  # noqa: PTH100
        for name in (*COPIED, *NEEDED_THERE, *LEFT_OUT, *MEANT_THERE)
        if given.values.get(name) is not None and Path(str(given.values[name])).exists()
    }
    return replace(given, values={**given.values, **found})


def _refuse_secrets(given: GivenOptions) -> None:
    secret = next((name for name in given.values if is_secret(name)), None)
    if secret is not None:
        raise BadInput(
            "is a secret, and what is launched is kept in the home",
            where=given.sources[secret],
            fix=_INSTEAD.get(secret, _INSTEAD["hub_token"]),
        )


def with_the_service_of_here(given: GivenOptions) -> GivenOptions:
    """The S3 service that this machine's environment names, which no other machine has."""
    name = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)
    if name is None or given.value("s3_endpoint_url") is not None:
        return given
    if (urlsplit(os.environ[name]).hostname or "").endswith(".amazonaws.com"):  # an entrance of AWS's own, for here
        return given
    return replace(
        given,
        values={**given.values, "s3_endpoint_url": os.environ[name]},
        sources={**given.sources, "s3_endpoint_url": name},
    )


def _own_endpoint(settings: S3Settings, where: str) -> str | None:
    """What is wrong with an S3 service at an address that means this machine here, and another one there."""
    host = urlsplit(settings.endpoint_url or "").hostname or ""
    try:
        means_itself = host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return None
    if not means_itself:
        return None
    return (
        f"--s3_endpoint_url {settings.endpoint_url} is this machine here, and on a machine of {where} it is that one. "
        "Give an address at which both reach the service."
    )


def _refuse_folders(home: Home, options: TrainOptions, given: GivenOptions, where: str) -> None:
    """Raises BadInput for what only this machine has."""
    begin_here = "begin the run here, with the home in the bucket, and stop it after its first save: then dbr resume"
    fixes = {
        "pretrained_model_name_or_path": "name one of the Hub, or upload it: s3://BUCKET/NAME",
        "pretrained_vae_model_name_or_path": "name one of the Hub, or upload it: s3://BUCKET/NAME",
        "base_config": "name one of the Hub, or upload it: s3://BUCKET/NAME",
        "network_weights": begin_here,
        "resume_from_checkpoint": begin_here,
        "validation_prompts_file": "leave it out, or begin the run here",
    }
    chosen = flatten(options)
    # Once the run has begun, the home has a copy of what it began from.
    begun_with = ("network_weights", "resume_from_checkpoint") if home.record is not None else ()
    for name in (*NEEDED_THERE, "resume_from_checkpoint"):
        value = chosen[name]
        if value is None or name in begun_with or not Path(str(value)).exists():
            continue
        if name == "resume_from_checkpoint" and options.checkpoints.seed_folder is None:
            continue
        raise BadInput(
            f"{value} is on this machine alone, and {where} has other machines",
            where=given.sources.get(name, name),
            fix=fixes[name],
        )
    if not options.data.store_inputs:
        raise BadInput(
            f"keeps the pictures on this machine, which a machine of {where} can't see",
            where=given.sources.get("store_inputs", "store_inputs"),
            fix="leave --no-store_inputs out",
        )


def _to_store(home: Home, options: TrainOptions) -> tuple[tuple[str, PictureSet], ...]:
    """What the home needs before an empty machine can begin; nothing once the run has begun."""
    if not options.data.store_inputs:
        return ()
    found = list(find_datasets(home, options).to_store)
    class_pictures = find_class_pictures(home, options)
    if home.record is None and class_pictures is not None:
        found.append((CLASS_INPUTS_LIST, PictureSet(pictures=class_pictures.found)))
    held_out = find_validation_pictures(home, options)
    return (*found, *(held_out.to_store if held_out else ()))
