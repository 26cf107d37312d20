"""At a start, storage that does not answer is asked again for ten minutes before we give up (DESIGN: rule 12)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from dreambooth_resume.errors import PatienceSpent, StorageUnavailable

Result = TypeVar("Result")

PATIENCE_SECONDS = 600.0
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0


def patiently(
    ask: Callable[[], Result],
    *,
    tell: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """The answer of `ask`, asked again with growing, jittered waits while it raises StorageUnavailable.

    Only that: "no access" and "not there" are answers. After 10 minutes, or when `should_stop` says so, PatienceSpent
    is raised with the last error's words, and the program ends as "come back" (75). One such call within another is not
    begun again: what it was part of, an adopt for one, would be repeated.
    """
    started, wait_seconds = monotonic(), _FIRST_WAIT_SECONDS
    while True:
        try:
            return ask()
        except PatienceSpent:
            raise
        except StorageUnavailable as error:
            if should_stop() or monotonic() - started + wait_seconds > PATIENCE_SECONDS:
                raise PatienceSpent(str(error)) from error
            tell(f"{error} Asking again in {wait_seconds:.0f} s.")
            sleep(wait_seconds * (0.5 + random.random()))
            wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT_SECONDS)
