"""`python -m dreambooth_resume` is `dbr`."""

from __future__ import annotations

import sys

from dreambooth_resume.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
