"""HTML of the pages. Everything that comes from a home, a file or a user goes through `text`, which escapes it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from urllib.parse import quote

from dreambooth_resume.ui.commands import Command
from dreambooth_resume.ui.view import STATE_WORDS, RunRow, UiState, money, span

CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button || button.disabled) return;
  if (button.dataset.ask && !window.confirm(button.dataset.ask)) return;
  button.disabled = true;
  window.setTimeout(() => { button.disabled = false; }, 4000);
  trigger('click', {act: button.dataset.act, home: button.dataset.home || '', name: button.dataset.name || ''});
});
"""
"""For gr.HTML's js_on_load: a button with data-act sends its act, home and name; data-ask asks before."""


def text(value: object) -> str:
    """Escaped, for content and for attributes in quotes; braces and dollars too, which templates of the page read."""
    escaped = html.escape(str(value), quote=True)
    return escaped.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def chip(state: UiState) -> str:
    return f'<span class="chip chip-{state}"><i></i>{text(STATE_WORDS[state])}</span>'


def ago(moment: str | None, *, missing: str = "–") -> str:
    """An age that the browser keeps up to date; the moment itself, in local time, is its tooltip."""
    if not moment:
        return f'<span class="dim">{text(missing)}</span>'
    return f'<time class="ago" datetime="{text(moment)}">{text(moment.replace("T", " ")[:16])} UTC</time>'


def button(label: str, act: str, *, home: str = "", name: str = "", kind: str = "", ask: str = "") -> str:
    """A button that `CLICKS` hears."""
    asked = f' data-ask="{text(ask)}"' if ask else ""
    return (
        f'<button type="button" class="act {kind}" data-act="{text(act)}" data-home="{text(home)}" '
        f'data-name="{text(name)}" data-key="{text(act)}|{text(home)}|{text(name)}"{asked}>{text(label)}</button>'
    )


def resume_button(row: RunRow) -> str:
    return button("Resume" if row.has_begun else "Start again", "resume", home=row.home, kind="primary")


def stop_button(row: RunRow) -> str:
    return button("Stop and save" if row.has_begun else "Cancel", "stop", home=row.home)


def progress(row: RunRow) -> str:
    """How far it is; of a run that hasn't begun there is nothing to draw."""
    if not row.has_begun and row.steps is None:
        return '<span class="dim">not begun</span>'
    total = f" of {row.steps:,}" if row.steps else ""
    safe = min(1.0, (row.durable_step or 0) / row.steps) if row.steps else 0.0
    return (
        f'<div class="bar" role="progressbar" aria-label="steps trained" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * row.part:.0f}"><b class="bar-{row.state}" style="width:{100 * row.part:.1f}%"></b>'
        f'<u style="left:{100 * safe:.1f}%" title="saved up to here"></u></div>'
        f'<span class="num">{row.step:,}{total}</span>'
    )


def run_link(home: str, label: str) -> str:
    return f'<a class="run-link" href="run?home={text(_quoted(home))}" data-key="run|{text(home)}">{text(label)}</a>'


def runs_table(rows: Sequence[RunRow], *, any_run: bool, places: Sequence[str]) -> str:
    """The list of runs; or what to do where there is none."""
    if not any_run:
        where = ", ".join(places)
        return empty(
            "No run here yet",
            f"This page shows the runs below {where}. Start one with New run, or in a terminal:",
            "dbr train --config run.yaml --resume latest",
        )
    if not rows:
        return empty("No run fits", "Take words out of the search, or show all states.", None)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Run", "State", "Steps", "Speed", "Saved", "Cost", ""))
    body = "".join(_run_row(row) for row in rows)
    return f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _pick(row: RunRow) -> str:
    """Chooses the run for the page Compare; `page.js` keeps the choice while the list is drawn anew."""
    if row.state == "unreadable":
        return ""
    return (
        f'<input type="checkbox" class="pick" data-pick="{text(row.home)}" data-key="pick|{text(row.home)}" '
        f'aria-label="Compare {text(row.name)}" title="Compare">'
    )


def _run_row(row: RunRow) -> str:
    speed = f"{row.samples_per_second:.1f} samples/s" if row.samples_per_second else ""
    left = f"{span(row.seconds_left)} left" if row.seconds_left is not None else ""
    saved = "".join(
        (
            f"<div>step {row.durable_step:,}</div>" if row.durable_step else '<div class="dim">nothing yet</div>',
            f'<small class="dim">{ago(row.durable_at)}</small>' if row.durable_at else "",
        )
    )
    often = ""
    if row.interruptions:
        often = f'<small class="dim">interrupted {row.interruptions}×</small>'
    do = ""
    if row.is_resumable:
        do = resume_button(row)
    elif row.is_live or row.state == "waiting":
        do = stop_button(row)
    alarm = f'<div class="alarm">{text(row.alarm)}</div>' if row.alarm else ""
    void = ' class="void"'  # nothing to show: on a phone it takes no room
    return (
        f'<tr><td data-label="Run">{_pick(row)}{run_link(row.home, row.name)}'
        f'<small class="path" title="{text(row.home)}">{text(row.home)}</small></td>'
        f'<td data-label="State">{chip(row.state)}<small class="why" title="{text(row.because)}">{text(row.because)}'
        f"</small>{alarm}</td>"
        f'<td data-label="Steps">{progress(row) if row.state != "unreadable" else ""}</td>'
        f'<td data-label="Speed"{"" if speed else void}><div class="num">{text(speed)}</div>'
        f'<small class="dim">{text(left)}</small></td>'
        f'<td data-label="Saved">{saved if row.state != "unreadable" else ""}</td>'
        f'<td data-label="Cost"{"" if often or row.cost else void}><div class="num">{text(money(row.cost))}</div>'
        f"{often}</td>"
        f'<td class="do">{do}</td></tr>'
    )


def empty(title: str, words: str, command: str | None) -> str:
    """A state without content, with what to do about it."""
    typed = f"<code>{text(command)}</code>" if command else ""
    return f'<div class="empty"><h3>{text(title)}</h3><p>{text(words)}</p>{typed}</div>'


def problem(what: str, fix: str = "") -> str:
    """An error that the user can do something about."""
    more = f'<div class="fix">{text(fix)}</div>' if fix else ""
    return f'<div class="problem" role="alert">{text(what)}{more}</div>'


def command_list(commands: Sequence[Command], *, at_most: int = 3) -> str:
    """What the page was asked to do for this run, the newest first."""
    return "".join(_command(command) for command in commands[:at_most])


def _command(command: Command) -> str:
    mark = {"running": "…", "done": "✓", "failed": "✗"}[command.state]
    said = f"<pre>{text(command.text)}</pre>" if command.text else ""
    return (
        f'<div class="command command-{command.state}" role="status"><span class="mark">{mark}</span><div>'
        f"<code>{text(command.typed)}</code> {ago(command.at)}{said}</div></div>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "") -> str:
    """Cells are HTML already."""
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(
        "<tr>"
        + "".join(f'<td data-label="{text(name)}">{cell}</td>' for name, cell in zip(head, row, strict=True))
        + "</tr>"
        for row in rows
    )
    parts = f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="plain {kind}">{parts}</table></div>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Name and value; values are HTML already."""
    return '<dl class="facts">' + "".join(f"<div><dt>{text(a)}</dt><dd>{b}</dd></div>" for a, b in pairs) + "</dl>"


def chart_box(key: str, title: str, points: str) -> str:
    """A place where `page.js` draws; `points` is the JSON of points.py."""
    return (
        f'<figure class="chart" data-chart="{text(key)}" data-points="{text(points)}">'
        f"<figcaption>{text(title)}</figcaption>"
        f'<div class="plot" tabindex="0" role="img" aria-label="{text(title)} by step" '
        f'data-key="plot|{text(key)}"></div></figure>'
    )


def is_drawable(points: str) -> bool:
    """Is there anything to draw in a chart of points.py?"""
    return any(line["points"] for line in json.loads(points)["lines"])


def _quoted(home: str) -> str:
    return quote(home, safe="")
