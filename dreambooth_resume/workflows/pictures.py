"""Which pictures a run is trained on: the folder's at its first start, its own copies from then on.

A folder that has changed since is refused, or begins a segment: the run then goes on with the new pictures from the
adopted step, and every later resume, on any machine, finds in the log from which step on it was which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.buckets import Bucket, assigned
from dreambooth_resume.data.dataset import Picture, PictureSet
from dreambooth_resume.data.fingerprint import dataset_fingerprint
from dreambooth_resume.data.inputs import INPUTS_LIST, load_inputs, segment_list
from dreambooth_resume.data.plan import Part, Plan, in_segments
from dreambooth_resume.errors import BadInput, ComeBack, RefusedToGoOn
from dreambooth_resume.runs.adoption import NewDataset
from dreambooth_resume.runs.entries import Segment
from dreambooth_resume.workflows.home import Home
from dreambooth_resume.workflows.sources import is_at_hand, scan_source, source_name

_NAMED_AT_MOST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSets:
    """The run's data sets by fingerprint, all that this machine could find. `first` is that of `run.json`."""

    first: str
    newest: str
    """What the run is trained on from now on."""
    sets: Mapping[str, PictureSet]
    wished: NewDataset | None = None
    """The newest begins a segment with the next adopt."""
    drift: str = ""
    """What of the pictures has changed, if it has."""
    stored: frozenset[str] = field(default=frozenset())
    """Those that the home has copies of."""

    @property
    def pictures(self) -> PictureSet:
        return self.sets[self.newest]

    @property
    def to_store(self) -> tuple[tuple[str, PictureSet], ...]:
        """The home's list and the pictures of what it has no copies of yet."""
        return tuple((self.list_key(one), self.sets[one]) for one in self.sets if one not in self.stored)

    def list_key(self, fingerprint: str) -> str:
        return INPUTS_LIST if fingerprint == self.first else segment_list(fingerprint)

    def in_order(
        self, segments: Sequence[Segment], plan: Plan, buckets: Sequence[Bucket] | None
    ) -> tuple[PictureSet, Plan]:
        """All pictures, one data set behind the other, and `plan` over them; they are cut to these buckets.

        Raises ComeBack for a segment that somebody else began while this start looked at the pictures.
        """
        parts = [(segment.from_step, segment.fingerprint) for segment in segments]
        if not parts or parts[0][0] > 0:
            parts.insert(0, (0, self.first))
        if any(fingerprint not in self.sets for _, fingerprint in parts) or parts[-1][1] != self.newest:
            raise ComeBack("The run's pictures were changed by another attempt. The same command looks at them anew.")
        in_plan = [
            Part(
                first_step=first_step,
                picture_count=len(self.sets[fingerprint].pictures),
                buckets=buckets_for(self.sets[fingerprint], buckets),
                times=self.sets[fingerprint].times,
            )
            for first_step, fingerprint in parts
        ]
        pictures = tuple(picture for _, fingerprint in parts for picture in self.sets[fingerprint].pictures)
        return replace(self.pictures, pictures=pictures), in_segments(plan, in_plan)


def buckets_for(pictures: PictureSet, buckets: Sequence[Bucket] | None) -> tuple[Bucket, ...]:
    """The bucket of each picture; empty without buckets."""
    return assigned(((picture.width, picture.height) for picture in pictures.pictures), buckets)


def find_datasets(home: Home, options: TrainOptions) -> DataSets:
    """The pictures of the folder at a first start; on a resume the home's own copies, which no edit of it reaches.

    Where both are there and the folder has changed, the user has to hear of it, not find out by the result: raises
    RefusedToGoOn with the names, unless the run is to go on with the pictures as they are now.
    """
    prompt = options.data.instance_prompt
    if home.record is None:
        launched = None if is_at_hand(options) else load_inputs(home.storage, home.place.stage, prompt=prompt)
        if launched is not None:
            # Another machine launched this one, and put its folder's pictures here before.
            first = dataset_fingerprint(launched.pictures)
            return DataSets(first=first, newest=first, sets={first: launched}, stored=frozenset({first}))
        pictures = scan_source(options, skip_bad=options.data.skip_bad_images)
        first = dataset_fingerprint(pictures.pictures)
        return DataSets(first=first, newest=first, sets={first: pictures})
    known = _stored(home)
    stored = known.sets.get(known.newest)
    if stored is None:
        return _without_copies(home, options, known)
    now = scan_source(options, skip_bad=True) if is_at_hand(options) else _asked_with(stored, prompt)
    fingerprint = dataset_fingerprint(now.pictures)
    if fingerprint == known.newest:
        return known
    drift = _drift(stored.pictures, now.pictures)
    # Another prompt was allowed by its name, or the change policy would have refused it.
    is_allowed = dataset_fingerprint(_asked_with(stored, prompt).pictures) == fingerprint
    if options.data.on_data_change == "refuse" and not is_allowed:
        raise RefusedToGoOn(_changed(source_name(options), drift))
    if not options.data.store_inputs:
        raise BadInput(
            "other pictures need the home's copies of both, and store_inputs is off",
            where="on_data_change",
            fix="leave --no-store_inputs out, or begin a new run with another --output_dir",
        )
    return replace(
        known,
        newest=fingerprint,
        sets={**known.sets, fingerprint: now},
        wished=NewDataset(fingerprint=fingerprint, prompt=prompt),
        drift=drift,
    )


def _stored(home: Home) -> DataSets:
    """What the home has copies of: the run's first data set and those of the segments."""
    assert home.record is not None
    first = home.record.pins.dataset
    segments = home.log.last.state.segments if home.log.last else ()
    known = DataSets(first=first, newest=segments[-1].fingerprint if segments else first, sets={})
    prompts = {first: str(home.record.options["instance_prompt"])}
    prompts |= {segment.fingerprint: segment.prompt for segment in segments}
    sets: dict[str, PictureSet] = {}
    for fingerprint, prompt in prompts.items():
        list_key = known.list_key(fingerprint)
        pictures = load_inputs(home.storage, home.place.stage, prompt=prompt, list_key=list_key)
        if pictures is None:
            continue
        if dataset_fingerprint(pictures.pictures) != fingerprint:
            raise RefusedToGoOn(
                f"{list_key} in {home.storage.describe()} lists other pictures than the run was trained on. Put it "
                "back from a copy, or begin a new run with another --output_dir."
            )
        sets[fingerprint] = pictures
    return replace(known, sets=sets, stored=frozenset(sets))


def _without_copies(home: Home, options: TrainOptions, known: DataSets) -> DataSets:
    """The folder has to be there, and to hold what the run is trained on."""
    pictures = scan_source(options, skip_bad=options.data.skip_bad_images)
    if dataset_fingerprint(pictures.pictures) != known.newest:
        raise RefusedToGoOn(
            f"The pictures in {source_name(options)}, or their prompts, are not those that the run in "
            f"{home.storage.describe()} is trained on, and the home has no copy of them. Put the first ones back, or "
            "begin a new run with another --output_dir."
        )
    return replace(known, sets={**known.sets, known.newest: pictures})


def _asked_with(pictures: PictureSet, prompt: str) -> PictureSet:
    """The same pictures under another prompt; those with captions of their own keep them."""
    asked = (replace(picture, prompt=picture.caption or prompt) for picture in pictures.pictures)
    return replace(pictures, pictures=tuple(asked))


def _drift(before: Sequence[Picture], after: Sequence[Picture]) -> str:
    """What was added, removed, edited or described otherwise, by name."""
    then, now = ({picture.name: picture for picture in pictures} for pictures in (before, after))
    both = sorted(then.keys() & now.keys())
    groups = {
        "added": sorted(now.keys() - then.keys()),
        "removed": sorted(then.keys() - now.keys()),
        "edited": [name for name in both if then[name].sha256 != now[name].sha256],
        "mask changed": [
            name
            for name in both
            if then[name].sha256 == now[name].sha256 and then[name].mask_sha256 != now[name].mask_sha256
        ],
        "repeats changed": [name for name in both if then[name].times != now[name].times],
        "caption changed": [
            name for name in both if then[name].sha256 == now[name].sha256 and then[name].prompt != now[name].prompt
        ],
    }
    return "; ".join(f"{what}: {_listed(names)}" for what, names in groups.items() if names)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more


def _changed(folder: str, drift: str) -> str:
    return (
        f"The pictures in {folder} have changed since the run began ({drift}). Put them back as they were, go on with "
        "them as they are from here on: --on-data-change continue, or begin a new run with another --output_dir. The "
        "run's own copy is safe in its home: rename the folder to go on with it."
    )
