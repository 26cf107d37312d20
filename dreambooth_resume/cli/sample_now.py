"""`dbr sample-now HOME`: asks whoever trains a run for pictures of this very step, without stopping it."""

from __future__ import annotations

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_run
from dreambooth_resume.cli.output import print_json, tell_at_once
from dreambooth_resume.errors import BadInput, ComeBack
from dreambooth_resume.runs.control import POLL_SECONDS
from dreambooth_resume.runs.samples import SampleSet, read_samples
from dreambooth_resume.runs.summary import RunSummary
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.holders import ANSWER_SECONDS, Waiting, ask_holder, holder_of


def run(words: list[str]) -> int:
    """Exit code 0 with the pictures' places, else 75: nobody answered, or the training left them out."""
    parser = CommandParser(
        "dbr sample-now",
        description="Ask the process that trains a run for pictures with the LoRA of now, and wait for them. It trains "
        "on afterwards, and ends in the same bytes. Where nobody trains: dbr generate.",
        fix="dbr sample-now HOME, with the home of a run",
    )
    add_home(parser)
    parser.add_argument(
        "--prompt", metavar="TEXT", help="left out: the run's validation prompts, or its instance prompt"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    if arguments.prompt is not None and not arguments.prompt.strip():
        raise BadInput("is empty", where="--prompt", fix="leave it out, or give a prompt")
    storage, before = open_run(arguments)
    made = sample_now(storage, before, arguments.prompt, Waiting(tell=tell_at_once))
    if arguments.json:
        print_json({"asked": made is not None, "samples": made})
        return 0
    if made is None:
        print(f"Nobody trains the run in {before.home} ({before.state}: {before.because}); nothing was asked for.")
        print(f'With any of its checkpoints: dbr generate {before.home} --prompt "…" --out pictures')
        return 0
    print(f"Pictures of step {made.step}:")
    for key, prompt in zip(made.pictures, made.prompts, strict=True):
        print(f"{before.home}/{key}  {prompt}")
    return 0


def sample_now(storage: Storage, before: RunSummary, prompt: str | None, waiting: Waiting) -> SampleSet | None:
    """The pictures that the holder made; None if there is none.

    Raises ComeBack if it neither answers nor ends, ends without making them, or leaves them out.
    """
    attempt = holder_of(storage, before, waiting)
    if attempt is None:
        return None
    waiting.tell(
        f"Asked attempt {attempt} for pictures. It looks within {POLL_SECONDS:.0f} s; waiting up to "
        f"{ANSWER_SECONDS:.0f} s."
    )
    answered = ask_holder(storage, "sample", attempt, waiting, prompt=prompt)
    if answered is None:
        raise ComeBack(f"Attempt {attempt} ended before it made any. Type the same command again when the run goes on.")
    made = [one for one in read_samples(storage) if one.asked == answered.nonce[:8]]
    if not made:
        raise ComeBack(f"Attempt {attempt} left the pictures out; its output says why. The training goes on.")
    return made[-1]
