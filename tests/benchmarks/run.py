"""`make bench`: speed against the plain Diffusers loop, start-up in its parts, and what saving costs.

Prints Markdown tables, the last with the limits. Ends with 1 if one was missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from report import Report

WANTED_RATIO = 1.25
PARTS = ("steps", "starts", "stop", "saving", "notice", "memory", "page")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)} (default: all)")
    parser.add_argument("--pairs", type=int, default=10, help="blocks of 10 steps of each loop (default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="starts of each kind (default 3)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="torch's threads (default 1: with more, a core that something else uses stops all of them)",
    )
    given = parser.parse_args()
    chosen = given.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    # Read when torch is imported, here and in the processes that are started.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(prefix="dbr-bench-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        return _bench(Path(folder), chosen, given)


def _bench(folder: Path, chosen: list[str], given: argparse.Namespace) -> int:
    from dreambooth_resume.models.quiet import quiet_loading

    busy = _load()
    report = Report()
    with quiet_loading():
        import bench_model

        _say("building the small model")
        bench_model.build(folder)
        for part in PARTS:
            if part in chosen:
                _MEASURES[part](folder, given, report)
    print(
        f"\nUNet of {bench_model.unet_parameters(folder) / 1e6:.1f} M parameters, {bench_model.RESOLUTION} px, batch "
        f"{bench_model.BATCH_SIZE}, rank {bench_model.RANK}, torch threads: {given.threads}; load of the machine "
        f"{busy} before, {_load()} after.\n\n{report.text()}"
    )
    for missed in report.missed:
        print(f"bench: {missed}", file=sys.stderr)
    return 1 if report.missed else 0


def _steps(folder: Path, given: argparse.Namespace, report: Report) -> None:
    from bench_model import BATCH_SIZE
    from bench_steps import TOLERANCE, measure_steps
    from plain_loop import PlainLoop

    _say(f"training {given.pairs} pairs of blocks")
    found = measure_steps(folder, PlainLoop(folder / "model", steps=10_000), pairs=given.pairs)
    rate, plain_rate = BATCH_SIZE / found.dbr_seconds, BATCH_SIZE / found.plain_seconds
    report.table(
        ("measured", "dbr", "Diffusers' recipe"),
        ("samples/s", f"{rate:.1f}", f"{plain_rate:.1f}"),
        ("seconds a step", f"{found.dbr_seconds:.3f}", f"{found.plain_seconds:.3f}"),
    )
    speed, shown = "samples/s, times those of the recipe", f"{WANTED_RATIO}"
    report.limited(
        speed, _with_range(found.ratio, found.ratios), value=found.ratio, limit=WANTED_RATIO, shown=shown, at_least=True
    )
    difference = found.largest_difference
    what = f"difference of the losses of {found.compared_steps} steps"
    report.limited(what, f"{difference:.1e}", value=difference, limit=TOLERANCE, shown=f"{TOLERANCE:g}")


def _starts(folder: Path, given: argparse.Namespace, report: Report) -> None:
    import bench_start
    from bench_model import train_words
    from distant_s3 import DistantS3

    _say(f"starting {given.repeats} times 4 processes")
    first, second = bench_start.measure_starts(folder, repeats=given.repeats)
    with DistantS3() as service:
        far, far_again = bench_start.measure_starts_in_a_bucket(folder, service, repeats=1)
    columns = (first, second, far, far_again)
    report.table(
        ("seconds from process start to first step", "first start", "after a kill", "in a bucket", "new machine"),
        *((part, *(f"{column[part]:.2f}" for column in columns)) for part in bench_start.PARTS),
    )
    home = folder / "finished"
    words = ["train", *train_words(folder, home, steps=1, checkpointing_steps=10)]
    bench_start.measure_command(words, repeats=1)
    finished = bench_start.measure_command(words, repeats=given.repeats)
    overview = bench_start.measure_command(["--help"], repeats=given.repeats)
    report.table(
        ("seconds from start to end", "dbr"),
        ("`dbr train` on a finished run", f"{finished:.2f}"),
        ("`dbr --help`", f"{overview:.2f}"),
    )


def _stop(folder: Path, _given: argparse.Namespace, report: Report) -> None:
    from bench_stop import WANTED_SHARE, measure_stop

    _say("saving a state of SDXL's size here")
    found = measure_stop(folder, pairs=15)
    report.table(
        (f"training stands still for a save of {found.state_bytes / 2**20:.0f} MiB, milliseconds", "dbr", "save_state"),
        ("median", f"{found.stop_seconds * 1e3:.1f}", f"{found.save_state_seconds * 1e3:.1f}"),
        ("longest", f"{found.longest_stop_seconds * 1e3:.1f}", ""),
        ("a step without a save", f"{found.step_seconds * 1e3:.0f}", ""),
        ("a step with one beside it", f"{found.saving_step_seconds * 1e3:.0f}", ""),
    )
    what = "dbr's stop, as a share of save_state's"
    report.limited(what, f"{found.share:.1%}", value=found.share, limit=WANTED_SHARE, shown=f"{WANTED_SHARE:.0%}")


def _saving(folder: Path, _given: argparse.Namespace, report: Report) -> None:
    from bench_saving import WANTED_LOCAL, WANTED_S3, measure_saving
    from distant_s3 import ROUND_TRIP_SECONDS, DistantS3

    _say("training 200 steps that save, on a folder")
    local = measure_saving(folder, str(folder / "saved"))
    _say("training 200 steps that save, in a bucket")
    with DistantS3() as service:
        far = measure_saving(folder, service.new_home(), endpoint_url=service.url)
    both = (local, far)
    far_away = f"bucket, {ROUND_TRIP_SECONDS * 1e3:.0f} ms away"
    report.table(
        ("a save after every step", "folder", far_away),
        ("seconds a step, saving", *(f"{one.saving_seconds:.3f}" for one in both)),
        ("seconds a step, never saving", *(f"{one.calm_seconds:.3f}" for one in both)),
        (f"commits, of {local.steps} saves", *(str(one.commits) for one in both)),
        ("seconds from commit to commit", *(f"{one.upload_seconds:.2f}" for one in both)),
        ("oldest that the durable step got, steps", *(str(one.age_steps) for one in both)),
        ("oldest that the durable step got, seconds", *(f"{one.age_seconds:.2f}" for one in both)),
    )
    for where, one, limit in (("a folder", local, WANTED_LOCAL), ("a bucket", far, WANTED_S3)):
        what = f"wall time of saving every step to {where}, times never saving"
        report.limited(what, _with_range(one.ratio, one.ratios), value=one.ratio, limit=limit, shown=f"{limit:.2f}")


def _notice(folder: Path, _given: argparse.Namespace, report: Report) -> None:
    from bench_notice import WANTED_RATIO as WANTED
    from bench_notice import measure_notice

    _say("saving a state of SDXL's size in a bucket")
    found = measure_notice(folder, repeats=5)
    report.table(
        (f"seconds for the {found.sent_bytes / 2**20:.0f} MiB of a state of {found.state_bytes / 2**20:.0f} MiB", ""),
        ("notice to committed", f"{found.notice_seconds:.2f}"),
        ("one plain `upload_file`", f"{found.upload_seconds:.2f}"),
    )
    what, shown = "notice to committed, times one upload", f"{WANTED:.2f}"
    report.limited(what, _with_range(found.ratio, found.ratios), value=found.ratio, limit=WANTED, shown=shown)


def _memory(_folder: Path, _given: argparse.Namespace, report: Report) -> None:
    from bench_memory import WANTED_BUFFERS_BYTES, WANTED_COPIES, measure_memory

    _say("measuring memory")
    found = measure_memory()
    report.limited(
        "copies of the state that saving takes, at most",
        f"{found.copies:.2f}",
        value=found.copies,
        limit=WANTED_COPIES,
        shown=f"{WANTED_COPIES:.2f}",
    )
    report.limited(
        "what it takes beside two copies, whatever the state's size",
        f"{found.buffers_bytes / 1e6:.0f} MB",
        value=found.buffers_bytes,
        limit=WANTED_BUFFERS_BYTES,
        shown=f"{WANTED_BUFFERS_BYTES / 1e6:.0f} MB",
    )


def _page(_folder: Path, _given: argparse.Namespace, report: Report) -> None:
    from bench_page import (
        REFRESHES,
        RUNS,
        STEPS,
        WANTED_CURVE_SECONDS,
        WANTED_FIRST_SECONDS,
        WANTED_GROWTH_BYTES,
        WANTED_REFRESH_SECONDS,
        measure_page,
    )

    _say("measuring the web page")
    found = measure_page()
    report.table(
        (
            f"seconds until a browser shows {RUNS} runs of a server that was just started",
            "from a folder",
            "from a bucket",
        ),
        ("first paint", _or_none(found.paint_seconds), _or_none(found.bucket_paint_seconds)),
        ("all runs listed", _or_none(found.listed_seconds), _or_none(found.bucket_listed_seconds)),
    )
    for what, seconds, limit in (
        (f"the web page's list of {RUNS} runs, at first", found.first_seconds, WANTED_FIRST_SECONDS),
        ("the same again", found.refresh_seconds, WANTED_REFRESH_SECONDS),
        ("its first paint in a browser", found.paint_seconds, WANTED_FIRST_SECONDS),
        ("the same, of runs in a bucket", found.bucket_paint_seconds, WANTED_FIRST_SECONDS),
        ("the bucket's list again", found.bucket_refresh_seconds, WANTED_REFRESH_SECONDS),
        (f"a curve of {STEPS:,} steps, at first", found.curve_first_seconds, WANTED_CURVE_SECONDS),
        ("the same again, with nothing new", found.curve_again_seconds, WANTED_CURVE_SECONDS),
    ):
        if seconds is not None:
            report.limited(what, f"{seconds:.2f} s", value=seconds, limit=limit, shown=f"{limit:g} s")
    grown = found.growth_bytes
    report.limited(
        f"what the page's memory grows by in {REFRESHES:,} refreshes", f"{grown / 1e6:.1f} MB", value=grown,
        limit=WANTED_GROWTH_BYTES, shown=f"{WANTED_GROWTH_BYTES / 1e6:.0f} MB",
    )  # fmt: skip


_MEASURES = {
    "steps": _steps,
    "starts": _starts,
    "stop": _stop,
    "saving": _saving,
    "notice": _notice,
    "memory": _memory,
    "page": _page,
}


def _or_none(seconds: float | None) -> str:
    return "no chromium here" if seconds is None else f"{seconds:.2f}"


def _with_range(ratio: float, ratios: tuple[float, ...]) -> str:
    return f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _say(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
