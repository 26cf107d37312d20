"""The program behind `dbr verify-resume`: trains one stretch in a process of its own. No command: it ends itself.

python -m dreambooth_resume.cli.stretch FILE, with a `Stretch` as JSON in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dreambooth_resume.cli.progress import LineReporter, log_shown_by
from dreambooth_resume.config.messages import format_error
from dreambooth_resume.errors import DbrError


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the training."""
    (file,) = sys.argv[1:] if argv is None else argv
    from dreambooth_resume.workflows.stretch import Stretch, train_stretch

    # A line for each step: who watches counts them.
    reporter = LineReporter(progress_seconds=0.0)
    try:
        with log_shown_by(reporter):
            return train_stretch(Stretch.model_validate_json(Path(file).read_bytes()), reporter)
    except DbrError as error:
        print(format_error(error), file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
