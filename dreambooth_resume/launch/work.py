"""What a supervisor starts again and again until it is done: a training, or an evaluation of its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.config.options.preemption import duration_seconds
from dreambooth_resume.runs.home import EVALUATION_PREFIX, evaluation_parts
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.storage.base import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it is, in units that grow; `log` says what could be gone back to."""

    units: int = 0
    log: Log


class Work(Protocol):
    """One program of `dbr` with its words. `what`, `unit` and `by_hand` are for messages."""

    @property
    def what(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def by_hand(self) -> str:
        """What a person may do where nobody starts it again."""
        ...

    @property
    def deadline_seconds(self) -> float | None:
        """After which it is to end, as its user said; None: never."""
        ...

    def command(self, *, left_seconds: float | None, back: Sequence[str]) -> list[str]:
        """The words behind the program's name. `left_seconds` of the deadline; `back`: to begin further back."""
        ...

    def look(self, storage: Storage) -> Progress:
        """How far it is. Raises as the storage does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """`dbr train`, of which every start but the first resumes. `words` are its options; the home is among them."""

    what: ClassVar[str] = "run"
    unit: ClassVar[str] = "step"
    by_hand: ClassVar[str] = "Go on by hand from an earlier step, or report it."
    words: tuple[str, ...]

    @property
    def deadline_seconds(self) -> float | None:
        deadline = parse_train(self.words).value("deadline")
        return None if deadline is None else duration_seconds(str(deadline))

    def command(self, *, left_seconds: float | None, back: Sequence[str]) -> list[str]:
        resumes = "resume_from_checkpoint" in parse_train(self.words).values
        added = [] if resumes else ["--resume", "latest"]
        if left_seconds is not None:
            added += ["--deadline", f"{left_seconds:.0f}s"]
        return ["train", *self.words, *added, *back]

    def look(self, storage: Storage) -> Progress:
        log = read_log(storage)
        return Progress(units=log.last.state.step if log.last else 0, log=log)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """`dbr eval`, of which every start goes on with the next picture. `words` are all behind the command's name."""

    what: ClassVar[str] = "evaluation"
    unit: ClassVar[str] = "picture"
    by_hand: ClassVar[str] = "Its output says more: dbr logs HOME --eval."
    deadline_seconds: ClassVar[float | None] = None
    words: tuple[str, ...]

    def command(self, *, left_seconds: float | None, back: Sequence[str]) -> list[str]:  # noqa: ARG002  it has neither
        return ["eval", *self.words]

    def look(self, storage: Storage) -> Progress:
        parts = (evaluation_parts(found.key) for found in storage.list(EVALUATION_PREFIX))
        return Progress(units=sum(one is not None and one[1] != "" for one in parts), log=Log())
