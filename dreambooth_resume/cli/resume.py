"""`dbr resume HOME [--on WHERE]`: launches a run again, where it was launched before or elsewhere."""

from __future__ import annotations

from dreambooth_resume.cli.launch import launch
from dreambooth_resume.cli.output import tell_at_once
from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.launchers import LAUNCHERS
from dreambooth_resume.workflows.launch import plan, prepare_again

_HELP = """\
usage: dbr resume HOME [--on WHERE] [--dry-run] [--OPTION VALUE ...]

Launches a run again: where it was launched last, or on another launcher. Options of the run come from
its home; what is typed here comes on top, options of the launcher too.

  HOME            the run's home: a folder or s3://BUCKET/NAME
  --on WHERE      {launchers}
  --dry-run       print exactly what would be sent, and make nothing

To go on in this terminal instead: dbr train --output_dir HOME --resume latest"""


def run(words: list[str]) -> int:
    """Exit code 0 once the job is started. Raises BadInput for a home that was never launched, without --on."""
    if not words or any(word in ("-h", "--help") for word in words):
        print(_HELP.format(launchers=", ".join(LAUNCHERS)))
        return 0 if words else BadInput.exit_code
    home, *rest = words
    if home.startswith("-"):
        raise BadInput("comes behind the home", where=home, fix=f"dbr resume HOME {home} …")
    where, is_dry_run, left = None, False, list[str]()
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag == "--on":
            if not equals and not rest:
                raise BadInput("needs a value", where="--on", fix=f"one of: {', '.join(LAUNCHERS)}")
            where = value if equals else rest.pop(0)
        elif word in ("--dry-run", "--dry_run"):
            is_dry_run = True
        else:
            left.append(word)
    prepared = prepare_again(home, where, left, tell=tell_at_once)
    if is_dry_run:
        print(plan(prepared))
    else:
        launch(prepared)
    return 0
