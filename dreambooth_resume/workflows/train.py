"""`dbr train`: the same command starts a run, goes on with it, and says that it is finished.

Nothing imported here needs torch: a finished run, and a start that can't succeed, are answered at once.
"""

from __future__ import annotations

import os
import time
from functools import partial

from dreambooth_resume.config.change_policy import refuse_if_refused, table
from dreambooth_resume.config.contradictions import remarks
from dreambooth_resume.config.contradictions_loss import remark_on_bias
from dreambooth_resume.config.load import GivenOptions
from dreambooth_resume.config.options.checkpoints import hub_checkpoint
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import HolderAlive, StorageUnavailable
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.hub_upload import repository_name
from dreambooth_resume.models.quiet import few_collections
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.preemption.deadline import DeadlineSource
from dreambooth_resume.preemption.poller import Poller
from dreambooth_resume.preemption.signals import SignalSource
from dreambooth_resume.preemption.slurm import NAME as SLURM_LIMIT
from dreambooth_resume.preemption.slurm import seconds_to_the_limit
from dreambooth_resume.preemption.sources import polled_sources
from dreambooth_resume.preemption.watcher import NoticeSource, Watcher, ending
from dreambooth_resume.runs.entries import Price
from dreambooth_resume.runs.home import CARD_NAME
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.meter import Meter
from dreambooth_resume.storage.access import check_access
from dreambooth_resume.storage.patience import patiently
from dreambooth_resume.storage.probe import probe
from dreambooth_resume.storage.side_by_side import both
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.workflows import wording
from dreambooth_resume.workflows.first_start import remark_on_squares
from dreambooth_resume.workflows.home import Home, find_place, open_home, refuse_half_a_fork
from dreambooth_resume.workflows.machine import judge_here
from dreambooth_resume.workflows.model_card import publish_card
from dreambooth_resume.workflows.notify import Told, notifying
from dreambooth_resume.workflows.preflight import (
    Options,
    check_start,
    choose_options,
    refuse_going_back_behind_the_end,
)
from dreambooth_resume.workflows.push import check_push, push
from dreambooth_resume.workflows.results import publish_results, result_folder, result_names
from dreambooth_resume.workflows.several import as_launched, is_one_too_many, lent_hands, processes_for


def train(given: GivenOptions, reporter: Reporter, *, notifies: bool = True) -> int:
    """Start or go on with the run in --output_dir until it is done. Returns 0, or raises the error that ended it.

    Not `notifies`: no web hook is told, whatever one there is. For a copy of a run.
    """
    if is_one_too_many(os.environ):
        return 0
    given = as_launched(given, os.environ)
    if not notifies:
        return _to_the_end(given, Told(reporter=reporter))
    with notifying(given, reporter) as told:
        return _to_the_end(given, told)


def _to_the_end(given: GivenOptions, told: Told) -> int:
    started, reporter = time.monotonic(), told.reporter
    signals = SignalSource()
    signals.install()
    watcher = Watcher([signals])
    poller = Poller(tell=reporter.message)
    try:
        place = find_place(given)
        home = patiently(lambda: open_home(place), tell=reporter.message, should_stop=watcher.should_stop)
        home = _begun_from_the_hub(home, given, reporter)
        refuse_half_a_fork(home)
        options = choose_options(home, given)
        _refuse_or_show(options, reporter)
        if _is_done(home, options, given):
            finished = home.log
        else:
            told.trains = True
            watcher = Watcher([signals, poller, *_deadline(options, started)])
            meter = Meter(_price(options), started_monotonic_s=started)
            finished = _train(home, options, given, watcher, poller, reporter, meter)
        # The result files are copied after `finished` landed, by whoever comes first: a kill in between is mended here.
        result = publish_results(place, options.train, finished)
        name = repository_name(options.train.reporting.hub_model_id, place.storage.describe())
        publish_card(place.storage, finished, result, name=name)
        names = result_names(options.train)
        folder = result_folder(place, (*names, CARD_NAME))
        reporter.message(wording.finished(place.storage, finished, result, folder=folder, names=names))
        if options.train.reporting.push_to_hub:
            address = push(place.storage, finished, result, options.train.reporting, name=name, names=names)
            reporter.message(f"On the Hub: {address}" if address else "The Hub has the result already.")
        return 0
    except (HolderAlive, StorageUnavailable) as error:
        if (notice := watcher.notice()) is not None:
            raise ending(notice, f"{notice.source}. {error}") from error
        raise
    finally:
        poller.close()
        reporter.close()


def _begun_from_the_hub(home: Home, given: GivenOptions, reporter: Reporter) -> Home:
    """The home, with the checkpoint on the Hub in it from which the run is to begin, if one is named."""
    address = hub_checkpoint(given.value("resume_from_checkpoint"))
    if address is None:
        return home
    from dreambooth_resume.workflows.hub_checkpoint import begin_from_hub

    begin_from_hub(home, address, given, hub=HuggingFaceHub(), tell=reporter.message)
    return open_home(home.place)


def _deadline(options: Options, started_monotonic_s: float) -> list[NoticeSource]:
    found: list[NoticeSource] = []
    if (seconds := options.train.preemption.deadline_seconds) is not None:
        found.append(DeadlineSource(seconds, started_monotonic_s=started_monotonic_s))
    if (limit_seconds := seconds_to_the_limit(os.environ)) is not None:
        found.append(DeadlineSource(limit_seconds, started_monotonic_s=time.monotonic(), name=SLURM_LIMIT))
    return found


def _price(options: Options) -> Price | None:
    budget = options.train.budget
    if budget.price_per_hour is None:
        return None
    return Price(per_hour=budget.price_per_hour, on_demand_per_hour=budget.on_demand_price_per_hour)


def _refuse_or_show(options: Options, reporter: Reporter) -> None:
    """Show what is given otherwise than the run has it, before anything is loaded. Raises BadInput if it is refused."""
    if changed := table(options.changes):
        reporter.message(changed)
    refuse_if_refused(options.changes)


def _is_done(home: Home, options: Options, given: GivenOptions) -> bool:
    """Finished, and nobody asks for more steps: nothing is loaded, and an empty machine will do."""
    last = home.log.last
    if home.log.finished is None or last is None:
        return False
    asked = given.values.get("max_train_steps")
    if isinstance(asked, int) and asked > last.state.step:
        return False
    refuse_going_back_behind_the_end(home, options)
    return True


def _train(
    home: Home,
    options: Options,
    given: GivenOptions,
    watcher: Watcher,
    poller: Poller,
    reporter: Reporter,
    meter: Meter,
) -> Log:
    patient = partial(patiently, tell=reporter.message, should_stop=watcher.should_stop)
    checked = patient(lambda: check_start(home, options))
    _remark_on_machine(checked.options.train, checked.inputs.source, reporter)
    name = repository_name(options.train.reporting.hub_model_id, home.place.storage.describe())
    check_push(options.train.reporting, options.sources, reporter, name=name)
    # Only now: who mistyped an option is told that, and nothing about clouds.
    chosen = options.train.preemption
    poller.start(polled_sources(spot=chosen.spot, notice_file=chosen.notice_file, tell=reporter.message))
    if drift := checked.inputs.datasets.drift:
        reporter.message(wording.changed_pictures(drift, count=len(checked.inputs.pictures.pictures)))
    on_bias = remark_on_bias(options.train, train_timesteps=checked.inputs.facts.num_train_timesteps)
    held_out = checked.inputs.validation.remark if checked.inputs.validation else ""
    for remark in (*remarks(options.train, options.sources), on_bias, checked.inputs.shots.remark, held_out):
        if remark:
            reporter.message(remark)
    nobody_chose = home.record is None and options.train.data.use_aspect_ratio_buckets is None
    if nobody_chose and (remark := remark_on_squares(checked.options.train, checked.inputs.pictures)):
        reporter.message(remark)
    unfenced = options.train.checkpoints.unfenced
    fencing = patient(lambda: _look_at(home, allow_unfenced=unfenced))
    reporter.message(wording.plan(home.storage, checked.inputs, checked.plan, checked.max_train_steps, fencing))
    wanted = options.train.machine.num_processes
    processes = processes_for(home, wanted, options.sources, tell=reporter.message)
    with lent_hands(processes, given, tell=reporter.message) as hands:
        # torch, Diffusers and their like take seconds to import: whoever mistyped a folder has been told by now.
        with few_collections():
            from dreambooth_resume.workflows.start import start

        return start(checked, watcher if hands is None else Watcher([watcher, hands]), reporter, meter, hands=hands)


def _remark_on_machine(options: TrainOptions, source: ModelSource, reporter: Reporter) -> None:
    """The quick part of `dbr doctor` that nothing else here looks at.

    Only told, fatal or not: a driver's program that is slow, or that a container has no right to, ends no training.
    """
    for finding in judge_here(options, source):
        if finding.severity != "fine":
            reporter.message(f"{finding.where or finding.about}: {finding.what}. {finding.fix}".rstrip())


def _look_at(home: Home, *, allow_unfenced: bool) -> str:
    """How writers are kept apart there. Raises what `check_access` and `probe` do, a missing permission first."""
    if not home.place.is_remote:
        return probe(home.storage, allow_unfenced=allow_unfenced)
    _, fencing = both(
        home.storage,
        lambda: check_access(home.storage),
        lambda: probe(home.storage, allow_unfenced=allow_unfenced),
    )
    return fencing
