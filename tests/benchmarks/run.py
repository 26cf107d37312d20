"""`make bench`: speed against the plain Diffusers loop, start-up in its parts, cost of a checkpoint.

Prints a Markdown table. Ends with 1 if dbr's step is less than 1.25 times as fast, or any loss differs by over 1e-5.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

WANTED_RATIO = 1.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12, help="blocks of 10 steps of each loop (default 12)")
    parser.add_argument("--starts", type=int, default=3, help="starts of each kind (default 3)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="torch's threads (default 1: with more, a core that something else uses stops all of them)",
    )
    given = parser.parse_args()
    # Read when torch is imported, here and in the processes that are started.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(prefix="dbr-bench-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        return _bench(Path(folder), given)


def _bench(folder: Path, given: argparse.Namespace) -> int:
    from dreambooth_resume.models.quiet import quiet_loading

    busy = _load()
    with quiet_loading():
        import bench_model
        import bench_start
        from bench_steps import TOLERANCE, measure_saves, measure_steps
        from plain_loop import PlainLoop

        _say("building the small model")
        bench_model.build(folder)
        _say(f"training {given.pairs} pairs of blocks")
        plain = PlainLoop(folder / "model", steps=10_000)
        steps = measure_steps(folder, plain, pairs=given.pairs)
        saves = measure_saves(folder, plain, pairs=15)
    _say(f"starting {given.starts} times 2 processes")
    first, second = bench_start.measure_starts(folder, repeats=given.starts)
    home = folder / "home"
    again = bench_model.train_words(folder, home, steps=1, checkpointing_steps=10)
    finished = bench_start.measure_command(["train", *again], repeats=given.starts)
    overview = bench_start.measure_command(["--help"], repeats=given.starts)
    samples = bench_model.BATCH_SIZE
    rows = [
        ("measured", "dbr", "Diffusers' recipe", "ratio"),
        ("---", "---:", "---:", "---:"),
        ("samples/s", f"{samples / steps.dbr_seconds:.1f}", f"{samples / steps.plain_seconds:.1f}", _x(steps.ratio)),
        ("seconds a step", f"{steps.dbr_seconds:.3f}", f"{steps.plain_seconds:.3f}", _x(steps.ratio)),
        (
            f"checkpoint of {saves.state_bytes / 1e6:.1f} MB, ms of the training thread",
            f"{saves.snapshot_seconds * 1e3:.1f}",
            f"{saves.save_state_seconds * 1e3:.1f}",
            _x(saves.ratio),
        ),
    ]
    starts = [
        ("seconds from process start to first step", "first start", "after a kill"),
        ("---", "---:", "---:"),
        *((part, f"{first[part]:.2f}", f"{second[part]:.2f}") for part in bench_start.PARTS),
    ]
    commands = [
        ("seconds from start to end", "dbr"),
        ("---", "---:"),
        ("`dbr train` on a finished run", f"{finished:.2f}"),
        ("`dbr --help`", f"{overview:.2f}"),
    ]
    parameters = bench_model.unet_parameters(folder)
    print(
        f"\nUNet of {parameters / 1e6:.1f} M parameters, {bench_model.RESOLUTION} px, batch {samples}, rank "
        f"{bench_model.RANK}, {given.threads} thread{'s' if given.threads > 1 else ''}; "
        f"load of the machine {busy} before, {_load()} after.\n"
    )
    print("\n\n".join(_table(one) for one in (rows, starts, commands)))
    low, high = min(steps.ratios), max(steps.ratios)
    print(
        f"\nLosses of {steps.compared_steps} steps differ by at most {steps.largest_difference:.1e}. "
        f"The ratio of samples/s is the median of {len(steps.ratios)} pairs of blocks ({low:.2f} to {high:.2f})."
    )
    if steps.largest_difference > TOLERANCE:
        return _fail(f"the losses differ by more than {TOLERANCE:g}: the two loops don't train the same")
    if steps.ratio < WANTED_RATIO:
        return _fail(f"{_x(steps.ratio)} is less than {_x(WANTED_RATIO)}")
    return 0


def _x(ratio: float) -> str:
    return f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _say(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


def _fail(text: str) -> int:
    print(f"bench: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
