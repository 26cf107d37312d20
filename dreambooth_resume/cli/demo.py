"""`dbr demo`: trains a tiny model, kills it three times, compares the bytes."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.output import print_columns
from dreambooth_resume.cli.progress import make_reporter
from dreambooth_resume.cli.wording import UNKNOWN

DEFAULT_FOLDER = Path("runs/demo")
_PROGRESS_SECONDS = 10.0


def run(words: list[str]) -> int:
    """Exit code 0, or 1 if the bytes differ. Raises BadInput for a folder that isn't the demo's, DemoFailed."""
    parser = CommandParser(
        "dbr demo",
        description="Build a tiny random SDXL and eight pictures, train once in peace and once while being killed "
        "three times, and compare the bytes. About a minute on two cores; no network.",
        fix="dbr demo, or dbr demo --dir FOLDER",
    )
    parser.add_argument("--dir", type=Path, default=DEFAULT_FOLDER, metavar="FOLDER", help="default: %(default)s")
    arguments = parser.parse_words(words)
    from dreambooth_resume.workflows.demo import run_demo

    reporter = make_reporter(_PROGRESS_SECONDS)
    try:
        result = run_demo(arguments.dir, reporter, rng=random.Random())
    finally:
        reporter.close()
    rows = []
    for index, life in enumerate(result.lives):
        again = str(result.redone_steps(index)) if index + 1 < len(result.lives) else UNKNOWN
        ended = life.sent.name if life.sent else "finished"
        rows.append((str(index + 1), str(life.began_step), str(life.reached_step), ended, str(life.exit_code), again))
    print()
    print_columns(rows, head=("attempt", "from step", "to step", "ended by", "exit", "trained again"))
    print("\nSHA-256 of pytorch_lora_weights.safetensors")
    print(f"  undisturbed       {result.lora.undisturbed_sha256}")
    print(f"  killed 3 times    {result.lora.killed_sha256}")
    if not result.is_exact:
        different = [file.name for file in (result.lora, *result.others) if not file.is_same]
        print(f"\nTHE BYTES DIFFER: {', '.join(different)}.")
        print(
            "A resume is not exact on this machine. Please report it, with what `dbr --version` prints and this folder:"
        )
        print(f"  {result.folder}")
        return 1
    print("The same bytes; so are the last checkpoint's optimizer moments.\n")
    home = result.weights.parent
    print_columns(
        [
            ("LoRA", str(result.weights)),
            ("loss curve", str(result.chart)),
            ("took", f"{result.seconds:.0f} s"),
            ("next", f"{_program()} status {home}"),
            ("", _interrupt_it_yourself(arguments.dir)),
        ]
    )
    return 0


def _interrupt_it_yourself(folder: Path) -> str:
    """A longer run of the same, to press Ctrl-C in."""
    is_shipped = folder == DEFAULT_FOLDER and Path("configs/demo.yaml").is_file()
    which = "--config configs/demo.yaml" if is_shipped else f"--output_dir {folder / 'home'}"
    return f"{_program()} train {which} --max_train_steps 400 --resume latest   (press Ctrl-C, then type it again)"


def _program() -> str:
    """How to type `dbr` here: after `make demo` it isn't on the PATH."""
    if shutil.which("dbr") is not None:
        return "dbr"
    own = Path(sys.argv[0])
    return os.path.relpath(own) if own.name == "dbr" else f"{sys.executable} -m dreambooth_resume"
