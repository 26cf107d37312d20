"""`dbr eval HOME`: how well each checkpoint hits the subject and the prompt; here, or as a job of a launcher."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

from dreambooth_resume.cli.arguments import CommandParser, guidance, whole, whole_or_zero
from dreambooth_resume.cli.homes import add_home, open_run, s3_settings
from dreambooth_resume.cli.output import print_columns, print_json, tell_at_once
from dreambooth_resume.cli.written import write_page
from dreambooth_resume.errors import BadInput
from dreambooth_resume.insight.evaluation import (
    METRICS,
    PROMPTS,
    Evaluation,
    Metric,
    facts_of,
    read_evaluations,
    rows_of,
)
from dreambooth_resume.launch.launchers import split_words
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.checkpoints import find_checkpoint, list_checkpoints
from dreambooth_resume.runs.curves import read_curve
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.record import RunRecord, read_record
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.home import S3_OPTIONS

COMPUTING = (
    "steps", "metrics", "prompts", "subject", "class_words", "num_images", "seed", "inference_steps", "guidance_scale",
    "dino_model", "clip_model", "instance_data_dir", "pretrained_model_name_or_path",
)  # fmt: skip
"""The options that a job takes along: all but those that say where the home is, and what is shown."""
_MOST_PROMPTS = 200
_DINO, _CLIP = "facebook/dino-vits16", "openai/clip-vit-base-patch32"


def run(words: list[str]) -> int:
    """Exit code 0. Raises BadInput, CheckpointDamaged, Interrupted (75) after a signal: the same command goes on."""
    where, own, rest = _launchers_own(words)
    parser = _parser()
    arguments = parser.parse_words(rest)
    metrics = _metrics(arguments.metrics)
    if where is not None:
        return _launch(where, own, arguments, parser)
    if arguments.dry_run:
        raise BadInput("shows what a launcher would be sent", where="--dry-run", fix="--on local --dry-run")
    storage, _ = open_run(arguments)
    log = read_log(storage)
    key: str | None = None
    if not arguments.show and set(metrics) != {"loss"}:
        key = _evaluate(storage, log, metrics, arguments)
    curve = read_curve(storage, log=log)
    found = [one for one in read_evaluations(storage, curve.points) if key in (None, one.key)]
    if arguments.html:
        _write(Path(arguments.html), storage, found)
    if arguments.json:
        print_json([facts_of(one) for one in found])
        return 0
    losses = {point.step: point.val_loss for point in curve.points if point.val_loss is not None}
    for evaluation in found:
        _print(evaluation)
    if not found:
        print("Nothing is evaluated yet." if not losses else "Nothing but the loss on held-out pictures is known.")
        print_columns([(f"{step:,}", f"{loss:.4f}") for step, loss in sorted(losses.items())] or [("", "")])
    return 0


def _evaluate(storage: Storage, log: Log, metrics: tuple[Metric, ...], arguments: argparse.Namespace) -> str:
    """Score what has no score yet; the evaluation's key."""
    from dreambooth_resume.preemption.signals import SignalSource
    from dreambooth_resume.preemption.watcher import Watcher
    from dreambooth_resume.workflows.evaluate import Asked, class_words_of, evaluate
    from dreambooth_resume.workflows.generate import BaseAt

    refs = _checkpoints(log, arguments.steps)
    record = read_record(storage)
    assert record is not None, "a run with a log has a record"
    subject = _subject(record, arguments)
    signals = SignalSource()
    signals.install()
    asked = Asked(
        metrics=metrics,
        templates=_templates(arguments.prompts),
        subject=subject,
        class_words=arguments.class_words or class_words_of(subject),
        num_images=arguments.num_images,
        seed=arguments.seed,
        num_inference_steps=arguments.inference_steps,
        guidance_scale=arguments.guidance_scale,
        dino=arguments.dino_model,
        clip=arguments.clip_model,
        pictures=Path(arguments.instance_data_dir).expanduser() if arguments.instance_data_dir else None,
        base=BaseAt(model=arguments.pretrained_model_name_or_path, s3=s3_settings(arguments)),
    )
    stop = Watcher([signals]).should_stop
    return evaluate(storage, log, record, refs, asked, should_stop=stop, tell=tell_at_once).key


def _subject(record: RunRecord, arguments: argparse.Namespace) -> str:
    from dreambooth_resume.workflows.evaluate import subject_of

    subject = str(arguments.subject or subject_of(str(record.options.get("instance_prompt") or "")))
    if not subject.strip():
        raise BadInput("it isn't known what the subject is called", where="--subject", fix='--subject "sks dog"')
    return subject


def _launchers_own(words: list[str]) -> tuple[str | None, dict[str, object], list[str]]:
    """The launcher of `--on`, its own options among the words, and the words that are left."""
    rest = list(words)
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag != "--on":
            continue
        if not equals and place + 1 == len(words):
            raise BadInput("needs a value", where="--on", fix="--on local, or another launcher: dbr launch --help")
        where = value if equals else words[place + 1]
        del rest[place : place + (1 if equals else 2)]
        own, rest = split_words(where, rest)
        return where, own, rest
    return None, {}, rest


def _launch(where: str, own: dict[str, object], arguments: argparse.Namespace, parser: CommandParser) -> int:
    """Start it as a job of its own; what it would refuse there is refused here, where its user still looks."""
    from dreambooth_resume.cli.launch import launch
    from dreambooth_resume.workflows.launch import plan
    from dreambooth_resume.workflows.launch_evaluation import prepare_evaluation
    from dreambooth_resume.workflows.typed import home_words

    if (shown := next((name for name in ("show", "html", "json") if getattr(arguments, name)), None)) is not None:
        raise BadInput(
            "shows what is in the home, and a job has nobody to show it to",
            where=f"--{shown}",
            fix="leave it out; later, without --on: dbr eval HOME --show",
        )
    if _metrics(arguments.metrics) == ("loss",):
        raise BadInput("is computed by the training alone", where="--metrics loss", fix="dbr eval HOME --show")
    storage, _ = open_run(arguments)
    record = read_record(storage)
    assert record is not None, "a run with a log has a record"
    _checkpoints(read_log(storage), arguments.steps)
    _templates(arguments.prompts)
    _subject(record, arguments)
    prepared = prepare_evaluation(
        where,
        {name: str(value) for name, value in _given(arguments, parser).items()},
        (*home_words(arguments.home), *_s3_words(arguments)),
        settings=own,
        tell=tell_at_once,
    )
    if arguments.dry_run:
        print(plan(prepared))
    else:
        launch(prepared)
    return 0


def _given(arguments: argparse.Namespace, parser: CommandParser) -> dict[str, object]:
    """What was typed of the options that decide what is computed."""
    found = {name: getattr(arguments, name) for name in COMPUTING}
    return {name: value for name, value in found.items() if value != parser.get_default(name)}


def _s3_words(arguments: argparse.Namespace) -> list[str]:
    """As `dbr train` takes them."""
    typed = {name: getattr(arguments, name) for name in S3_OPTIONS}
    return [f"--{name}={str(value).lower() if value is True else value}" for name, value in typed.items() if value]


def _parser() -> CommandParser:
    parser = CommandParser(
        "dbr eval",
        description="Make pictures with each checkpoint from fixed prompts and seeds, and compare them with the real "
        "ones (dino, clip-i) and with their prompts (clip-t), as in the DreamBooth paper. Interrupted, the same "
        "command goes on with the next picture. Not run on a GPU or with models from the Hub so far.",
        fix="dbr eval HOME --steps all",
    )
    add_home(parser)
    parser.add_argument("--steps", metavar="STEPS", default="all", help="all (the default), or such as 300,500")
    parser.add_argument("--metrics", metavar="LIST", default=",".join(METRICS), help=f"of {', '.join(METRICS)}")
    parser.add_argument(
        "--prompts",
        metavar="SET",
        default="short",
        help="short (4), objects or live (the paper's 25), or a text file: a prompt a line, {} for the subject",
    )
    parser.add_argument("--subject", metavar="TEXT", help="such as `sks dog`; left out: from the run's prompt")
    parser.add_argument("--class-words", metavar="TEXT", help="what clip-t reads in its place; left out: without sks")
    parser.add_argument("--num-images", metavar="N", type=whole, default=2, help="of each prompt")
    parser.add_argument("--seed", metavar="N", type=whole_or_zero, default=0, help="left out: 0")
    parser.add_argument("--inference-steps", metavar="N", type=whole, default=50)
    parser.add_argument("--guidance-scale", metavar="X", type=guidance, default=5.0)
    parser.add_argument("--dino-model", metavar="MODEL", default=_DINO, help=f"a folder or Hub id; {_DINO}")
    parser.add_argument("--clip-model", metavar="MODEL", default=_CLIP, help=f"a folder or Hub id; {_CLIP}")
    parser.add_argument("--instance-data-dir", metavar="DIR", help="real pictures; left out: the home's copies")
    parser.add_argument("--pretrained-model-name-or-path", metavar="MODEL", help="the base model, if it lies elsewhere")
    parser.add_argument(
        "--on", metavar="WHERE", help="as a job of a launcher, with its options: local, slurm, skypilot or kubernetes"
    )
    parser.add_argument("--dry-run", action="store_true", help="with --on: print what would be sent, and make nothing")
    parser.add_argument("--show", action="store_true", help="compute nothing: what is in the home already")
    parser.add_argument("--html", metavar="FILE", help="write a page with the scores over steps as a chart")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _metrics(text: str) -> tuple[Metric, ...]:
    named = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in named if word not in METRICS]
    if unknown or not named:
        raise BadInput(
            f"{unknown[0]} is none" if unknown else "names none",
            where="--metrics",
            fix=f"name some of {','.join(METRICS)}",
        )
    return cast("tuple[Metric, ...]", tuple(metric for metric in METRICS if metric in named))


def _templates(name: str) -> tuple[str, ...]:
    if name in PROMPTS:
        return PROMPTS[name]
    where = f"--prompts {name}"
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise BadInput(
            "is no file that can be read", where=where, fix=f"{', '.join(PROMPTS)}, or a file with a prompt a line"
        ) from None
    found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not 0 < len(found) <= _MOST_PROMPTS:
        raise BadInput(f"holds {len(found)} prompts", where=where, fix=f"1 to {_MOST_PROMPTS} lines")
    return found


def _checkpoints(log: Log, steps: str) -> list[CheckpointRef]:
    """In the order of their steps. Raises BadInput for one that isn't there, and for a run without any."""
    if steps.strip() == "all":
        found = [ref_of(log, info.number) for info in list_checkpoints(log) if info.state == "live"]
    else:
        names = [word.strip() for word in steps.split(",") if word.strip()]
        found = [find_checkpoint(log, name, where=f"--steps {name}") for name in names]
    if not found:
        raise BadInput("the run has no checkpoint yet", where="--steps", fix="dbr status HOME shows how far it is")
    return sorted({ref.number: ref for ref in found}.values(), key=lambda ref: (ref.step, ref.number))


def _print(evaluation: Evaluation) -> None:
    recipe = evaluation.recipe
    print(f"evaluation {evaluation.key}: {recipe.pictures_made} pictures of {len(recipe.prompts)} prompts a checkpoint")
    print_columns(rows_of(evaluation), head=("step", *METRICS, ""))
    if (best := evaluation.best) is not None:
        print(f"\nThe best is {best.folder}.")
    if (warning := evaluation.over_fitting) is not None:
        print(f"{warning[0].upper()}{warning[1:]}.")
    print()


def _write(path: Path, storage: Storage, found: list[Evaluation]) -> None:
    from dreambooth_resume.insight.evaluation_chart import evaluation_sections
    from dreambooth_resume.insight.page import page

    write_page(path, page(storage.describe(), evaluation_sections(found)), where="--html")
