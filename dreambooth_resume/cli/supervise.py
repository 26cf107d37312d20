"""`dbr supervise`: what every launched machine runs, and what a start-up script of your own may run."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path

from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows.supervise import Order, supervise

_TAIL_BYTES = 8192
_OWN = "dbr supervise: "
_HELP = """\
usage: dbr supervise [HOME] [--launch ID] [--queue] [--OPTION VALUE ...]

Runs `dbr train … --resume latest` until nobody should start it again, and ends with its exit code.
Started again: after 75 (come back), 70 (a bug), and a death by signal, with growing waits.
Never again: after 0, 2, 76, 77, 78, 79. Three crashes on this machine that got the run no further:
once more from one checkpoint before, and then 78. While a notice says that this machine goes away,
nothing is started; signals are handed on to the training, which saves, and nothing is started after.

  HOME                   the run's home: a folder or s3://BUCKET/NAME; without it the options name it
  --launch ID            take the options of that launch from the home, as `dbr launch` left them there
  --queue                wait for this machine's GPU: one run at a time, first come, first served
  --OPTION VALUE         options of dbr train; the last of two wins

  dbr supervise --config run.yaml
  dbr supervise s3://bucket/dog
"""


def run(words: list[str]) -> int:
    """The exit code of the training, as the restart rule left it. Raises DbrError."""
    if any(word in ("-h", "--help") for word in words):
        print(_HELP)
        return 0
    rest = deque(words)
    home = rest.popleft() if rest and not rest[0].startswith("--") else None
    launch_id, queue, left = None, False, list[str]()
    while rest:
        word = rest.popleft()
        flag, equals, value = word.partition("=")
        if flag == "--launch":
            if not equals and not rest:
                raise BadInput("needs a value", where=flag, fix="the number of a launch, as dbr launch list shows it")
            launch_id = value if equals else rest.popleft()
        elif word == "--queue":
            queue = True
        else:
            left.append(word)
    output = _output_file()
    order = Order(
        home=home,
        launch_id=launch_id,
        queue=queue,
        words=tuple(left),
        tell=_tell,
        last_output=lambda: _last_line(output),
        output=output,
    )
    return supervise(order)


def _tell(text: str) -> None:
    print(f"{_OWN}{text}", flush=True)


def _output_file() -> Path | None:
    """The file that our output goes to, and with it the training's; None where it is no file."""
    try:
        path = Path(f"/proc/self/fd/{sys.stderr.fileno()}").resolve()
    except (OSError, ValueError):
        return None
    return path if path.is_file() else None


def _last_line(file: Path | None) -> str:
    """The last error in the output, or its last line; nothing where that isn't in a file."""
    if file is None:
        return ""
    try:
        with file.open("rb") as output:
            output.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            lines = output.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    told = [line.strip() for line in lines if line.strip() and not line.startswith(_OWN)]
    # An error's first line says what was wrong; below it stand where, and the fix.
    errors = [line for line in told if line.startswith("dbr: ")]
    return (errors or told or [""])[-1]
