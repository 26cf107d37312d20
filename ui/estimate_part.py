"""What a run that is put together will take, beside its command: memory, time, cost, and what to change first."""

from __future__ import annotations

from collections.abc import Sequence

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.insight.estimate import Estimate, OnMachine
from dreambooth_resume.insight.gpus import GPUS
from dreambooth_resume.ui.markup import facts, problem, table, text
from dreambooth_resume.ui.view import money, span
from dreambooth_resume.workflows.estimate import Asked, estimate_run

_CHANGES_SHOWN = 3


def estimated(words: Sequence[str], gpu: str) -> str:
    """HTML for options of `dbr train`, on one GPU of the table; `gpu` empty: on all of them. Nothing is loaded."""
    try:
        found = estimate_run(parse_train(words), Asked(gpus=(GPUS[gpu],) if gpu in GPUS else ()))
    except BadInput as error:
        return _unknown(error.what, error.fix or "")
    except DbrError as error:
        return _unknown(str(error), "")
    return shown(found)


def shown(found: Estimate) -> str:
    """The estimate as HTML: one machine in numbers, several in a table."""
    workload = found.workload
    one = found.machines[0] if len(found.machines) == 1 else None
    needed = [("Memory", f"{_gb(found.needed_bytes)} <small>of a GPU</small>")]
    body = _verdict(one) if one is not None else ""
    numbers = facts([*needed, *_numbers(one)]) if one is not None else facts(needed) + _table(found)
    parts = [(text(part.name), _gb(part.size_bytes), text(part.source)) for part in found.parts]
    parts.append(("before the training", _gb(found.encoding_bytes), "text encoders and VAE, with nothing else there"))
    stock = " Counted by stock SDXL's shapes: its files are not here." if workload.setting.demands.is_stock else ""
    mean = found.chances.mean / 3600
    return (
        f'<h3>What it will take</h3><p class="say">{workload.steps:,} steps of {workload.effective_batch:,} pictures. '
        f"Computed from the model's shapes; speeds are assumptions, off by half at times; a machine on spot is assumed "
        f"to last {mean:g} hours.{stock}</p>{body}{numbers}"
        f"<details><summary>Memory by part</summary>{table(('Part', 'Memory', 'From'), parts)}</details>"
    )


def _unknown(why: str, fix: str) -> str:
    return f"<h3>What it will take</h3>{problem(f'That is not known: {why}', fix)}"


def _verdict(one: OnMachine) -> str:
    changes = "".join(
        f"<li><code>{text(change.words)}</code>: {text(change.why)}; {_gb(change.needed_bytes)} then"
        f"{'' if change.in_a_run else ' (in a new run)'}</li>"
        for change in one.changes[:_CHANGES_SHOWN]
    )
    remark = f'<div class="notice">{text(one.remark)}</div>' if one.remark else ""
    size = "" if one.machine.memory_bytes is None else f" {_gb(one.machine.memory_bytes)}"
    if one.fits is None:
        return remark
    if one.fits:
        return f'<p class="say"><b>It fits</b> into the{size} of {text(one.machine.title)}.</p>{remark}'
    return (
        f'<div class="problem">It does not fit into the{size} of {text(one.machine.title)}. What to change first:'
        f'<div class="fix"><ol>{changes}</ol></div></div>{remark}'
    )


def _numbers(one: OnMachine) -> list[tuple[str, str]]:
    outcome = one.interrupted.without_notice
    return [
        ("A step", text(_step(one))),
        ("Undisturbed", text(span(one.total_seconds))),
        ("On demand", text(money(one.on_demand_cost)) or "–"),
        ("On spot", text(money(one.spot_cost)) or "–"),
        ("Interruptions", f"{outcome.interruptions:.1f}" if outcome else "so many that it never ends"),
        ("Save every", f"{one.interrupted.best_interval_steps:,} steps <small>is best</small>"),
    ]


def _table(found: Estimate) -> str:
    rows = [
        (
            text(one.machine.title),
            "" if one.machine.memory_bytes is None else _gb(one.machine.memory_bytes),
            {None: "–", True: "<b>fits</b>", False: "does not fit"}[one.fits],
            text(_step(one)),
            text(span(one.total_seconds)),
            text(money(one.on_demand_cost)) or "–",
            text(money(one.spot_cost)) or "–",
            f"<code>{text(one.changes[0].words)}</code>" if one.changes else text(one.remark),
        )
        for one in found.machines
    ]
    return table(("GPU", "Memory", "", "A step", "Undisturbed", "On demand", "On spot", "Change first"), rows)


def _step(one: OnMachine) -> str:
    seconds = one.machine.speed.step_seconds
    return f"{seconds:.3g} s"


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
