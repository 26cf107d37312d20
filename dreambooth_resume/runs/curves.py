"""A run's values step by step, stitched from all attempts, with what was lost and where it was interrupted.

The metrics files say what was measured; the log says what of it counts. They are hints: a line that is missing or torn
leaves a hole in a chart and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import Adopt
from dreambooth_resume.runs.history import Attempt, read_history
from dreambooth_resume.runs.home import METRICS_PREFIX, metrics_key, metrics_segment
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.storage.base import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """What one step measured. `seconds` is how long it took."""

    step: int
    attempt: int
    loss: float
    learning_rate: float | None = None
    grad_norm: float | None = None
    seconds: float | None = None
    val_loss: float | None = None
    """The loss on held-out pictures, where it was measured."""
    memory_bytes: int | None = None
    """The most that this attempt had taken so far: on its GPU, or of a CPU's memory; None in metrics that kept none."""
    samples: int | None = None
    """A checksum of what the step was trained on; None in metrics of releases that kept none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """An attempt ended before the run did: it had come to `reached_step`, and the run went on from `resumed_step`."""

    attempt: int
    reached_step: int
    resumed_step: int
    exit_code: int | None
    """None: it was lost without a word."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The steps that one attempt trained: those above `base_step`, up to `reached_step`."""

    attempt: int
    base_step: int
    reached_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """`points` belong to the run as it is, one a step; `lost` is what was trained and does not count."""

    points: tuple[CurvePoint, ...]
    lost: tuple[tuple[CurvePoint, ...], ...]
    spans: tuple[Span, ...]
    interruptions: tuple[Interruption, ...]
    max_train_steps: int


Measured = dict[tuple[str, int], tuple[CurvePoint, ...]]
"""The points of a segment by its key and its size: a segment only ever grows."""


def read_curve(
    storage: Storage, *, log: Log | None = None, ends_only: bool = False, known: Measured | None = None
) -> Curve:
    """The stitched curve of the run in `storage`. Raises RefusedToGoOn for a log with a gap.

    `log` is the run's, where it was read already. `ends_only`: the first thousand steps and the last two, so that
    looking at a long run in a bucket stays quick. What is in `known` is not read again; it holds what this curve was
    made of afterwards, and nothing else.
    """
    log = read_log(storage) if log is None else log
    history = read_history(storage, log=log)
    listed = {found.key: found.size_bytes for found in storage.list(METRICS_PREFIX)}
    if ends_only:
        newest = metrics_segment(max([1, *(attempt.reached_step for attempt in history)]))
        ends = {metrics_key(one.number, segment) for one in history for segment in (1, newest - 1, newest)}
        listed = {key: size for key, size in listed.items() if key in ends}
    return stitch(log, _values(storage, history, listed, known), history)


def read_values(storage: Storage, history: Sequence[Attempt]) -> dict[int, tuple[CurvePoint, ...]]:
    """What each of these attempts measured, by its number, ascending by steps."""
    return _values(storage, history, {found.key: found.size_bytes for found in storage.list(METRICS_PREFIX)})


def _values(
    storage: Storage, history: Sequence[Attempt], listed: Mapping[str, int], known: Measured | None = None
) -> dict[int, tuple[CurvePoint, ...]]:
    used: Measured = {}
    values = {attempt.number: _values_of(storage, attempt, listed, known or {}, used) for attempt in history}
    if known is not None:
        known.clear()
        known.update(used)
    return values


def stitch(log: Log, values: Mapping[int, Sequence[CurvePoint]], history: Sequence[Attempt]) -> Curve:
    """The points of the run's line, and the rest. A pure function of the log and of what each attempt measured."""
    kept = _kept_steps(log)
    by_step: dict[int, CurvePoint] = {}
    for attempt, measured in sorted(values.items()):
        above, up_to = kept.get(attempt, (0, 0))
        by_step.update({point.step: point for point in measured if above < point.step <= up_to})
    # An attempt that found a complete checkpoint which the one before could not commit trains on from there: the steps
    # between were measured by an earlier attempt, and count.
    last = max(by_step, default=0)
    for _, measured in sorted(values.items(), reverse=True):
        by_step |= {point.step: point for point in measured if point.step <= last and point.step not in by_step}
    trained = [attempt for attempt in history if attempt.ending not in ("command", "retried")]
    spans = tuple(_span(attempt, values.get(attempt.number, ())) for attempt in trained)
    lost = (tuple(point for point in values[attempt] if by_step.get(point.step) is not point) for attempt in sorted(values))
    return Curve(
        points=tuple(by_step[step] for step in sorted(by_step)),
        lost=tuple(part for part in lost if part),
        spans=spans,
        interruptions=tuple(
            Interruption(
                attempt=attempt.number,
                reached_step=span.reached_step,
                resumed_step=following.base_step,
                exit_code=attempt.exit_code,
                reason=attempt.reason,
            )
            for (attempt, following), span in zip(pairwise(trained), spans, strict=False)
            if attempt.ending in ("stopped", "lost")
        ),
        max_train_steps=log.last.state.max_train_steps if log.last else 0,
    )


def _kept_steps(log: Log) -> dict[int, tuple[int, int]]:
    """Attempt to (above, up to): the steps that count of it, found by walking the line back from the newest adopt."""
    adopts = {entry.attempt: entry for entry in log.entries if isinstance(entry.body, Adopt)}
    kept: dict[int, tuple[int, int]] = {}
    entry, up_to = log.adopt, 2**63
    while entry is not None:
        assert isinstance(entry.body, Adopt)
        base = entry.body.base
        base_step = log.commit(base).step if base is not None else 0
        kept[entry.attempt] = (base_step, up_to)
        # A checkpoint is older than the adopt that names it, so this walk ends.
        entry, up_to = (adopts.get(log.entries[base - 1].attempt) if base is not None else None), base_step
    return kept


def _span(attempt: Attempt, measured: Sequence[CurvePoint]) -> Span:
    reached_step = max([attempt.reached_step, *(point.step for point in measured)])
    return Span(attempt=attempt.number, base_step=attempt.base_step, reached_step=reached_step)


def _values_of(
    storage: Storage, attempt: Attempt, listed: Mapping[str, int], known: Measured, used: Measured
) -> tuple[CurvePoint, ...]:
    """What one attempt measured, ascending. Its segments follow each other, from that of its first step on."""
    found: dict[int, CurvePoint] = {}
    last = metrics_segment(max(1, attempt.reached_step))
    for segment in count(metrics_segment(attempt.base_step + 1)):
        key = metrics_key(attempt.number, segment)
        if key not in listed:
            if segment > last:
                break
            continue  # its first steps may have come from what the attempt before had staged
        points = known.get((key, listed[key]))
        if points is None:
            points = read_segment(storage, attempt.number, segment)
        used[key, listed[key]] = points
        found.update((point.step, point) for point in points)
    return tuple(found[step] for step in sorted(found))


def read_segment(storage: Storage, attempt: int, segment: int) -> tuple[CurvePoint, ...]:
    """One segment of what an attempt measured, as far as it can be read; nothing where there is none."""
    try:
        lines = storage.read(metrics_key(attempt, segment)).splitlines()
    except KeyNotFound:
        return ()
    points = (_point(values, attempt) for values in _parsed(lines))
    return tuple(point for point in points if point is not None)


def _parsed(lines: Sequence[bytes]) -> list[Any]:
    """What each line holds; of those that are torn None. All at once, as a rule: that takes a fifth of the time."""
    try:
        return list(json.loads(b"[" + b",".join(lines) + b"]"))
    except ValueError:
        return [_parsed_line(line) for line in lines]


def _parsed_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _point(values: Any, attempt: int) -> CurvePoint | None:
    try:
        return CurvePoint(
            step=int(values["step"]),
            attempt=attempt,
            loss=float(values["loss"]),
            learning_rate=values.get("learning_rate"),
            grad_norm=values.get("grad_norm"),
            seconds=values.get("seconds"),
            val_loss=values.get("val_loss"),
            memory_bytes=values.get("memory_bytes"),
            samples=values.get("samples"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
