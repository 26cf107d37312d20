"""Programs of platforms (`sky`, `kubectl`): found, run with a limit, and their own words where they refuse."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from dreambooth_resume.errors import BadInput, ComeBack

_SAID_LINES = 3
_SAID_CHARACTERS = 500


class Refused(BadInput):
    """The program ran and refuses: `said` is the end of what it printed."""

    def __init__(self, said: str, *, program: str, code: int) -> None:
        super().__init__(
            said or f"ends with {code} and says nothing",
            where=program,
            fix=f"try what stands there with {program} itself",
        )
        self.said = said


def find_program(name: str, *, fix: str) -> str:
    """Where the program is. Raises BadInput, with `fix` as what to type, if it isn't there."""
    found = shutil.which(name)
    if found is None:
        raise BadInput(f"the program {name} is not installed, or not on PATH", where=name, fix=fix)
    return found


def ask(words: Sequence[str], *, limit_seconds: float, given: str = "") -> str:
    """What the program prints. `given` is its standard input.

    Raises Refused if it ends with anything but 0, ComeBack if it takes too long, BadInput if it can't be started.
    """
    try:
        done = subprocess.run(
            list(words),
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ComeBack(
            f"{_shown(words)} has not answered for {limit_seconds:.0f} s. The same command tries again."
        ) from None
    except OSError as error:
        raise BadInput(
            f"can't be started: {error.strerror}", where=words[0], fix="install it again, or mend its permissions"
        ) from None
    if done.returncode != 0:
        raise Refused(_end_of(done.stderr or done.stdout), program=_shown(words[:1]), code=done.returncode)
    return done.stdout


def lines_of(words: Sequence[str]) -> Iterator[str]:
    """The lines that the program prints, as they come; it is ended when nobody reads on."""
    with subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    ) as program:
        assert program.stdout is not None
        try:
            for line in program.stdout:
                yield line.rstrip("\n")
        finally:
            with contextlib.suppress(OSError):
                program.terminate()


def values_of(names: Sequence[str], *, where: str) -> dict[str, str]:
    """These variables of the environment, for a platform's secrets. Raises BadInput for one that isn't set."""
    for name in names:
        if not os.environ.get(name):
            raise BadInput(
                f"{name} is not set here, and its value is to become a secret of the job",
                where=where,
                fix=f"export {name}=…, or name others: {where} HF_TOKEN",
            )
    return {name: os.environ[name] for name in names}


def _shown(words: Sequence[str]) -> str:
    return " ".join([os.path.basename(words[0]), *words[1:3]])  # noqa: PTH119  a word, not a path


def _end_of(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-_SAID_LINES:])[-_SAID_CHARACTERS:].removesuffix(".")
