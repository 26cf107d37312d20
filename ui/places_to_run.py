"""Which launchers can be used from here, and why not: a quick look, without asking any platform."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dreambooth_resume.launch.launchers import LAUNCHERS


def launcher_remarks(
    find_program: Callable[[str], str | None] = shutil.which, home_folder: Path | None = None
) -> dict[str, str]:
    """Launcher to why it can't be used from here; empty where nothing speaks against it."""
    folder = home_folder or Path.home()
    has_aws = any(name in os.environ for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"))
    has_hub = "HF_TOKEN" in os.environ or (folder / ".cache" / "huggingface" / "token").is_file()
    problems = {
        "slurm": "" if find_program("sbatch") else "sbatch is not installed here",
        "aws": "" if has_aws or (folder / ".aws").is_dir() else "no AWS credentials are found here",
        "skypilot": "" if find_program("sky") else "sky is not installed here",
        "hf-jobs": "" if has_hub else "not logged in to the Hub: hf auth login",
        "kubernetes": "needs --image, which only a terminal may name: dbr launch kubernetes",
    }
    return {name: problems.get(name, "") for name in LAUNCHERS}
