"""The parts of a run's page as HTML, from its view. Pure but for the pictures, which are given as addresses."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

from dreambooth_resume.config.messages import plain
from dreambooth_resume.config.option import is_secret
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.runs.checkpoints import CheckpointInfo
from dreambooth_resume.runs.history import Attempt
from dreambooth_resume.runs.samples import SampleSet
from dreambooth_resume.ui.commands import Command
from dreambooth_resume.ui.markup import (
    ago,
    button,
    chart_box,
    chip,
    command_list,
    empty,
    facts,
    is_drawable,
    problem,
    progress,
    resume_button,
    stop_button,
    table,
    text,
)
from dreambooth_resume.ui.open_run import RunView
from dreambooth_resume.ui.points import ChartKind
from dreambooth_resume.ui.try_parts import try_link
from dreambooth_resume.ui.view import RunRow, money, span

SETS_SHOWN = 10
PICTURES_SHOWN = 8
_LINES_OF_A_FAILURE = 12
_CHARTS: tuple[tuple[ChartKind, str], ...] = (
    ("loss", "Loss"),
    ("lr", "Learning rate"),
    ("speed", "Speed"),
    ("memory", "Peak memory of the GPU, or of the process on a CPU"),
)


def head(view: RunView, commands: Sequence[Command]) -> str:
    """Name, state and why, progress, what is known in numbers, and what was asked for last."""
    row, summary = view.row, view.summary
    alarm = problem(summary.alarm) if summary.alarm else ""
    speed = f"{row.samples_per_second:.1f} samples/s" if row.samples_per_second else "–"
    left = f"<br><small class='dim'>{span(row.seconds_left)} left</small>" if row.seconds_left is not None else ""
    ahead = row.step - (row.durable_step or 0)
    again = f"<br><small class='dim'>{ahead:,} steps since</small>" if ahead > 0 and row.is_live else ""
    if ahead > 0 and not row.is_live:
        again = f"<br><small class='dim'>{ahead:,} steps will be trained again</small>"
    saved = (
        f"step {row.durable_step:,} <small>{ago(row.durable_at)}</small>{again}" if row.durable_step else "nothing yet"
    )
    machine = view.totals.machine_seconds if view.totals else 0.0
    cost = text(money(row.cost)) or (f"{span(machine)} of a machine" if machine else "–")
    numbers = [
        ("Saved", saved),
        ("Speed", f"{text(speed)}{left}"),
        ("Loss", f"{row.loss:.4f}" if row.loss is not None else "–"),
        ("Interruptions", str(row.interruptions or 0)),
        ("Trained again", f"{summary.redone_steps:,} steps" if summary.redone_steps else "nothing"),
        ("Cost", cost),
    ]
    known = f"{progress(row)}{alarm}{facts(numbers)}" if row.has_begun else _last_words(view)
    return (
        f'<div class="dbr card"><div class="top"><h2>{text(row.name)}</h2>{chip(row.state)}</div>'
        f'<div class="path" style="max-width:none">{text(row.home)}</div><p class="say">{text(row.because)}</p>'
        f"{known}{command_list(commands)}</div>"
    )


def _last_words(view: RunView) -> str:
    """What a first start has printed last."""
    if not view.lines:
        return ""
    return f'<div class="log"><pre>{text(chr(10).join(view.lines[-_LINES_OF_A_FAILURE:]))}</pre></div>'


def being_started(home: str, commands: Sequence[Command]) -> str:
    """A run that was started here a moment ago and has written nothing of its own yet."""
    name = home.rstrip("/").rpartition("/")[2]
    return (
        f'<div class="dbr card"><div class="top"><h2>{text(name)}</h2>{chip("starting")}</div>'
        f'<p class="say">Its process loads what it needs; the run appears here by itself.</p>'
        f"{command_list(commands)}</div>"
    )


def actions(row: RunRow, *, can_kill: bool) -> str:
    """The buttons that make sense in this state."""
    made: list[str] = []
    if row.is_resumable:
        made.append(resume_button(row))
    if row.is_live or row.state == "waiting":
        made.append(stop_button(row))
    if row.state in ("running", "saving"):
        made.append(button("Save now", "save", home=row.home))
        made.append(button("Sample now", "sample", home=row.home))
    if row.durable_step:
        made.append(button("Download LoRA", "download", home=row.home))
    if can_kill:
        ask = "End its processes on this machine at once, without a save? What was trained since the last save is lost."
        made.append(button("Kill", "kill", home=row.home, kind="danger", ask=ask))
    return f'<div class="dbr acts">{"".join(made)}</div>'


def curves(view: RunView) -> str:
    drawn = [
        chart_box(f"{view.row.home} {kind}", title, view.charts[kind])
        for kind, title in _CHARTS
        if kind in view.charts and is_drawable(view.charts[kind])
    ]
    if not drawn:
        return _part(empty("Nothing is measured yet", "The curve begins with the first step.", None))
    hint = "Drag to zoom, double click for all; with the keyboard + − ← →. Dotted lines: the run was interrupted there."
    return _part("".join(drawn).replace('class="chart"', 'class="chart big"', 1) + f'<small class="dim">{hint}</small>')


def timeline(view: RunView) -> str:
    if not view.attempts:
        return _part(empty("No attempt yet", "The first start has not begun to train.", None))
    items = "".join(_attempt(attempt) for attempt in reversed(view.attempts[-100:]))
    return _part(f'<ol class="timeline">{items}</ol>')


def _attempt(attempt: Attempt) -> str:
    again = f" {attempt.redone_steps:,} steps had to be trained again." if attempt.redone_steps else ""
    code = "" if attempt.exit_code is None else f" (exit code {attempt.exit_code})"
    spent = attempt.price.per_hour * attempt.machine_seconds / 3600 if attempt.price else None
    took = ", ".join(part for part in (span(attempt.machine_seconds), money(spent)) if part)
    extra = [f"set {one.folder} aside: {one.reason}" for one in attempt.set_aside]
    extra += [f"went back to {attempt.base_folder}, as asked"] if attempt.going_back else []
    extra += ["reopened the finished run"] if attempt.reopened else []
    extra += [f"{one.name}: {plain(one.before)} → {plain(one.after)}" for one in attempt.changes]
    notes = "".join(f'<div class="dim">{text(one)}</div>' for one in extra)
    reason = text(attempt.reason[:1].upper() + attempt.reason[1:])
    return (
        f'<li class="end-{text(attempt.ending.replace(" ", "-"))}">'
        f"<h3>Attempt {attempt.number} · {text(attempt.ending)}</h3>"
        f"<div>On {text(attempt.process.host)}, from step {attempt.base_step:,} to {attempt.reached_step:,}"
        f"{f', {text(took)}' if took else ''}. {reason}{code}.{again}</div>{notes}"
        f'<small class="dim">began {ago(attempt.began_at)}'
        f"{f', ended {ago(attempt.ended_at)}' if attempt.ended_at else ''}</small></li>"
    )


def checkpoints(view: RunView, exported: Callable[[str], Mapping[str, str]] = lambda _folder: {}) -> str:
    """The table of what is saved; `exported` are the files that were made of a checkpoint, with where they are got."""
    there = [one for one in reversed(view.checkpoints) if one.state != "retired"]
    gone = len(view.checkpoints) - len(there)
    if not there:
        return _part(empty("Nothing is saved yet", "A checkpoint appears here once all of it is durable.", None))
    where = "in the bucket" if "://" in view.row.home else "in the folder"
    rows = [[*_checkpoint(one), where, _checkpoint_acts(view.row, one, exported(one.folder))] for one in there[:100]]
    note = f'<small class="dim">{gone} older ones were retired by checkpoints_total_limit.</small>' if gone else ""
    head = ("Step", "State", "Saved", "Why", "Size", "Attempt", "Where", "")
    return _part(table(head, rows) + note)


def _checkpoint(one: CheckpointInfo) -> list[str]:
    state = "result" if one.is_result else "newest" if one.is_newest else one.state
    note = f'<br><small class="dim">{text(one.note)}</small>' if one.note else ""
    return [
        f'<span class="num">{one.step:,}</span>',
        f'{text(state)}<br><small class="dim">verified when saved</small>{note}',
        ago(one.committed_at),
        text(one.reason),
        f'<span class="num">{one.size_bytes / 1e6:,.1f} MB</span>',
        str(one.attempt),
    ]


def _checkpoint_acts(row: RunRow, one: CheckpointInfo, files: Mapping[str, str]) -> str:
    def small(label: str, act: str, *, kind: str = "", ask: str = "") -> str:
        return button(label, act, home=row.home, name=one.folder, kind=f"small {kind}", ask=ask)

    made = [small("Diffusers file", "download")]
    if not files:
        made.append(small("Kohya file", "kohya"))
    made += [
        f'<a class="act small primary" href="{text(url)}" download="{text(name)}">Save {text(name)}</a>'
        for name, url in files.items()
    ]
    made += [small("Verify", "verify"), try_link(row.home, one.folder)]
    if not row.is_live and row.state != "finished" and one.state == "live":
        made.append(
            small("Resume from", "back", ask=f"Go back to step {one.step}? Later steps are trained again, otherwise.")
        )
    if row.state != "finished" and not one.is_newest:
        made.append(small("Delete", "delete", kind="danger", ask=f"Delete {one.folder} for good?"))
    return f'<div class="acts">{"".join(made)}</div>'


def samples(view: RunView, address: Callable[[str, bool], str | None]) -> str:
    """A row a step, a column a prompt; `address` is where the browser finds a picture, small or whole."""
    if not view.samples:
        row = view.row
        words = "Sample now makes some." if row.is_live else "With any checkpoint:"
        typed = None if row.is_live else f'dbr generate {shlex.quote(row.home)} --prompt "…" --out pictures'
        return _part(
            empty("No pictures yet", f"Set validation_prompt to have some made while it trains. {words}", typed)
        )
    rows = "".join(_sample_row(one, address) for one in reversed(view.samples[-SETS_SHOWN:]))
    more = len(view.samples) - SETS_SHOWN
    note = f'<small class="dim">The newest {SETS_SHOWN} of {len(view.samples)} sets.</small>' if more > 0 else ""
    return _part(f'<div class="samples">{rows}</div>{note}')


def _sample_row(one: SampleSet, address: Callable[[str, bool], str | None]) -> str:
    cells = []
    for key, prompt in list(zip(one.pictures, one.prompts, strict=True))[:PICTURES_SHOWN]:
        small, whole = address(key, True), address(key, False)
        picture = (
            f'<a href="{text(whole)}" target="_blank"><img loading="lazy" src="{text(small)}" alt="{text(prompt)}"></a>'
            if small and whole
            else '<div class="problem">can\'t be read</div>'
        )
        cells.append(f'<figure>{picture}<figcaption title="{text(prompt)}">{text(prompt)}</figcaption></figure>')
    remark = "the result" if one.is_final else "asked for" if one.asked else ""
    return (
        f'<div class="sample-row"><div><b class="num">step {one.step:,}</b><br><small class="dim">{remark} '
        f'{ago(one.made_at)}</small></div><div class="pics">{"".join(cells)}</div></div>'
    )


def log(view: RunView) -> str:
    if view.lines is None:
        return _part(
            empty(
                "Nobody kept its output",
                "It was started by dbr train in a terminal. A run that this page or dbr launch starts shows its output "
                "here.",
                None,
            )
        )
    if not view.lines:
        return _part(empty("Nothing is printed yet", "The output appears here as it comes.", None))
    return f'<div class="dbr log"><pre>{text(chr(10).join(view.lines))}</pre></div>'


def configuration(view: RunView) -> str:
    """The resolved options, what differs from the defaults first, and what exactness depends on."""
    options = {name: value for name, value in view.options.items() if not is_secret(name)}
    own = {name: value for name, value in options.items() if name not in OPTIONS or value != OPTIONS[name].default}
    rest = {name: value for name, value in options.items() if name not in own}
    record = view.record
    parts = ["<h3>Set for this run</h3>", _options(own)]
    if record is not None:
        identity = {"run_id": record.run_id, "seed": record.seed, "effective_batch": record.effective_batch}
        pins = {"base_commit": record.pins.base_commit or "a folder", "dataset": record.pins.dataset}
        parts += ["<h3 style='margin-top:18px'>Environment</h3>", _options({**identity, **record.numerics, **pins})]
    parts += [
        f"<details style='margin-top:18px'><summary>{len(rest)} options at their defaults</summary>{_options(rest)}"
    ]
    return _part("".join([*parts, "</details>"]))


def _options(values: Mapping[str, object]) -> str:
    rows = [(f"<code>{text(name)}</code>", f"<span>{text(plain(value))}</span>") for name, value in values.items()]
    return table(("Option", "Value"), rows)


def _part(body: str) -> str:
    return f'<div class="dbr">{body}</div>'
