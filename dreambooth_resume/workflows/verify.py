"""`dbr verify-resume`: a short stretch of this run on this machine, in peace and being killed, and the bytes compared.

Everything happens in a folder of its own. A run that exists is forked there (its home is only read), a new one begins
there. Killed anywhere, this command leaves nothing but that folder.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from dreambooth_resume.config.load import GivenOptions
from dreambooth_resume.errors import BadInput
from dreambooth_resume.insight.sameness import Sameness, compare_runs
from dreambooth_resume.insight.verdict import Verdict, judge
from dreambooth_resume.runs.curves import Curve, read_curve
from dreambooth_resume.runs.entries import Adopt
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.workflows.home import find_place, open_home
from dreambooth_resume.workflows.lives import Life, NotVerified, Spawn, live
from dreambooth_resume.workflows.stretch import Cut, CutKind, Stretch
from dreambooth_resume.workflows.verify_source import Source, find_source

UNDISTURBED, REPEATED, KILLED = "undisturbed", "undisturbed-again", "killed"
STEPS_A_SAVE, KILLED_AFTER = 2, (3, 4)
"""A kill lands so many steps behind a start: one save is committed by then, and a step or two are lost."""
DEEP_STEPS = 24
"""Enough for a kill at each call of a save: most of them leave the run where it was."""
_KINDS: tuple[CutKind, ...] = ("between steps", "in a save", "in a step")
_LIVES_AFTER_THE_KILLS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `dbr verify-resume` was told."""

    given: GivenOptions
    kills: int
    deep: bool
    steps: int | None
    """How long the stretch is; None: as long as the kills need."""
    folder: Path | None
    """Where to work; None: a new folder for temporary files, removed afterwards if all is exact."""
    seed: int
    """Draws the moments of the kills, and the run's seed if it has none."""
    spawn: Spawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found, for people and as `--json`."""

    verdict: Verdict
    what: str
    base_step: int
    until_step: int
    lives: tuple[Life, ...]
    """Of the run that was killed, in their order; the last one ended by itself."""
    kills_asked: int
    comparison: Sameness
    numerics: dict[str, str]
    """What the bits depend on, as this machine has it."""
    kill_seed: int
    seconds: float
    folder: str | None
    """Where both runs lie; None: removed."""
    curves: tuple[Curve, Curve]
    """Of the undisturbed run and of the other one."""

    @property
    def kills(self) -> int:
        return sum(life.is_killed for life in self.lives)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """A stretch that is about to be run in `folder`."""

    order: Order
    source: Source
    folder: Path
    reporter: Reporter

    @property
    def saves_every(self) -> int:
        return _saves_every(self.order)

    def log(self, name: str) -> Log:
        return read_log(LocalStorage(self.folder / name))

    def live(self, name: str, number: int, cut: Cut | None, *, until_step: int) -> Life:
        stretch = Stretch(
            words=self.source.words(self.folder / name, saves_every=self.saves_every),
            until_step=until_step,
            cut=cut,
            writes_file=str(self._writes_file(name)) if cut is None else None,
        )
        durable = _durable(self.log(name)) if (self.folder / name).is_dir() else 0
        return live(
            self.order.spawn,
            stretch,
            name=f"{name}, start {number}",
            output=self.folder / f"{name}-{number}.log",
            base_step=durable,
            reporter=self.reporter,
        )

    def calls_a_save(self) -> int:
        """By how many calls a save changes the home, as the undisturbed run made them."""
        saves, calls = map(int, self._writes_file(UNDISTURBED).read_text().split())
        return max(1, round(calls / max(1, saves)))

    def _writes_file(self, name: str) -> Path:
        return self.folder / f"{name}.writes"


def verify_resume(order: Order, reporter: Reporter) -> Verified:
    """Run the stretch twice and compare. Raises BadInput for what can't be run, NotVerified if the training fails."""
    started = time.monotonic()
    home = open_home(find_place(order.given))
    steps = order.steps or max(KILLED_AFTER) * (order.kills + 1) + (DEEP_STEPS if order.deep else 0)
    source = find_source(home, order.given, steps=steps, room=2 * _saves_every(order), seed=order.seed % 2**32)
    folder = _folder_for(order)
    is_kept = order.folder is not None
    try:
        bench = _Bench(order=order, source=source, folder=folder, reporter=reporter)
        source.prepare([folder / name for name in (UNDISTURBED, KILLED, REPEATED)], reporter)
        verified = _verify(bench, started)
        is_kept = is_kept or not verified.comparison.is_exact
    except NotVerified:
        is_kept = True  # its output is there
        raise
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)
    return verified


def _verify(bench: _Bench, started: float) -> Verified:
    order, source, reporter = bench.order, bench.source, bench.reporter
    peaceful = bench.live(UNDISTURBED, 1, None, until_step=source.until_step)
    # A run that ends by epochs may end before the stretch does.
    until_step = _durable(bench.log(UNDISTURBED))
    reporter.message(f"Undisturbed: steps {peaceful.began_step + 1} to {until_step}.")
    cuts = _cuts(order, calls_a_save=bench.calls_a_save())
    lives = _killed(bench, cuts, until_step)
    storages = [LocalStorage(bench.folder / name) for name in (UNDISTURBED, KILLED)]
    found = compare_runs(*storages, step=until_step)
    repeated = None if found.is_exact else _repeated(bench, until_step)
    record = read_record(storages[0])
    assert record is not None
    return Verified(
        verdict=judge(
            found,
            repeated=repeated,
            not_as_at_start=_not_as_at_start(bench.log(UNDISTURBED)),
            options=record.options,
        ),
        what=source.what,
        base_step=source.base_step,
        until_step=until_step,
        lives=tuple(lives),
        kills_asked=len(cuts),
        comparison=found,
        numerics=record.numerics,
        kill_seed=order.seed,
        seconds=round(time.monotonic() - started, 1),
        folder=str(bench.folder) if order.folder is not None or not found.is_exact else None,
        curves=(read_curve(storages[0]), read_curve(storages[1])),
    )


def _cuts(order: Order, *, calls_a_save: int) -> list[Cut]:
    """Kills of each kind in turn, at moments that are drawn; with `deep` also before each call of a save."""
    rng = random.Random(order.seed)

    def in_a_save(call: int) -> Cut:
        # After so many steps the second save is under way, or waits for the first to end.
        return Cut(kind="in a save", call=call, steps=2 * _saves_every(order) + 1, saves=2)

    cuts = []
    for number in range(order.kills):
        kind = _KINDS[number % len(_KINDS)]
        steps, share = rng.randint(*KILLED_AFTER), rng.random()
        # In the second save of its life: the first one is there to be resumed from.
        call = calls_a_save + rng.randint(1, calls_a_save)
        cuts.append(in_a_save(call) if kind == "in a save" else Cut(kind=kind, steps=steps, share_of_a_step=share))
    every_call = range(1, calls_a_save + 2) if order.deep else ()
    return [*cuts, *(in_a_save(call) for call in every_call)]


def _saves_every(order: Order) -> int:
    return 1 if order.deep else STEPS_A_SAVE


def _killed(bench: _Bench, cuts: list[Cut], until_step: int) -> list[Life]:
    """The lives of the run that is killed at `cuts`, up to the one that comes to the end."""
    lives: list[Life] = []
    for cut in [*cuts, *[None] * _LIVES_AFTER_THE_KILLS]:
        if lives and _durable(bench.log(KILLED)) >= until_step:
            return lives
        life = bench.live(KILLED, len(lives) + 1, cut, until_step=until_step)
        bench.reporter.message(
            f"Start {len(lives) + 1}: from step {life.began_step}, {life.ended} at step {life.reached_step}."
        )
        lives.append(life)
    if _durable(bench.log(KILLED)) < until_step:
        raise NotVerified(
            f"After {len(lives)} starts the run that is killed has not come to step {until_step}. Its output is in "
            f"{bench.folder}.",
            exit_code=NotVerified.exit_code,
        )
    return lives


def _repeated(bench: _Bench, until_step: int) -> Sameness:
    """The same stretch in peace once more: does this machine compute the same bits twice at all?"""
    bench.reporter.message("The bytes differ. Running it undisturbed once more, to see whether that is the resume.")
    bench.live(REPEATED, 1, None, until_step=until_step)
    return compare_runs(*(LocalStorage(bench.folder / name) for name in (UNDISTURBED, REPEATED)), step=until_step)


def _durable(log: Log) -> int:
    return log.last.state.step if log.last else 0


def _not_as_at_start(log: Log) -> tuple[str, ...]:
    """What the newest attempt has otherwise than the run's start, and that memory ran out, if it did."""
    reasons = log.adopt.body.not_exact_because if log.adopt and isinstance(log.adopt.body, Adopt) else ()
    smaller = log.last.state.smaller_micro_batch if log.last else None
    return (*reasons, *([f"out of memory: {smaller.size} samples at once"] if smaller else []))


def _folder_for(order: Order) -> Path:
    """An empty folder to work in. Raises BadInput for one that holds something."""
    if order.folder is None:
        return Path(tempfile.mkdtemp(prefix="dbr-verify-"))
    if order.folder.exists() and (not order.folder.is_dir() or any(order.folder.iterdir())):
        raise BadInput("is there already, and not empty", where=f"--dir {order.folder}", fix="name a new folder")
    try:
        order.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"can't be made: {error.strerror}", where=f"--dir {order.folder}", fix="name a folder that you can write to"
        ) from None
    return order.folder.absolute()
