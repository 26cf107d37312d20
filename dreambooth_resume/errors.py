"""Every error that a user can meet, with its exit code.

    DbrError                       70  a bug in dbr
    ├── ProcessLost                70  one of the processes that compute a run's steps ended
    ├── BadInput                    2  what the user typed or pointed to can't be used
    ├── ComeBack                   75  nothing is wrong: start the same command again
    │   ├── StorageUnavailable     75  the home could not be reached for as long as we try
    │   │   ├── OutcomeUnknown     75  a write may or may not have happened
    │   │   └── PatienceSpent      75  it was asked again until the patience of a start was spent
    │   ├── Interrupted            75  a notice or a signal of the platform
    │   ├── NonFinite              75  a loss, gradient or weight is NaN or infinite: back to the last good step
    │   └── HolderAlive            75  another attempt trains this run
    ├── StoppedOnPurpose           76  `dbr stop`, Ctrl-C: resumable by the user, restarted by nobody
    │   └── BudgetSpent            76  hours, dollars or interruptions: resumable with a higher budget
    ├── AccessDenied               77  the home refuses us (401, 403)
    ├── RefusedToGoOn              78  damaged or contradictory: going on could lose work
    │   ├── CheckpointDamaged      78  one checkpoint is not what its log entry says
    │   └── NothingValid           78  checkpoints were committed, none of them can be used
    └── Fenced                     79  a newer attempt holds the run; nothing was overwritten
    KeyNotFound                        internal: a key is certainly not there (never 403, 5xx or a time-out)

Messages say what happened, where, and what to type next. `cli.main` prints them; nothing else does. `anchor` is the
heading of docs/troubleshooting.md that says more about the class, and `dbr help ANCHOR` prints it; subclasses elsewhere
have their parent's.
"""

from __future__ import annotations


class DbrError(Exception):
    """Base of all errors that end the program with a message instead of a traceback."""

    exit_code = 70
    anchor = "a-bug"


class ProcessLost(DbrError):
    """One of several processes that compute a run's steps crashed, or was killed. What crashes is started again."""

    anchor = "a-process-was-lost"


class BadInput(DbrError):
    """What the user typed, wrote or pointed to can't be used.

    `what` is the problem, `where` the flag, file or key it sits in, `fix` what to type instead.
    """

    exit_code = 2
    anchor = "bad-input"

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix


class ComeBack(DbrError):
    """Nothing is wrong with the run; the same command goes on from the last commit."""

    exit_code = 75
    anchor = "come-back"


class StorageUnavailable(ComeBack):
    """The home did not answer, or answered with a fault of its own."""

    anchor = "the-home-does-not-answer"


class OutcomeUnknown(StorageUnavailable):
    """A write was sent and its answer never came: it may have happened, or happen later."""

    anchor = "a-write-without-an-answer"


class PatienceSpent(StorageUnavailable):
    """The home was asked again and again and never answered: whoever called must not begin to ask anew."""

    anchor = "the-patience-of-a-start-is-spent"


class Interrupted(ComeBack):
    """A notice or a signal of the platform ended this attempt after its save."""

    anchor = "interrupted"


class NonFinite(ComeBack):
    """Update `step`, counted from 0, made a number that must not be saved; `why` says which.

    The attempt ends and the same process goes back with another. Killed in between, the next start meets it again.
    """

    anchor = "nan-or-infinity"

    def __init__(self, why: str, *, step: int) -> None:
        super().__init__(f"Step {step + 1}: {why}. The same command goes back to the last good checkpoint.")
        self.why = why
        self.step = step


class HolderAlive(ComeBack):
    """Another attempt trains this run and did not go away while we waited."""

    anchor = "another-attempt-trains-the-run"


class StoppedOnPurpose(DbrError):
    """Somebody asked for the stop; nobody restarts it but the user."""

    exit_code = 76
    anchor = "stopped-on-purpose"


class BudgetSpent(StoppedOnPurpose):
    """The run has taken what it may take in all: --max_hours, --max_cost or --max_interruptions."""

    anchor = "the-budget-is-spent"


class AccessDenied(DbrError):
    """The home refuses to be read or written."""

    exit_code = 77
    anchor = "no-access"


class RefusedToGoOn(DbrError):
    """Going on could lose or mix up work, so the user has to decide."""

    exit_code = 78
    anchor = "refused-to-go-on"


class CheckpointDamaged(RefusedToGoOn):
    """A committed checkpoint's files are not what its log entry says."""

    anchor = "a-damaged-checkpoint"


class NothingValid(RefusedToGoOn):
    """Checkpoints were committed in this run's line and none can be used."""

    anchor = "no-checkpoint-can-be-used"


class Fenced(DbrError):
    """A newer attempt took the run over; this one has overwritten and deleted nothing."""

    exit_code = 79
    anchor = "a-newer-attempt-has-the-run"


class KeyNotFound(Exception):
    """A key is certainly not in the storage. Internal: callers turn it into what it means."""
