"""`dbr save-now HOME`: asks whoever trains a run to save, and waits until it is durable."""

from __future__ import annotations

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_run, resume_command
from dreambooth_resume.cli.output import print_json, tell_at_once
from dreambooth_resume.cli.wording import ago
from dreambooth_resume.errors import ComeBack
from dreambooth_resume.runs.control import POLL_SECONDS
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.holders import ANSWER_SECONDS, Waiting, ask_holder, holder_of


def run(words: list[str]) -> int:
    """Exit code 0 if all that was trained when it was asked for is durable, else 75. Raises BadInput for no run."""
    parser = CommandParser(
        "dbr save-now",
        description="Ask the process that trains a run to save, wait for it, and say which step is durable. It goes on "
        "training meanwhile.",
        fix="dbr save-now HOME, with the home of a run",
    )
    add_home(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    storage, before = open_run(arguments)
    after, asked = save_now(storage, before, Waiting(tell=tell_at_once))
    if arguments.json:
        print_json({"asked": asked, "durable_step": after.durable_step, "summary": after})
        return 0
    if not asked:
        print(f"Nobody trains the run in {after.home} ({after.state}: {after.because}); nothing was asked for.")
    print(_durable(after))
    return 0


def save_now(storage: Storage, before: RunSummary, waiting: Waiting) -> tuple[RunSummary, bool]:
    """How the run stands after its holder has saved, and whether there was one.

    Raises ComeBack if it neither answers nor ends, or ends without saving what it had trained.
    """
    attempt = holder_of(storage, before, waiting)
    if attempt is None:
        return before, False
    waiting.tell(
        f"Asked attempt {attempt} to save. It looks within {POLL_SECONDS:.0f} s; waiting up to {ANSWER_SECONDS:.0f} s."
    )
    is_answered = ask_holder(storage, "save", attempt, waiting)
    after = summarise(storage) or before
    if not is_answered and (after.durable_step or 0) < before.step:
        raise ComeBack(
            f"Attempt {attempt} ended before it saved; the last durable step is {after.durable_step or 0}. The run "
            f"goes on from there: {resume_command(after.home)}"
        )
    return after, True


def _durable(summary: RunSummary) -> str:
    if summary.durable_step is None:
        return "Nothing is durable yet."
    total = f" of {summary.max_train_steps}" if summary.max_train_steps else ""
    return f"Step {summary.durable_step}{total} is durable, saved {ago(summary.durable_age_seconds)}."
