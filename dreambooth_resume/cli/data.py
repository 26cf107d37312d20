"""`dbr data check`: looks through the pictures before a run is begun; `dbr data caption`: describes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.output import files_shown, print_json
from dreambooth_resume.cli.wording import count, size
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.data.captions import CaptionChoice
from dreambooth_resume.data.dataset import find_files
from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows.contact_sheet import write_contact_sheet
from dreambooth_resume.workflows.data_caption import caption_pictures
from dreambooth_resume.workflows.data_check import DataCheck, check_data, uncommon_word
from dreambooth_resume.workflows.first_start import decided

_EXAMPLES = "dbr data check pictures, or dbr data check --config run.yaml"
_CAPTION_EXAMPLE = "dbr data caption pictures --model Salesforce/blip-image-captioning-large --prefix 'sks dog, '"
_NAMED_AT_MOST = 8
_NO_PROMPT = "-"
_NO_MODEL = "none"


def run(words: list[str]) -> int:
    """Exit code of the action. Raises BadInput for a word that is none."""
    if words and words[0] in _ACTIONS:
        return _ACTIONS[words[0]](words[1:])
    parser = CommandParser(
        "dbr data",
        description="check: look through the pictures of a folder or a run file, for what is better known before a "
        "run is begun. caption: write a caption beside each picture that has none. `dbr data check --help` and "
        "`dbr data caption --help` have their options.",
        fix=_EXAMPLES,
    )
    parser.add_argument("action", choices=list(_ACTIONS), metavar="|".join(_ACTIONS))
    parser.parse_words(words)
    return 0


def _check(words: list[str]) -> int:
    """0, or 2 if `dbr train` would refuse the pictures."""
    parser = CommandParser(
        "dbr data check",
        description="Look at every picture of DIR, or of a run file: which can't be read, how large they are and what "
        "they are cut to, which are there twice or nearly so, and which captions are blank or lack the trigger word. "
        "Nothing is changed.",
        fix=_EXAMPLES,
    )
    parser.add_argument("folder", metavar="DIR", nargs="?", help="a folder of pictures; or --config")
    parser.add_argument("--config", metavar="FILE", help="a run file, whose pictures and options are taken")
    parser.add_argument("--instance-prompt", metavar="TEXT", help="the run's prompt: its rare word is the trigger word")
    parser.add_argument("--trigger-word", metavar="WORD", help="what each caption should have in it")
    parser.add_argument("--resolution", metavar="INT", help="of the run (1024)")
    parser.add_argument("--contact-sheet", metavar="FILE.png", type=Path, help="write all pictures on one page")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    arguments = parser.parse_words(words)
    if (arguments.folder is None) == (arguments.config is None):
        raise BadInput("needs a folder or a run file", where="dbr data check", fix=_EXAMPLES)
    options = decided(resolve(parse_train(_words(arguments)), recorded=None))
    prompt = options.data.instance_prompt
    trigger = arguments.trigger_word or (uncommon_word(prompt) if prompt != _NO_PROMPT else None)
    with files_shown("looking") as on_picture:
        found = check_data(options, trigger_word=trigger, on_picture=on_picture)
    if arguments.contact_sheet is not None:
        shown = write_contact_sheet(found, arguments.contact_sheet)
    if arguments.json:
        print_json(replace(found, files={}))
    else:
        print("\n".join(_told(found)))
        if arguments.contact_sheet is not None:
            print(f"Wrote {arguments.contact_sheet} with {count(shown, 'picture')}.")
    return BadInput.exit_code if found.unreadable else 0


def _caption(words: list[str]) -> int:
    """0, or 2 if a picture can't be read."""
    parser = CommandParser(
        "dbr data caption",
        description="Write NAME.txt with a caption beside each picture of DIR that has none, by an image-to-text model "
        "of the kind of BLIP, or one that is asked in words (LLaVA, Qwen-VL, SmolVLM). What is there is never "
        "overwritten without --overwrite, so the command can be stopped and started again. Read the captions before "
        "you train on them. Not run on a GPU, or with a model from the Hub, so far.",
        fix=_CAPTION_EXAMPLE,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="a folder of pictures")
    parser.add_argument("--model", required=True, metavar="NAME", help="a folder, or an id on the Hub")
    parser.add_argument("--revision", metavar="REVISION", help="of the model on the Hub")
    parser.add_argument("--cache-dir", metavar="DIR", help="where what is downloaded is kept")
    parser.add_argument(
        "--question", metavar="TEXT", help="what a model that one talks to is asked; left out: for one short sentence"
    )
    parser.add_argument("--prefix", metavar="TEXT", default="", help='in front of each caption: "sks dog, "')
    parser.add_argument("--overwrite", action="store_true", help="write captions that are there anew")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    arguments = parser.parse_words(words)
    find_files(arguments.folder, CaptionChoice())  # what is wrong with the folder is said before a model loads
    from dreambooth_resume.models.captioner import Captioner

    captioner = Captioner(
        arguments.model, revision=arguments.revision, cache_dir=arguments.cache_dir, question=arguments.question
    )
    with files_shown("captioning") as on_picture:
        done = caption_pictures(
            arguments.folder,
            captioner,
            prefix=arguments.prefix,
            overwrite=arguments.overwrite,
            on_picture=on_picture,
        )
    if arguments.json:
        print_json(done)
    else:
        print(f"Wrote {count(len(done.written), 'caption')}; {count(len(done.kept), 'picture')} had one.")
        print("".join(f"can't be read: {name} {reason}\n" for name, reason in done.unreadable), end="")
    return BadInput.exit_code if done.unreadable else 0


_ACTIONS: dict[str, Callable[[list[str]], int]] = {"check": _check, "caption": _caption}


def _words(arguments: argparse.Namespace) -> list[str]:
    """The pictures' part of a `dbr train` command line."""
    words = ["--config", arguments.config] if arguments.config else ["--instance_data_dir", arguments.folder]
    prompt = arguments.instance_prompt or (None if arguments.config else _NO_PROMPT)
    words += ["--instance_prompt", prompt] if prompt else []
    words += ["--resolution", arguments.resolution] if arguments.resolution else []
    return words if arguments.config else [*words, "--pretrained_model_name_or_path", _NO_MODEL]


def _told(found: DataCheck) -> list[str]:
    sides = [(one.width, one.height) for one in found.pictures]
    smallest, largest = min(sides, key=lambda one: one[0] * one[1]), max(sides, key=lambda one: one[0] * one[1])
    captions = len(found.pictures) - len(found.without_caption)
    again = f", {found.samples_in_a_pass} samples in a pass" if found.samples_in_a_pass != len(found.pictures) else ""
    lines = [
        f"{count(len(found.pictures), 'picture')} in {found.source}, {size(found.size_bytes)}{again}",
        f"from {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} pixels; at resolution {found.resolution} "
        f"in {found.shapes}, width x height",
        f"{count(captions, 'caption')}; {len(found.without_caption)} without, which have instance_prompt",
    ]
    findings = [
        *(f"can't be read: {name} {reason}" for name, reason in found.unreadable),
        *_listed("smaller than what they are cut to, so they are enlarged", found.enlarged),
        *_listed("animated, the first frame is taken", found.animated),
        *(f"the same file: {', '.join(group)}" for group in found.copies),
        *(f"look nearly the same: {', '.join(group)}" for group in found.alike),
        *_listed("a caption file with nothing in it", found.blank_captions),
        *_listed(f'captions without the trigger word "{found.trigger_word}"', found.without_trigger),
    ]
    if not findings:
        return [*lines, "Nothing odd was found."]
    return [*lines, "", *(f"- {finding}" for finding in findings)]


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return [f"{what} ({len(names)}): {', '.join(names[:_NAMED_AT_MOST])}{more}"]
