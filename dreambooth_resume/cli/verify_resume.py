"""`dbr verify-resume`: is a resume of this run, on this machine, exact? Tried, not promised."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.ending import ended_as_by_ctrl_c
from dreambooth_resume.cli.output import print_columns, print_json, tell_at_once
from dreambooth_resume.cli.wording import count
from dreambooth_resume.config.load import parse_train

if TYPE_CHECKING:  # they import the training's modules
    from dreambooth_resume.workflows.lives import Spawn
    from dreambooth_resume.workflows.verify import Verified

NOT_EXACT_EXIT_CODE = 1
_PROGRESS_SECONDS = 10.0


def run(words: list[str], *, spawn: Spawn | None = None) -> int:
    """Exit code 0 if the verdict is exact, else 1. Raises BadInput, and NotVerified where the training itself fails.

    `spawn` starts the trainings; None: as processes of this program.
    """
    arguments, rest = parser().parse_known_args(words)
    given = parse_train(rest)
    from dreambooth_resume.cli.progress import LineReporter, make_reporter
    from dreambooth_resume.workflows.lives import spawn_process
    from dreambooth_resume.workflows.verify import Order, verify_resume

    # What goes on is told beside the JSON, which is to be read by a program.
    reporter = (
        LineReporter(progress_seconds=_PROGRESS_SECONDS, write=tell_at_once)
        if arguments.json
        else make_reporter(_PROGRESS_SECONDS)
    )
    order = Order(
        given=given,
        kills=arguments.kills,
        deep=arguments.deep,
        steps=arguments.steps,
        folder=arguments.dir,
        seed=secrets.randbelow(2**32) if arguments.kill_seed is None else arguments.kill_seed,
        spawn=spawn or spawn_process,
    )
    try:
        with ended_as_by_ctrl_c():
            verified = verify_resume(order, reporter)
    finally:
        reporter.close()
    if arguments.png is not None:
        from dreambooth_resume.workflows.verify_picture import draw_verified

        arguments.png.write_bytes(draw_verified(verified))
    if arguments.json:
        print_json(verified)
    else:
        _print(verified, arguments.png)
    return 0 if verified.verdict.is_exact else NOT_EXACT_EXIT_CODE


def parser() -> CommandParser:
    """For the command's own options; those of `dbr train` are left over."""
    parser = CommandParser(
        "dbr verify-resume",
        description="Train a short stretch of this run, with these options and on this machine, twice: undisturbed, "
        "and killed by SIGKILL between steps, in a save and in a step, each time started again. Then compare every "
        "byte. Takes the options of dbr train; a run that exists is copied from its newest checkpoint, and its home is "
        "only read. Exit code 0: exact; 1: not exact.",
        fix="dbr verify-resume --config run.yaml, or --output_dir HOME for a run that exists",
    )
    parser.add_argument("--kills", type=_at_least(1), default=3, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--deep", action="store_true", help="kill before each write of a save, too: about 20 starts more"
    )
    parser.add_argument("--steps", type=_at_least(2), metavar="N", help="default: as many as the kills need")
    parser.add_argument(
        "--dir", type=Path, metavar="FOLDER", help="work there, and keep it (default: a temporary folder, removed)"
    )
    parser.add_argument("--kill-seed", type=_at_least(0), metavar="N", help="repeat the kills of an earlier report")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the report as a picture")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a number from {least} on, not {text[:20]}")
        return int(text)

    return number


def _print(verified: Verified, picture: Path | None) -> None:
    found = verified.comparison
    kills = count(verified.kills, "kill")
    stretch = f"steps {verified.base_step + 1} to {verified.until_step}"
    print(f"\n{verified.what}: {stretch}, undisturbed and with {kills}\n")
    lives = [
        (str(number), str(life.began_step), str(life.reached_step), life.ended, str(life.exit_code))
        for number, life in enumerate(verified.lives, start=1)
    ]
    print_columns(lives, head=("start", "from step", "to step", "how it ended", "exit"))
    print()
    files = [
        (file.name, file.first_sha256[:16], file.second_sha256[:16], "same" if file.is_same else "OTHER")
        for file in found.files
    ]
    print_columns(files, head=(f"SHA-256 at step {found.step}", "undisturbed", "killed", ""))
    same = "samples, learning rate, loss and gradient norm are the same bits"
    print(f"{count(found.steps_compared, 'step')} compared: {same if found.difference is None else 'they differ'}.\n")
    for line in _verdict(verified):
        print(line)
    if picture is not None:
        print(f"Picture: {picture}")


def _verdict(verified: Verified) -> list[str]:
    verdict = verified.verdict
    lines = [f"Verdict: {verdict.word}." + (" No kill changed a byte." if verdict.is_exact else "")]
    lines += [f"  {fact}" for fact in verdict.because]
    if verdict.cause is not None:
        lines.append(f"  likely cause: {verdict.cause}")
    if verdict.fix is not None:
        lines.append(f"  what to do: {verdict.fix}")
    if verified.kills < verified.kills_asked:
        lines.append(
            f"  only {verified.kills} of {verified.kills_asked} kills found the training alive: give --steps more"
        )
    lines.append(
        f"{_machine(verified)}; took {verified.seconds:.0f} s; the same kills again: --kill-seed {verified.kill_seed}"
    )
    if verified.folder is not None:
        lines.append(f"Both runs, and what they printed: {verified.folder}")
    return lines


def _machine(verified: Verified) -> str:
    facts = verified.numerics
    threads = f", threads: {facts['torch_threads']}" if "torch_threads" in facts else ""
    return f"torch {facts.get('torch')} on {facts.get('device')} ({facts.get('device_name')}{threads})"
