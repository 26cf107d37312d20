"""`dbr doctor`: asks for everything that could stop a run later, side by side and with an end; judged in `insight`.

What it leaves if it is killed: at most a key of some bytes below `control/probe-` in the home, as a killed start does,
which nobody reads and `dbr gc` removes a day later; and a folder `dbr-doctor-PID` among this machine's temporary files,
which the next `dbr doctor` removes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dreambooth_resume.config.change_policy import refuse_if_refused
from dreambooth_resume.config.contradictions import remarks
from dreambooth_resume.config.load import GivenOptions, with_values
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.config.values import checked
from dreambooth_resume.data.inputs import INPUTS_LIST
from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.insight.doctor import LATER, judge_checkpoints, judge_notices, judge_room
from dreambooth_resume.insight.findings import Diagnosis, Finding, of_error, sorted_findings
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.hub import HubUnreachable
from dreambooth_resume.models.hub_look import LookingHub
from dreambooth_resume.models.hub_upload import HubUpload, check_repository_name, repository_name
from dreambooth_resume.models.source import resolve_source
from dreambooth_resume.preemption.sources import AUTO, NONE, AutoSource, cloud_source
from dreambooth_resume.workflows.checks import (
    Answer,
    Check,
    Limit,
    NoAnswer,
    Running,
    findings_of,
    no_answer,
    side_by_side,
)
from dreambooth_resume.workflows.data_check import check_data
from dreambooth_resume.workflows.estimate import find_model, workload_of
from dreambooth_resume.workflows.home import Home, Place, find_place, open_home, refuse_half_a_fork
from dreambooth_resume.workflows.look_at_home import as_it_was, look_at_home
from dreambooth_resume.workflows.machine import judge_here
from dreambooth_resume.workflows.packages import refuse_missing_packages
from dreambooth_resume.workflows.preflight import Options, check_start, choose_options
from dreambooth_resume.workflows.scratch import scratch_folder
from dreambooth_resume.workflows.several import is_one_too_many, processes_for
from dreambooth_resume.workflows.sources import is_at_hand, source_name
from dreambooth_resume.workflows.trackers import check_trackers
from dreambooth_resume.workflows.trial import try_out, write_and_read_back

PATIENCE_SECONDS = 16.0
"""For all checks together; with the start of the program and what is said at the end they take less than 20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the checks look at."""

    given: GivenOptions
    home: Home
    options: Options
    scratch: Path

    @property
    def train(self) -> TrainOptions:
        return self.options.train


def examine(
    given: GivenOptions,
    problems: tuple[BadInput, ...] = (),
    *,
    deep: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Diagnosis:
    """Everything that could stop a run with these options. `problems` were found when they were read.

    `deep`: if nothing is fatal, real steps and a checkpoint there and back, for as long as that takes. Raises nothing
    that a run would: that is a finding. Nothing is left behind.
    """
    limit = Limit(seconds=patience_seconds, began_monotonic_s=time.monotonic())
    found = [of_error("options", problem) for problem in problems]
    with scratch_folder() as scratch:
        asked = _look(given, scratch, limit, found)
        if deep and asked is not None and not any(finding.severity == "fatal" for finding in found):
            found += _deep(asked)
    if not problems and asked is not None and not any(finding.about == "options" for finding in found):
        found.append(Finding(severity="fine", about="options", what="known, and none contradicts another"))
    return Diagnosis(findings=sorted_findings(found), seconds=round(time.monotonic() - limit.began_monotonic_s, 2))


def _look(given: GivenOptions, scratch: Path, limit: Limit, found: list[Finding]) -> _Asked | None:
    """Run all checks, and add what they find; None where there are no options that a start could have.

    Nothing is asked on this thread, not even where a folder lies: a server that has gone holds up whoever looks.
    """
    places = _in_time(Running("home", lambda: _places(given)), limit, found)
    if places is None:
        return None
    place, probed = places
    home: dict[str, Check] = {"home": lambda: look_at_home(probed, unfenced=bool(given.value("unfenced")))}
    # A bucket is probed while the home in it is read: it may answer to the one and not to the other.
    probing = [Running(about, check) for about, check in home.items()] if place.is_remote else []
    opened = _in_time(Running("home", lambda: _asked(given, place, scratch)), limit, found)
    asked = None
    if opened is not None:
        asked, told = opened
        found += told
    else:
        what = "pictures, base model and the rest are looked at once the home can be read"
        found.append(Finding(severity="warning", about="start", what=what))
    if not place.is_remote:
        # A folder is probed first, by a storage of its own: made and removed, it would have vanished to others.
        found += side_by_side(home, limit)
    if asked is not None:
        found += side_by_side(_checks(asked), limit)
    for one in probing:
        found += findings_of(one, limit)
    return asked


def _in_time(running: Running[Answer], limit: Limit, found: list[Finding]) -> Answer | None:
    """The answer; None, and a finding, where it is a refusal or does not come in time."""
    try:
        return running.answer(limit)
    except DbrError as error:
        found.append(of_error(running.about, error))
    except NoAnswer:
        found.append(no_answer(running.about, limit))
    return None


def _places(given: GivenOptions) -> tuple[Place, Place]:
    """Where the run lives, and the same for the probe. Raises as a start does."""
    is_one_too_many(os.environ)  # raises for processes on several machines
    place = find_place(given)
    return place, place if place.is_remote else find_place(given)


def _asked(given: GivenOptions, place: Place, scratch: Path) -> tuple[_Asked | None, list[Finding]]:
    """The options as this start would have them; None if there can be none, and what was found on the way."""
    # What is fetched of a home in a bucket, only to be looked at, goes to the scratch folder.
    home = open_home(replace(place, stage=scratch) if place.is_remote else place)
    refuse_half_a_fork(home)
    if home.record is not None and given.value("resume_from_checkpoint") is None:
        latest = checked(OPTIONS["resume_from_checkpoint"], "latest", where="--resume")
        given = replace(given, values={**given.values, "resume_from_checkpoint": latest})
    try:
        options = choose_options(home, given)
        refuse_if_refused(options.changes)
        processes_for(home, options.train.machine.num_processes, options.sources, tell=lambda _text: None)
    except DbrError as error:
        return None, [of_error("options", error)]
    told = [Finding(severity="warning", about="options", what=one) for one in remarks(options.train, options.sources)]
    return _Asked(given=given, home=home, options=options, scratch=scratch), told


def _checks(asked: _Asked) -> dict[str, Check]:
    return {
        "packages": lambda: _packages(asked),
        "pictures": lambda: _pictures(asked),
        "base model": lambda: _model(asked),
        "hub": lambda: _push(asked),
        "notices": lambda: _notices(asked.train),
    }


def _deep(asked: _Asked) -> list[Finding]:
    """Real steps, and a checkpoint's bytes in the home itself."""
    try:
        trial = try_out(asked.train, asked.scratch)
        size_bytes = int(workload_of(asked.train, steps=1).state_bytes)
        # Opened anew: of a run that has not begun, the folder that the probe made is gone again.
        place = find_place(asked.given)
        with as_it_was(place):
            there_and_back = write_and_read_back(place.storage, size_bytes)
    except DbrError as error:
        return [of_error("real steps", error)]
    step = f"a step takes {trial.step_seconds:.3g} s" if trial.step_seconds is not None else "steps are trained"
    what = f"{step}; a checkpoint was written, resumed from and verified ({trial.seconds:.0f} s with two starts)"
    where = asked.home.storage.describe()
    back = f"{size_bytes / 1e6:,.1f} MB, as large as a checkpoint, are written and read back in {there_and_back:.1f} s"
    return [
        Finding(severity="fine", about="real steps", what=what),
        Finding(severity="fine", about="home", what=back, where=where),
    ]


def _packages(asked: _Asked) -> list[Finding]:
    refuse_missing_packages(asked.train, asked.options.sources)
    check_trackers(asked.train.reporting, asked.options.sources)
    return [Finding(severity="fine", about="packages", what="all that the options need are installed")]


def _pictures(asked: _Asked) -> list[Finding]:
    options = asked.train
    if asked.home.record is not None and not is_at_hand(options):
        what = "they are not on this machine; the run goes on with its own copies"
        return [Finding(severity="fine", about="pictures", what=what)]
    where = source_name(options)
    if not is_at_hand(options) and (options.data.dataset_name or asked.home.storage.list(INPUTS_LIST)):
        what = "not on this machine: they are looked at when they are fetched"
        return [Finding(severity="fine", about="pictures", what=what, where=where)]
    found = check_data(options)
    command = f"dbr data check {where}"
    severity = "warning" if options.data.skip_bad_images else "fatal"
    told = [
        Finding(
            severity="fatal" if severity == "fatal" else "warning",
            about="pictures",
            what=f"{name} can't be read: {reason}",
            where=where,
            fix="remove it or save it again, or --skip_bad_images",
        )
        for name, reason in found.unreadable
    ]
    for names, what in (
        (found.enlarged, "smaller than what they are cut to"),
        (found.blank_captions, "with a caption file that has nothing in it"),
        ([name for group in found.copies for name in group[1:]], "there twice"),
    ):
        if names:
            what = f"{len(names)} of {len(found.pictures)} are {what}, such as {names[0]}"
            told.append(Finding(severity="warning", about="pictures", what=what, where=where, fix=command))
    what = f"{len(found.pictures)} in {found.shapes}"
    return [*told, Finding(severity="fine", about="pictures", what=what, where=where)]


def _model(asked: _Asked) -> list[Finding]:
    """The base model, and what hangs on it: the rest of what `dbr train` looks at before it begins, disk and memory."""
    _, source = find_model(asked.train)
    name = asked.train.model.pretrained_model_name_or_path
    if source is None and name.startswith("s3://"):
        what = "in a bucket: what its files say is seen when they are fetched"
        return [
            Finding(severity="fine", about="base model", what=what, where=name),
            *_room(asked),
            *judge_here(asked.train),
        ]
    if source is None:
        return [*_model_on_the_hub(asked, name), *_room(asked), *judge_here(asked.train)]
    family_named(source.family).check(source)
    what = f"complete on this machine, {source.size_bytes / 1e9:.1f} GB"
    found = [Finding(severity="fine", about="base model", what=what, where=name)]
    try:
        # Unreadable pictures are named by their own check: here, what else there is.
        options = replace(asked.options, train=with_values(asked.train, {"skip_bad_images": True}))
        start = check_start(asked.home, options, reads_weights=False)
    except DbrError as error:
        found.append(of_error("start", error))
    else:
        free = asked.home.storage.free_bytes()
        if free is not None:
            what = f"{free / 1e9:.1f} GB are free, enough for {start.max_train_steps:,} steps and their checkpoints"
            found.append(Finding(severity="fine", about="disk", what=what, where=asked.home.storage.describe()))
    return found + judge_here(asked.train, source)


def _room(asked: _Asked) -> list[Finding]:
    """For the checkpoints of a run whose base model isn't here yet: no surprise after 7 GB were fetched."""
    free = asked.home.storage.free_bytes()
    try:
        work = workload_of(asked.train)
    except DbrError:  # of the pictures, which have a check of their own
        return [LATER]
    if free is None:
        return [LATER]
    limit = asked.train.checkpoints.checkpoints_total_limit
    saves = -(-work.steps // work.interval_steps) if work.interval_steps else 1
    count = saves if limit is None else min(saves, limit + 1)
    return [LATER, *judge_checkpoints(free, work.state_bytes, count, where=asked.home.storage.describe())]


def _model_on_the_hub(asked: _Asked, name: str) -> list[Finding]:
    model = asked.train.model
    try:
        source = resolve_source(
            name,
            vae_name=model.pretrained_vae_model_name_or_path,
            revision=model.revision,
            variant=model.variant,
            base_config=model.base_config,
            hub=LookingHub(asked.scratch / "hub"),
        )
        family_named(source.family).check(source)
    except HubUnreachable as error:
        return [of_error("base model", error)]
    what = f"on the Hub at {str(source.commit)[:12]}, and this machine may fetch it: {source.size_bytes / 1e9:.1f} GB"
    cache = Path(model.cache_dir).expanduser() if model.cache_dir else _hub_cache()
    existing = next(path for path in [cache.absolute(), *cache.absolute().parents] if path.exists())
    return [
        Finding(severity="fine", about="base model", what=what, where=name),
        *judge_room(shutil.disk_usage(existing).free, source.size_bytes, where=str(cache)),
    ]


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _push(asked: _Asked) -> list[Finding]:
    reporting = asked.train.reporting
    if not reporting.push_to_hub:
        return []
    name = repository_name(reporting.hub_model_id, asked.home.place.storage.describe())
    check_repository_name(name)
    try:
        HubUpload(token=reporting.hub_token).check(where=asked.options.sources.get("push_to_hub", "push_to_hub"))
    except HubUnreachable as error:
        return [of_error("hub", error, severity="warning")]
    return [Finding(severity="fine", about="hub", what="there is a token, and it may write", where=name)]


def _notices(options: TrainOptions) -> list[Finding]:
    spot = options.preemption.spot
    if spot == NONE:
        return judge_notices(None, None, is_asked=False)
    if spot == AUTO:
        source = AutoSource(tell=lambda _text: None)
        source.look()
        lead = source.lead()
        return judge_notices(lead.source if lead else None, lead.seconds if lead else None, is_asked=True)
    cloud = cloud_source(spot)
    is_here = _answers(cloud.is_here)
    if is_here:
        return judge_notices(cloud.name, cloud.lead_seconds, is_asked=True)
    what = f"{spot}'s metadata service does not answer here: its notices would not be heard"
    return [Finding(severity="warning", about="notices", what=what, where=f"--spot {spot}", fix="--spot auto")]


def _answers(ask: Callable[..., bool]) -> bool:
    from dreambooth_resume.preemption.metadata import MetadataTrouble

    try:
        return ask(timeout_seconds=1.0)
    except MetadataTrouble:
        return False
