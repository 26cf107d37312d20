"""Several runs side by side: the options that differ, what they were given, and what came out of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.insight.facts import RunFacts
from dreambooth_resume.insight.report import span

_OF_A_MACHINE = ("instance_data_dir", "pretrained_model_name_or_path", "logging_dir")
"""Options that name folders: two of them may hold the same, and what they hold is compared by digests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing, and its value in each of the runs, in their order."""

    name: str
    values: tuple[JsonValue, ...]
    default: JsonValue = None

    @property
    def differs(self) -> bool:
        return any(value != self.values[0] for value in self.values)


def differing_options(runs: Sequence[RunFacts]) -> tuple[Row, ...]:
    """Options that aren't the same in all of them, in the schema's order."""
    names = [name for name in OPTIONS if any(name in run.options for run in runs)]
    rows = (
        Row(name=name, values=tuple(_option(run, name) for run in runs), default=_json(OPTIONS[name].default))
        for name in names
        if name not in _OF_A_MACHINE
    )
    return tuple(row for row in rows if row.differs)


def differing_inputs(runs: Sequence[RunFacts]) -> tuple[Row, ...]:
    """Base model, pictures, seed, device and libraries, where they aren't the same in all of them."""
    return tuple(row for row in _rows(runs, _inputs) if row.differs)


def results(runs: Sequence[RunFacts]) -> tuple[Row, ...]:
    """State, steps, losses, time and cost of each, the same or not; what none of them has is left out."""
    return tuple(row for row in _rows(runs, _results) if any(value is not None for value in row.values))


def _rows(runs: Sequence[RunFacts], facts_of: Callable[[RunFacts], Mapping[str, JsonValue]]) -> list[Row]:
    each = [facts_of(run) for run in runs]
    names = dict.fromkeys(name for facts in each for name in facts)
    return [Row(name=name, values=tuple(facts.get(name) for facts in each)) for name in names]


def _option(run: RunFacts, name: str) -> JsonValue:
    """An option that a run of an earlier release doesn't have means what it did before: the default."""
    return run.options[name] if name in run.options else _json(OPTIONS[name].default)


def _json(value: object) -> JsonValue:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _inputs(run: RunFacts) -> dict[str, JsonValue]:
    pins = run.record.pins
    return {
        "seed": run.record.seed,
        "samples a step": run.record.effective_batch,
        "pictures": pins.dataset,
        "base model's commit": pins.base_commit,
        "LoRA it began from": pins.network_weights,
        **{f"base model, {name}": digest for name, digest in pins.base_model.items()},
        **run.record.numerics,
    }


def _results(run: RunFacts) -> dict[str, JsonValue]:
    lowest, totals = run.lowest_val_loss, run.totals
    return {
        "state": run.summary.state,
        "steps": f"{run.summary.step:,} of {run.summary.max_train_steps or 0:,}",
        "loss, newest steps": None if run.newest_loss is None else f"{run.newest_loss:.4f}",
        "lowest held-out loss": None if lowest is None else f"{lowest[1]:.4f} at step {lowest[0]:,}",
        "interruptions": totals.interruptions,
        "steps trained twice": totals.redone_steps,
        "machine time": span(totals.machine_seconds),
        "cost": None if totals.cost is None else f"${totals.cost:.2f}",
        "SHA-256 of the result": run.weights_sha256,
    }
