"""What a launcher must do. These comments are the contract; `tests/contracts/test_launchers.py` checks them.

A launch is: `check` (refuses, before anything is created), the home is filled with what an empty machine needs,
`start`. From then on the home alone says how the run stands; a launcher is asked only about machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from dreambooth_resume.runs.entries import Price, Process
from dreambooth_resume.storage.s3_address import S3Settings

if TYPE_CHECKING:
    from dreambooth_resume.config.options.train import TrainOptions

JobState = Literal["waiting", "running", "ended", "unknown"]
"""`waiting`: accepted, and nothing of ours runs yet (a queue, no capacity, a machine that boots). `unknown`: it can't
be told from here, such as for the job of another machine's user."""

MachineEnd = Literal["stop", "terminate", "keep"]
"""What becomes of a machine that a launcher made, once nothing is to run on it any more."""

Purpose = Literal["train", "eval"]
"""What a launch is for: the run itself, or an evaluation of its checkpoints, which is a job of its own beside it."""

SETTINGS_CONFIG = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
"""Of a launcher's own options: a frozen model of flat fields, declared with `free()`, with their help as docstrings.
A field may not be called like an option of `dbr train`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The wheel of this very version in the home, and the versions it was tested with, for machines without dbr."""

    wheel_key: str
    wheel_sha256: str
    constraints_key: str
    constraints_sha256: str
    extras: tuple[str, ...] = ()
    """Of the package, such as `prodigy`: what this run's options ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """All that a launcher is given. Nothing of it is secret, and no secret may be added to what is sent."""

    launch_id: str
    """32 hexadecimal digits, new for each launch: what is made for it carries it as its name or tag."""
    home: str
    """As the machine is to open it: `s3://bucket/dog`, or an absolute folder."""
    s3: S3Settings
    """How the home is reached, where it is in a bucket."""
    options: TrainOptions
    """Those of the run, as this start would have them."""
    command: tuple[str, ...]
    """What the machine runs, as the words behind the program's name: `supervise s3://bucket/dog --launch ID …`. It
    ends with the exit code that the restart rule left; nobody has to start it again but for a lost machine."""
    purpose: Purpose = "train"
    package: Package | None = None
    """In the home before `start` is called; for `plan`, as it would be. None in `check`, and where none is needed."""

    @property
    def name(self) -> str:
        return launch_name(self.home, self.launch_id, purpose=self.purpose)


def launch_name(home: str, launch_id: str, *, purpose: Purpose = "train") -> str:
    """Short, for people and for names that a platform wants: letters, digits and dashes, `dbr-dog-1f3a5c7e`."""
    last = home.rstrip("/").rpartition("/")[2].lower()
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in last).strip("-")
    kind = "dbr-eval" if purpose == "eval" else "dbr"
    return f"{kind}-{plain[:40].strip('-') or 'run'}-{launch_id[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A launcher's handle of what it started: kept in the home, so that any machine can stop it and read its log."""

    name: str
    """What the platform calls it, for people: a job's number, a group's name, a process."""
    values: Mapping[str, str] = field(default_factory=dict)
    """What the launcher needs to find it again. Nothing secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What the platform says of a job now. `because` is one line for people."""

    state: JobState
    because: str
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something on the platform that carries the mark of a launch."""

    kind: str
    name: str
    home: str
    """For which it was made; empty if that isn't said."""
    state: str
    is_in_use: bool
    """Something runs there, or is to run again: `dbr stop` ends it, and nothing else may."""


@runtime_checkable
class LeavesThings(Protocol):
    """Of a launcher that makes things by its user's account: what of them is there, whoever lost sight of them."""

    def leftovers(self) -> Sequence[Leftover]:
        """All of them. Raises as a Launcher does."""
        ...

    def remove(self, leftover: Leftover) -> None:
        """Remove one; what is gone already is fine."""
        ...


Rehearsal = Literal["notice", "kill"]
"""`notice`: the platform says that the machine goes. `kill`: the training is gone without a word."""


@runtime_checkable
class Rehearses(Protocol):
    """Of a launcher that can do on purpose what its platform does at any time."""

    def rehearse(self, job: Job, how: Rehearsal, *, holder: Process) -> str:
        """Do it to the machine where `holder` trains; what was done, in a line. Raises as a Launcher does.

        Refuses, with BadInput, what can't be done from here; nothing was done then.
        """
        ...


class Launcher(Protocol):
    """A way to a machine. Constructed with its settings alone, on the user's machine and on the launched one.

    Every method raises BadInput for what the user can mend, AccessDenied where the platform refuses us (it names the
    missing permission), and ComeBack where the platform does not answer.
    """

    @property
    def settings(self) -> BaseModel:
        """The launcher's own options (`SETTINGS_CONFIG`), kept in the home so that `dbr resume` needs none."""
        ...

    @property
    def shares_folders(self) -> bool:
        """Does the machine see this one's folders by the same names? Then a home and a base model may be folders."""
        ...

    @property
    def needs_package(self) -> bool:
        """Is dbr to be installed there from the wheel in the home?"""
        ...

    @property
    def owns_machine(self) -> bool:
        """Does it make machines that cost money until they are given back? Then on_finish and on_failure count."""
        ...

    @property
    def evaluates(self) -> bool:
        """May an evaluation be launched on it, too? It is ended by `interrupt`, else by `release`: nobody asks it."""
        ...

    def check(self, request: LaunchRequest) -> None:
        """Refuse what can't work: unknown names, missing programs and permissions. Creates and changes nothing."""
        ...

    def plan(self, request: LaunchRequest) -> str:
        """Exactly what `start` would send, as text for `--dry-run`. Creates nothing."""
        ...

    def price(self, request: LaunchRequest) -> Price | None:
        """What an hour will cost, as far as the platform says so; None where it doesn't."""
        ...

    def start(self, request: LaunchRequest) -> Job:
        """Start the job and return at once. What a start that fails half way has made is removed before it raises."""
        ...

    def find(self, launch_id: str, name: str) -> Job | None:
        """What `start` made for the launch of that number and `LaunchRequest.name`, where nobody kept its handle.

        None: nothing of it is there, or nothing that is still to run.
        """
        ...

    def look(self, job: Job) -> JobStatus:
        """How the job stands, by the platform."""
        ...

    def interrupt(self, job: Job) -> bool:
        """Have what runs end on purpose, now: it saves, and is not started again. A job that ended already is fine.

        False: the platform has no way to say so; then the caller asks through the home, and waits.
        """
        ...

    def release(self, job: Job) -> None:
        """Remove all that was made for the job, whatever state it is in; what is gone already is fine.

        Called when nothing trains there any more.
        """
        ...

    def logs(self, job: Job, *, follow: bool) -> Iterator[str] | None:
        """Lines of the job's output as the platform keeps it, without line ends; `follow`: until it ends.

        None: it keeps none, and the copy in the home is shown.
        """
        ...

    def end_machine(self, launch_id: str, how: MachineEnd) -> None:
        """Called on the launched machine itself, at the very end: give it back as `how` says.

        Nothing to do where `owns_machine` is False.
        """
        ...
