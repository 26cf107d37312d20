"""`dbr generate HOME --prompt "a photo of sks dog" --out DIR`: pictures with a checkpoint, beside the base model's."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser, guidance, whole, whole_or_zero
from dreambooth_resume.cli.homes import add_home, checkpoint_meant, open_run, s3_settings
from dreambooth_resume.cli.output import print_json, tell_at_once
from dreambooth_resume.cli.wording import count
from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.workflows.generate import GRID_NAME, BaseAt, Wanted, generate

_MOST_PICTURES = 500


def run(words: list[str]) -> int:
    """Exit code 0. Raises BadInput, CheckpointDamaged, and RefusedToGoOn for another base model than the run's."""
    arguments = _parser().parse_words(words)
    wanted = _wanted(arguments)
    storage, _ = open_run(arguments)
    log = read_log(storage)
    where = storage.describe()
    steps = [] if arguments.without_lora else arguments.step or [None]
    refs = list({ref.number: ref for ref in (checkpoint_meant(log, step, where=where) for step in steps)}.values())
    rows = len(refs) + (wanted.beside_base or not refs)
    if rows * len(wanted.prompts) * wanted.num_images > _MOST_PICTURES:
        raise BadInput(f"more than {_MOST_PICTURES} pictures", where="--num-images", fix="ask for fewer at once")
    folder = Path(arguments.out).expanduser()
    base = BaseAt(model=arguments.pretrained_model_name_or_path, s3=s3_settings(arguments))
    made = generate(storage, log, refs, wanted, folder, base=base, tell=tell_at_once)
    if arguments.json:
        print_json([{"file": str(one.file), "checkpoint": one.checkpoint, **one.facts} for one in made])
        return 0
    print(f"{count(len(made), 'picture')} in {folder}; side by side: {folder / GRID_NAME}")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "dbr generate",
        description="Make pictures with a checkpoint of a run, verified against the log, and with the base model from "
        "the same noise. Loads the base model; not run on a GPU so far.",
        fix='dbr generate HOME --prompt "a photo of sks dog" --out pictures',
    )
    add_home(parser)
    parser.add_argument("--prompt", metavar="TEXT", action="append", required=True, help="once for each prompt")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new folder for the pictures and their grid")
    parser.add_argument(
        "--step",
        metavar="STEP",
        action="append",
        help="a step, a checkpoint's name, latest or final; once for each; left out: the newest, or the result",
    )
    parser.add_argument("--negative-prompt", metavar="TEXT", default="")
    parser.add_argument("--num-images", metavar="N", type=whole, default=1, help="of each prompt; left out: 1")
    parser.add_argument("--seed", metavar="N", type=whole_or_zero, help="left out: the run's, as its own pictures have")
    parser.add_argument("--steps", metavar="N", type=whole, default=50, help="denoising steps; left out: 50")
    parser.add_argument("--guidance-scale", metavar="X", type=guidance, default=5.0, help="left out: 5")
    parser.add_argument("--height", metavar="N", type=whole, help="in pixels; left out: the run's resolution")
    parser.add_argument("--width", metavar="N", type=whole, help="in pixels; left out: the run's resolution")
    parser.add_argument(
        "--beside-base",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the base model's pictures, too (the default)",
    )
    parser.add_argument("--without-lora", action="store_true", help="the base model's pictures alone")
    parser.add_argument(
        "--pretrained-model-name-or-path",
        metavar="MODEL",
        help="where the base model is on this machine, if the run had it from elsewhere",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _wanted(arguments: argparse.Namespace) -> Wanted:
    if arguments.without_lora and arguments.step:
        raise BadInput("the base model has no steps", where="--step", fix="leave out --without-lora or --step")
    if not all(prompt.strip() for prompt in arguments.prompt):
        raise BadInput("is empty", where="--prompt", fix='--prompt "a photo of sks dog"')
    return Wanted(
        prompts=tuple(dict.fromkeys(arguments.prompt)),
        negative_prompt=arguments.negative_prompt,
        num_images=arguments.num_images,
        seed=arguments.seed,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        height=arguments.height,
        width=arguments.width,
        beside_base=arguments.beside_base,
    )
