"""`dbr estimate`: what a run will take, before it is begun; and afterwards, how right that was."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.ending import ended_as_by_ctrl_c
from dreambooth_resume.cli.homes import add_s3_options, no_run, open_home
from dreambooth_resume.cli.output import print_columns, print_json
from dreambooth_resume.cli.train_words import own_and_train
from dreambooth_resume.cli.wording import UNKNOWN, clock, count
from dreambooth_resume.config.load import parse_train
from dreambooth_resume.errors import BadInput
from dreambooth_resume.insight.estimate import MEAN_SECONDS, START_SECONDS, WAIT_SECONDS, Chances, Estimate, OnMachine
from dreambooth_resume.insight.gpus import EFFICIENCY_SOURCE, SPEED_SOURCE, gpu_named
from dreambooth_resume.insight.interruptions import TRACES, Outcome, read_trace
from dreambooth_resume.insight.memory import FITS_SHARE
from dreambooth_resume.workflows.estimate import Asked, Compared, compare_with_home, estimate_run
from dreambooth_resume.workflows.measured import measured_here

_EXAMPLE = "dbr estimate --config run.yaml --gpu l4"
_HOUR = 3600.0


def run(words: list[str]) -> int:
    """Prints the estimate; 0 whether it fits or not. Raises BadInput for options that no run can have."""
    parser = _parser()
    own, train = own_and_train(parser, words)
    arguments = parser.parse_words(own)
    asked = _asked(arguments)
    if arguments.home is not None:
        if train:
            raise BadInput(
                "a run's options are in its home", where=train[0], fix=f"dbr estimate --home {arguments.home}"
            )
        storage = open_home(arguments)
        try:
            compared = compare_with_home(storage, asked)
        except BadInput:
            if not storage.list("run.json"):
                raise no_run(arguments.home) from None
            raise
        if arguments.json:
            print_json(compared)
        else:
            _print_compared(compared)
        return 0
    if not train:
        raise BadInput("needs a run file, the options of a run, or a home", where="dbr estimate", fix=_EXAMPLE)
    given = parse_train(train)
    if arguments.measure:
        with ended_as_by_ctrl_c():
            asked = measured_here(given, asked)
    found = estimate_run(given, asked)
    if arguments.json:
        print_json(found)
    else:
        _print_estimate(found, is_one=len(found.machines) == 1)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "dbr estimate",
        description="What a run will take: memory by part, time, money, and what interruptions make of it. Takes "
        "--config and every option of dbr train beside its own. Computed from the model's shapes; nothing is loaded, "
        "downloaded or written. Speeds are assumptions until you give --step-seconds; not held against a GPU so far.",
        fix=_EXAMPLE,
    )
    parser.add_argument("--config", metavar="FILE", help="a run file; other options of dbr train may follow")
    parser.add_argument(
        "--gpu", action="append", metavar="NAME", help="one or more of the table; left out: all of them"
    )
    parser.add_argument(
        "--hours-between-interruptions", type=float, metavar="HOURS", help=f"on average ({MEAN_SECONDS / _HOUR:g})"
    )
    parser.add_argument("--trace", metavar="FILE.csv", help=f"replay this, or one of {', '.join(TRACES)}")
    parser.add_argument(
        "--restart-seconds", type=float, metavar="SECONDS", help=f"machine to first new step ({START_SECONDS:g})"
    )
    parser.add_argument(
        "--wait-seconds", type=float, metavar="SECONDS", help=f"until another machine is there ({WAIT_SECONDS:g})"
    )
    parser.add_argument("--efficiency", type=float, metavar="SHARE", help="of the data sheet's speed, such as 0.35")
    parser.add_argument("--step-seconds", type=float, metavar="SECONDS", help="what a step really takes, if you know")
    parser.add_argument("--measure", action="store_true", help="train a few real steps here, and take their time")
    parser.add_argument("--home", metavar="HOME", help="hold the estimate against what has happened of this run")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    add_s3_options(parser)
    return parser


def _asked(arguments: argparse.Namespace) -> Asked:
    names = [name for given in arguments.gpu or () for name in given.split(",") if name.strip()]
    if arguments.gpu and not names:
        raise BadInput("names no GPU", where="--gpu", fix=_EXAMPLE)
    hours = _positive(arguments.hours_between_interruptions, "--hours-between-interruptions", most=1e6)
    restart = _positive(arguments.restart_seconds, "--restart-seconds", most=1e6)
    wait = _positive(arguments.wait_seconds, "--wait-seconds", most=1e8, least=0.0)
    return Asked(
        gpus=tuple(dict.fromkeys(gpu_named(name) for name in names)),
        efficiency=_positive(arguments.efficiency, "--efficiency", most=1.0),
        step_seconds=_positive(arguments.step_seconds, "--step-seconds", most=1e6),
        chances=Chances(
            mean=MEAN_SECONDS if hours is None else hours * _HOUR,
            is_assumed=hours is None,
            restart=START_SECONDS if restart is None else restart,
            wait=WAIT_SECONDS if wait is None else wait,
            trace=read_trace(arguments.trace) if arguments.trace is not None else (),
            trace_name=arguments.trace or "",
        ),
    )


def _positive(value: float | None, flag: str, *, most: float, least: float = 1e-6) -> float | None:
    if value is not None and not least <= value <= most:  # NaN, too
        raise BadInput(f"{value:g} is not between {least:g} and {most:g}", where=flag, fix=f"give {flag} a number")
    return value


def _print_estimate(found: Estimate, *, is_one: bool) -> None:
    workload = found.workload
    setting = workload.setting
    stock = ", counted by stock SDXL's shapes: its files are not on this machine" if setting.demands.is_stock else ""
    print(f"{workload.model}{stock}")
    print(
        f"{count(workload.steps, 'step')} of {count(workload.effective_batch, 'picture')}, {setting.batch_size} at "
        f"once, {setting.resolution} x {setting.resolution}\n"
    )
    rows = [(part.name, _gb(part.size_bytes), part.source) for part in found.parts]
    rows += [
        ("together", _gb(found.needed_bytes), ""),
        ("before the training", _gb(found.encoding_bytes), "text encoders and VAE, with nothing else on the GPU"),
    ]
    print_columns(rows, head=("memory", "GB", "from"))
    print()
    if is_one:
        _print_machine(found, found.machines[0])
    else:
        print_columns([_row(one) for one in found.machines], head=_HEAD)
        print(f"\nSpeeds: {SPEED_SOURCE}; of it {EFFICIENCY_SOURCE}.")
        print(f"Spot: a machine lasts {_mean(found)} on average; one by itself: dbr estimate … --gpu l4")


_HEAD = ("gpu", "memory", "fits", "a step", "alone", "on demand", "interruptions", "on spot", "change first")


def _row(one: OnMachine) -> Sequence[str]:
    outcome = one.interrupted.without_notice
    return (
        one.machine.name,
        "shared" if one.machine.memory_bytes is None else f"{_gb(one.machine.memory_bytes)} GB",
        _fits(one),
        _seconds(one.machine.speed.step_seconds),
        clock(one.total_seconds),
        _dollars(one.on_demand_cost),
        f"{outcome.interruptions:.1f}" if outcome else "never ends",
        _dollars(one.spot_cost),
        one.changes[0].words if one.changes else one.remark,
    )


def _fits(one: OnMachine) -> str:
    return UNKNOWN if one.fits is None else "yes" if one.fits else "no"


def _print_machine(found: Estimate, one: OnMachine) -> None:
    machine = one.machine
    memory = "" if machine.memory_bytes is None else f", {_gb(machine.memory_bytes)} GB"
    verdict = {None: "", True: ": it fits", False: f": it does not fit into {FITS_SHARE:.0%} of that"}[one.fits]
    print(f"{machine.title}{memory}{verdict}")
    if one.remark:
        print(f"  {one.remark}")
    for number, change in enumerate(one.changes, start=1):
        how = "also in a run that has begun" if change.in_a_run else "in a new run"
        print(f"  {number}. {change.words}: {change.why}; {_gb(change.needed_bytes)} GB then ({how})")
    if one.changes:
        print("What follows is for the options as they are.")
    print()
    print_columns(
        [
            ("a step", _seconds(machine.speed.step_seconds), machine.speed.source),
            ("training", clock(one.train_seconds), ""),
            ("start", clock(one.start_seconds), "imports and weights; a download comes on top"),
            ("encoding", clock(one.encode_seconds), f"{count(found.workload.latents, 'latent')}, once"),
            ("pictures", clock(one.pictures_seconds), count(found.workload.pictures, "picture")),
            ("saves", clock(one.saves_seconds), f"{one.interrupted.save_seconds:.2f} s each, beside the training"),
            ("in all", clock(one.total_seconds), "as if nobody interrupted it"),
        ],
        head=("time", "", "from"),
    )
    print()
    if machine.price is not None:
        print(
            f"cost: {_dollars(one.spot_cost)} on spot with interruptions, {_dollars(one.on_demand_cost)} on demand\n"
            f"  {machine.price.source}; your own: --price-per-hour 0.40 --on-demand-price-per-hour 0.80\n"
        )
    _print_interruptions(found, one)


def _print_interruptions(found: Estimate, one: OnMachine) -> None:
    chances, told = found.chances, one.interrupted
    assumed = ", assumed" if chances.is_assumed else ""
    print(f"interruptions, if a machine lasts {_mean(found)} on average{assumed}")
    rows: list[Sequence[str]] = [
        ("without a word", *_outcome(told.without_notice, told.goodput)),
        ("with a notice", *_outcome(told.with_notice, None)),
        (f"saving every {_seconds(told.best_interval_seconds)}", *_outcome(told.at_best_interval, None)),
    ]
    if chances.trace:
        rows += [
            (f"trace {chances.trace_name}", *_outcome(told.replayed, told.replayed_goodput)),
            ("  at its worst", *_outcome(told.replayed_worst, None)),
        ]
    print_columns(rows, head=("", "interruptions", "work lost", "on machines", "in all", "goodput"))
    print(
        f"\nsaves: every {_seconds(told.interval_seconds)} now; the best interval is "
        f"{_seconds(told.best_interval_seconds)} ({count(told.best_interval_steps, 'step')}; Young and Daly)"
    )


def _outcome(outcome: Outcome | None, goodput: float | None) -> Sequence[str]:
    if outcome is None:
        return ("never ends", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    return (
        f"{outcome.interruptions:.1f}",
        clock(outcome.lost),
        clock(outcome.paid),
        clock(outcome.wall),
        UNKNOWN if goodput is None else f"{goodput:.1%}",
    )


def _print_compared(compared: Compared) -> None:
    happened, machine = compared.happened, compared.estimate.machines[0]
    print(f"{compared.home}: step {happened.step:,} of {happened.max_train_steps:,}, begun on {compared.device}\n")
    told = machine.interrupted.without_notice
    share = happened.step / happened.max_train_steps if happened.max_train_steps else 0.0
    rows = [
        ("a step", _seconds(machine.machine.speed.step_seconds), _seconds(happened.step_seconds)),
        ("training so far", clock(share * machine.train_seconds), clock(happened.training_seconds)),
        ("on machines so far", clock(share * told.paid if told else None), clock(happened.machine_seconds)),
        ("interruptions so far", f"{share * told.interruptions:.1f}" if told else UNKNOWN, str(happened.interruptions)),
        ("steps done twice", _again(machine, share), str(happened.redone_steps)),
        ("cost so far", _dollars(share * machine.spot_cost if machine.spot_cost else None), _dollars(happened.cost)),
        ("goodput", _percent(machine.interrupted.goodput), _percent(happened.goodput)),
        ("a machine lasts", _hours(compared.estimate.chances.mean), _hours(happened.mean_seconds)),
        ("a save, beside the training", _seconds(machine.interrupted.save_seconds), _seconds(happened.save_seconds)),
    ]
    print_columns(rows, head=("", "estimate", "happened"))
    print(f"\nestimate for {machine.machine.title}: {machine.machine.speed.source}")


def _again(machine: OnMachine, share: float) -> str:
    told = machine.interrupted.without_notice
    return UNKNOWN if told is None else f"{share * told.lost / machine.machine.speed.step_seconds:.0f}"


def _mean(found: Estimate) -> str:
    return _hours(found.chances.mean)


def _hours(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds / _HOUR:.2g} h"


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.1%}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    return f"{seconds:.3g} s" if seconds < 100 else clock(seconds)


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f}" if size_bytes >= 1e8 else f"{size_bytes / 1e9:.2g}"


def _dollars(cost: float | None) -> str:
    return UNKNOWN if cost is None else f"${cost:.2f}"
