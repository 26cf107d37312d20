"""`dbr history HOME`: every attempt of a run, what it took in all, and what others noted about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_run
from dreambooth_resume.cli.output import print_columns, print_json
from dreambooth_resume.cli.wording import UNKNOWN, clock, count, why_it_ended
from dreambooth_resume.config.messages import plain
from dreambooth_resume.insight.continuity import Joint
from dreambooth_resume.runs.entries import Totals
from dreambooth_resume.runs.history import Attempt, HistoryTotals, read_history, totals_of
from dreambooth_resume.runs.notes import Note, read_notes
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.continuity import check_history

JUMP_EXIT_CODE = 1
_HEAD = ("attempt", "began (UTC)", "lasted", "where", "from step", "to step", "durable", "lost", "ended", "exit", "why")


def run(words: list[str]) -> int:
    """Prints the attempts, oldest first; exit code 0 whatever became of them. Raises BadInput if HOME holds no run.

    With --check: what each resume went on with; exit code 1 if something jumped.
    """
    parser = CommandParser(
        "dbr history",
        description="Every attempt of a run: where it ran, when, from which step to which, why it ended, and how many "
        "steps had to be trained again for it.",
        fix="dbr history HOME, with the home of a run",
    )
    add_home(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="did the run go on after each resume as if nothing had been? Exit code 1 if not",
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    arguments = parser.parse_words(words)
    storage, summary = open_run(arguments)
    if arguments.check:
        return _check(storage, as_json=arguments.json)
    attempts, notes = read_history(storage), read_notes(storage)
    totals = totals_of(
        attempts,
        Totals(
            steps=summary.steps_trained,
            redone_steps=summary.redone_steps,
            training_seconds=summary.training_seconds,
        ),
    )
    if arguments.json:
        print_json({"home": summary.home, "attempts": attempts, "totals": totals, "notes": notes})
        return 0
    if attempts:
        is_priced = totals.cost is not None
        head = (*_HEAD[:3], "cost", *_HEAD[3:]) if is_priced else _HEAD
        print_columns([_row(attempt, is_priced=is_priced) for attempt in attempts], head=head)
        print()
    if changes := [row for attempt in attempts for row in _change_rows(attempt)]:
        print("changed on a resume")
        print_columns(changes)
        print()
    print(_in_all(totals))
    if notes:
        print("\nnoted by others")
        print_columns([_note_row(note) for note in notes])
    return 0


def _check(storage: Storage, *, as_json: bool) -> int:
    joints = check_history(storage)
    jumps = sum(len(joint.jumps) for joint in joints)
    if as_json:
        print_json({"home": storage.describe(), "joints": joints, "jumps": jumps})
        return JUMP_EXIT_CODE if jumps else 0
    if not joints:
        print("No resume to look at: no attempt after the first has made a step.")
        return 0
    rows = [(str(joint.attempt), str(joint.step), str(joint.compared), _went_on(joint)) for joint in joints]
    print_columns(rows, head=("attempt", "from step", "steps made before", "how it went on"))
    for joint in joints:
        for jump in joint.jumps:
            print(f"\nattempt {joint.attempt}, {jump}")
    print(f"\n{count(len(joints), 'resume')}, {count(jumps, 'jump')}")
    return JUMP_EXIT_CODE if jumps else 0


def _went_on(joint: Joint) -> str:
    """In some words; steps that nobody made before have nothing to be compared with."""
    if joint.jumps:
        return "JUMPED: " + ", ".join(jump.kind for jump in joint.jumps)
    told = f"; the log says why it may differ: {'; '.join(joint.expected)}" if joint.expected else ""
    if not joint.compared:
        return f"steps, learning rate and data position follow on{told}"
    return ("as before, but for rounding" if joint.expected else "the same bits as before") + told


def _row(attempt: Attempt, *, is_priced: bool) -> Sequence[str]:
    return (
        str(attempt.number),
        _moment(attempt.began_at),
        clock(_seconds(attempt)),
        *([_cost(attempt)] if is_priced else []),
        _where(attempt),
        str(attempt.base_step),
        str(attempt.reached_step),
        str(attempt.durable_step),
        str(attempt.redone_steps or UNKNOWN),
        attempt.ending,
        UNKNOWN if attempt.exit_code is None else str(attempt.exit_code),
        why_it_ended(attempt),
    )


def _where(attempt: Attempt) -> str:
    place = f"{attempt.process.host}, pid {attempt.process.pid}"
    if attempt.job is None:
        return place
    again = f", restart {attempt.job.restarts}" if attempt.job.restarts else ""
    return f"{place}, {attempt.job.name}{again}"


def _cost(attempt: Attempt) -> str:
    return UNKNOWN if attempt.price is None else f"${attempt.machine_seconds / 3600.0 * attempt.price.per_hour:.2f}"


def _change_rows(attempt: Attempt) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        (
            f"attempt {attempt.number}",
            change.name,
            f"{plain(change.before)} -> {plain(change.after)}",
            f"{change.policy}, and allowed" if change.allowed else change.policy,
        )
        for change in attempt.changes
    ]
    if attempt.segment is not None:
        told = f"others from step {attempt.segment.from_step} on"
        rows.append((f"attempt {attempt.number}", "pictures", told, "on_data_change continue"))
    return rows


def _in_all(totals: HistoryTotals) -> str:
    again = f", {totals.redone_steps:,} of them again" if totals.redone_steps else ""
    spent = f" in {clock(totals.training_seconds)}" if totals.training_seconds else ""
    machines = (
        f"\n{clock(totals.machine_seconds)} of machine time{_costs(totals)}" if totals.machine_seconds >= 1.0 else ""
    )
    return (
        f"{count(totals.attempts, 'attempt')} on {count(totals.machines, 'machine')}, "
        f"{count(totals.interruptions, 'interruption')}; {count(totals.checkpoints, 'checkpoint')} committed; "
        f"{count(totals.steps_trained, 'step')} trained{again}{spent}, as of the newest log entry"
        f"{machines}"
    )


def _costs(totals: HistoryTotals) -> str:
    """What the machines cost, and what they would have on demand; nothing where no price is known."""
    if totals.cost is None:
        return ""
    saved = ""
    if totals.on_demand_cost:
        share = 100.0 * (1.0 - totals.cost / totals.on_demand_cost)
        saved = f"; the same hours on demand: ${totals.on_demand_cost:.2f}, so {share:.0f} % was saved"
    unknown = f"; the price of {clock(totals.unpriced_seconds)} is not known" if totals.unpriced_seconds else ""
    return f": ${totals.cost:.2f}{saved}{unknown}"


def _note_row(note: Note) -> Sequence[str]:
    about = f"attempt {note.attempt}" if note.attempt is not None else ""
    return (_moment(note.written_at), note.kind, about, note.text, f"({note.written_by})")


def _moment(moment: str) -> str:
    return moment.replace("T", " ").removesuffix("+00:00")


def _seconds(attempt: Attempt) -> float | None:
    """From its adopt to its last sign of life; unknown while it runs."""
    try:
        if attempt.ended_at is None:
            return None
        return (datetime.fromisoformat(attempt.ended_at) - datetime.fromisoformat(attempt.began_at)).total_seconds()
    except (ValueError, TypeError):  # a moment that isn't one, or one without a zone
        return None
