"""`dbr status HOME`: what a run is doing, what is durable, and every attempt so far."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, no_run, open_home, resume_command
from dreambooth_resume.cli.output import print_columns, print_json
from dreambooth_resume.cli.wording import UNKNOWN, ago, clock, count, why_it_ended
from dreambooth_resume.insight.continuity import jumps_said
from dreambooth_resume.insight.trends import Remark, look_at
from dreambooth_resume.runs.history import Attempt, read_history
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.workflows.launched import LaunchedJob, newest_job

_ATTEMPTS_SHOWN = 10


def run(words: list[str]) -> int:
    """Prints one run's state; exit code 0 whatever the state is. Raises BadInput if HOME holds no run."""
    parser = CommandParser(
        "dbr status",
        description="What a run is doing, its last durable step, and every attempt so far.",
        fix="dbr status HOME, with the --output_dir of a run",
    )
    add_home(parser)
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    arguments = parser.parse_words(words)
    storage = open_home(arguments)
    summary, launched = summarise(storage), newest_job(storage)
    evaluation = newest_job(storage, "eval")
    if summary is None and launched is None:
        raise no_run(arguments.home)
    record, log = (read_record(storage), read_log(storage)) if summary else (None, Log())
    attempts = read_history(storage, log=log)
    remarks = look_at(storage, record, log) if record else ()
    if arguments.json:
        print_json(
            {
                "summary": summary, "attempts": attempts, "launched": _job_facts(launched),
                "evaluation": _job_facts(evaluation), "remarks": remarks,
            }
        )  # fmt: skip
        return 0
    if summary is None:
        print_columns([("run", storage.describe()), ("state", "not begun"), *_job_rows(storage.describe(), launched)])
        print(f"\nnext: dbr logs {shlex.quote(storage.describe())} -f shows what it is doing")
        return 0
    rows = _facts(summary, effective_batch=record.effective_batch if record else None)
    jobs = [*_job_rows(summary.home, launched), *_evaluation_rows(evaluation)]
    print_columns([*rows, *jobs, *_remark_rows(summary.home, remarks)])
    if attempts:
        print()
        print_columns([_attempt_row(attempt) for attempt in attempts[-_ATTEMPTS_SHOWN:]], head=_ATTEMPT_HEAD)
        if len(attempts) > _ATTEMPTS_SHOWN:
            before = count(len(attempts) - _ATTEMPTS_SHOWN, "attempt")
            print(f"and {before} before; all: dbr status {shlex.quote(summary.home)} --json")
    print(f"\nnext: {_next(summary, launched)}")
    return 0


def _remark_rows(home: str, remarks: Sequence[Remark]) -> list[Sequence[str]]:
    """What the curves say that somebody should hear, with what to try."""
    rows: list[Sequence[str]] = []
    for remark in remarks:
        to_try = remark.to_try.replace("HOME", shlex.quote(home))
        rows += [("look", remark.told), ("", f"try: {to_try}"), ("", f"more: dbr help {remark.anchor}")]
    return rows


def _job_rows(home: str, launched: LaunchedJob | None) -> list[Sequence[str]]:
    """Where the run was launched last, and how its job stands."""
    if launched is None or launched.launch.job is None:
        return []
    return [
        ("launched", f"{launched.launch.launcher}: {launched.launch.job.name}"),
        ("", f"{launched.status.state}: {launched.status.because}"),
        *([("", f"{launched.last_exit} (its output: dbr logs {shlex.quote(home)})")] if launched.last_exit else []),
    ]


def _evaluation_rows(evaluation: LaunchedJob | None) -> list[Sequence[str]]:
    """The newest one that was launched, as long as it isn't over."""
    if evaluation is None or evaluation.launch.job is None or evaluation.status.state == "ended":
        return []
    return [
        ("evaluated", f"{evaluation.launch.launcher}: {evaluation.launch.job.name}"),
        ("", f"{evaluation.status.state}: {evaluation.status.because}"),
    ]


def _job_facts(launched: LaunchedJob | None) -> dict[str, object] | None:
    if launched is None:
        return None
    return {
        "id": launched.launch.id, "launcher": launched.launch.launcher, "job": launched.launch.job,
        "status": launched.status, "last_exit": launched.last_exit,
    }  # fmt: skip


def _facts(summary: RunSummary, *, effective_batch: int | None) -> list[Sequence[str]]:
    process = summary.process
    where = f"attempt {summary.attempt}" if summary.attempt else "no attempt yet"
    if process is not None and summary.is_live:
        where += f", pid {process.pid} on {process.host}"
    rows: list[Sequence[str]] = [
        ("run", summary.home),
        ("state", summary.state),
        ("", f"{where}: {summary.because}"),
        ("step", _step(summary)),
        ("durable", _durable(summary)),
    ]
    if summary.loss is not None and summary.learning_rate is not None:
        rows.append(("loss", f"{summary.loss:.4f}   learning rate {summary.learning_rate:.1e}"))
    if summary.samples_per_second is not None:
        left = seconds_left(summary, effective_batch=effective_batch)
        rows.append(("speed", f"{summary.samples_per_second:.1f} samples/s   left {clock(left)}"))
    again = f", {summary.redone_steps:,} of them again" if summary.redone_steps else ""
    spent = f" in {clock(summary.training_seconds)}" if summary.training_seconds else ""
    rows.append(("trained", f"{count(summary.steps_trained, 'step')}{again}{spent}, as of the newest log entry"))
    for one in summary.skipped:
        steps = f"step {one.last + 1} has" if one.first == one.last else f"steps {one.first + 1} to {one.last + 1} have"
        rows.append(("gone back", f"{one.why} at step {one.last + 1}, so {steps} other samples"))
    if (smaller := summary.smaller_micro_batch) is not None:
        at_once = f"{count(smaller.size, 'sample')} at once since step {smaller.from_step + 1}"
        rows.append(("memory", f"{at_once}: {smaller.who} had none for more"))
    if summary.alarm:
        rows.append(("ALARM", summary.alarm))
    if summary.resumed is not None and (jumps := jumps_said(summary.resumed)):
        rows += [("JUMP", f"at the resume of attempt {summary.attempt}: {jump}") for jump in jumps]
        rows.append(("", f"all resumes: dbr history {shlex.quote(summary.home)} --check"))
    return rows


def seconds_left(summary: RunSummary, *, effective_batch: int | None) -> float | None:
    """To the last step at the present speed; None if that isn't known."""
    if not (summary.samples_per_second and summary.max_train_steps and effective_batch):
        return None
    return max(0, summary.max_train_steps - summary.step) * effective_batch / summary.samples_per_second


def _step(summary: RunSummary) -> str:
    if not summary.max_train_steps:
        return str(summary.step)
    return f"{summary.step} of {summary.max_train_steps}   {100 * summary.step / summary.max_train_steps:.0f} %"


def _durable(summary: RunSummary) -> str:
    if summary.durable_step is None:
        return "nothing yet"
    ahead = summary.step - summary.durable_step
    lost = f"   {count(ahead, 'step')} will be trained again" if ahead > 0 and not summary.is_live else ""
    return f"step {summary.durable_step}, {ago(summary.durable_age_seconds)}{lost}"


_ATTEMPT_HEAD = ("attempt", "began", "host", "pid", "from step", "to step", "ended", "exit", "again", "")


def _attempt_row(attempt: Attempt) -> Sequence[str]:
    return (
        str(attempt.number),
        attempt.began_at.replace("T", " ").removesuffix("+00:00"),
        attempt.process.host,
        str(attempt.process.pid),
        str(attempt.base_step),
        str(attempt.reached_step),
        attempt.ending,
        UNKNOWN if attempt.exit_code is None else str(attempt.exit_code),
        str(attempt.redone_steps or UNKNOWN),
        why_it_ended(attempt),
    )


def _next(summary: RunSummary, launched: LaunchedJob | None) -> str:
    if not summary.is_live and summary.state != "finished" and launched is not None:
        if launched.status.state in ("waiting", "running"):
            return f"nothing: it is started again by itself; dbr logs {shlex.quote(summary.home)} -f shows it"
        return f"dbr resume {shlex.quote(summary.home)} goes on from step {summary.durable_step or 0}"
    if summary.is_live:
        return f"dbr stop {shlex.quote(summary.home)} asks it to save and stop"
    if summary.state == "finished":
        return (
            f"the LoRA is {summary.home}/{WEIGHTS_NAME}; more steps: {resume_command(summary.home)} --max_train_steps N"
        )
    if summary.attempt is None:
        return "start the same dbr train command again"
    return f"{resume_command(summary.home)} goes on from step {summary.durable_step or 0}"
