"""What a verification trains: a stretch of the run that its options name, as a copy that the home knows nothing of."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreambooth_resume.config.load import GivenOptions, parse_train, resolve
from dreambooth_resume.config.option import is_secret
from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.adoption import LATEST, ref_of
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.workflows.fork import fork_run
from dreambooth_resume.workflows.holders import Waiting
from dreambooth_resume.workflows.home import Home, find_place
from dreambooth_resume.workflows.preflight import with_absolute_folders
from dreambooth_resume.workflows.typed import typed

_OF_THE_HOME = ("output_dir", "storage_uri", "stage_dir", "logging_dir", "unfenced")
_OF_THE_MOMENT = (
    "allow_change",
    "deadline",
    "notice_file",
    "resume_request_id",
    "take_over",
    "wait_for_holder",
    "max_cost",
    "max_hours",
    "max_interruptions",
)
_SET: Mapping[str, object] = {
    "checkpointing_seconds": None,
    "checkpoints_total_limit": 3,
    "keep_every": None,
    "save_every_n_epochs": None,
    "notify": None,
    "progress_seconds": 0.001,
    "push_to_hub": False,
    "report_to": "none",
    "spot": "none",
}
"""None of these changes what a step computes: a copy sends nothing to anybody, and saves as the stretch needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The stretch from `base_step` to `until_step`, and how a home for it is made."""

    what: str
    base_step: int
    until_step: int
    begins_with: GivenOptions
    """The options of each start: all of them for a run that begins, what is given otherwise for a fork."""
    forked: CheckpointRef | None
    home: Home

    def prepare(self, folders: Sequence[Path], reporter: Reporter) -> None:
        """Make the homes: a copy of the checkpoint in each; nothing where the run is to begin."""
        if self.forked is None:
            return
        first, *others = folders
        target = find_place(parse_train(["--output_dir", str(first)]))
        fork_run(
            self.home.storage,
            target,
            step=self.forked.folder,
            given=self.begins_with,
            waiting=Waiting(tell=reporter.message),
            on_file=lambda done, total: reporter.phase("copying the checkpoint", done, total),
        )
        for other in others:
            shutil.copytree(first, other)

    def words(self, folder: Path, *, saves_every: int) -> tuple[str, ...]:
        """Of `dbr train`, for every start in that home."""
        given = dict(self.begins_with.values)
        if self.forked is not None:  # run.json has them, but for how a bucket with the base model is reached
            given = {name: value for name, value in given.items() if name.startswith("s3_")}
        chosen = {"resume_from_checkpoint": LATEST, **given, **_SET, "checkpointing_steps": saves_every}
        chosen["output_dir"] = folder
        return tuple(word for name, value in chosen.items() for word in typed(name, value))


def find_source(home: Home, given: GivenOptions, *, steps: int, room: int, seed: int) -> Source:
    """The stretch of `steps` steps that ends earliest before the run's end: from its newest fitting checkpoint.

    `room` are the fewest steps that make sense. `seed` is that of a run that begins and has none. Raises BadInput for
    options that make no run, or one that is too short.
    """
    own = _own_options(given)
    if home.record is None:
        return _new(home, own, steps=steps, seed=seed)
    recorded = home.recorded
    assert recorded is not None
    options = resolve(own, recorded=recorded)
    last = options.training.max_train_steps
    assert last is not None, "run.json holds the number of steps that epochs made"
    if (ref := _fitting(home, last=last, steps=steps, room=room)) is None:
        anew = {name: value for name, value in recorded.items() if value is not None and not _is_left_out(name)}
        begins = replace(own, values={**anew, **own.values})
        return _new(home, begins, steps=steps, seed=seed)
    return Source(
        what=f"{home.storage.describe()}, from its checkpoint of step {ref.step}",
        base_step=ref.step,
        until_step=min(ref.step + steps, last),
        begins_with=own,
        forked=ref,
        home=home,
    )


def _new(home: Home, given: GivenOptions, *, steps: int, seed: int) -> Source:
    given = replace(given, values={"seed": seed, **given.values})
    last = resolve(given, recorded=None).training.max_train_steps
    return Source(
        what="a run with these options, from its first step",
        base_step=0,
        until_step=steps if last is None else min(steps, last),
        begins_with=given,
        forked=None,
        home=home,
    )


def _fitting(home: Home, *, last: int, steps: int, room: int) -> CheckpointRef | None:
    """The newest checkpoint with so many steps before the end, or else the oldest if it leaves room; or none."""
    usable = [ref_of(home.log, number) for number in home.log.usable_line()]
    whole = [ref for ref in usable if ref.step + steps <= last]
    if whole:
        return whole[-1]
    return usable[0] if usable and usable[0].step + room <= last else None


def _own_options(given: GivenOptions) -> GivenOptions:
    """What was given about the training itself. Raises BadInput for a wish to go back."""
    target = given.values.get("resume_from_checkpoint")
    given = with_absolute_folders(given)
    kept = {name: value for name, value in given.values.items() if not _is_left_out(name)}
    if target is not None and str(target) != LATEST and "/" in str(target):
        kept["resume_from_checkpoint"] = target
    elif target is not None and str(target) != LATEST:
        raise BadInput(
            "a verification begins from the newest checkpoint that leaves room for its steps",
            where=given.sources.get("resume_from_checkpoint"),
            fix="--resume latest, or leave it out",
        )
    return replace(given, values=kept, sources={name: given.sources.get(name, name) for name in kept})


def _is_left_out(name: str) -> bool:
    others = ("resume_from_checkpoint", "checkpointing_steps", "hub_model_id", "hub_strategy")
    return name in (*_OF_THE_HOME, *_OF_THE_MOMENT, *_SET, *others) or is_secret(name)
