"""The files that the house's gates look at."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LEFT_OUT = {".git", ".venv", ".boot", "build", "dist", "runs", "__pycache__"}


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name in LEFT_OUT or path.name.endswith((".egg-info", "_cache", ".hypothesis")):
            continue
        found += _walk(path) if path.is_dir() else [path]
    return found


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    """Every file that belongs to the project: git's list where there is a clone, else what lies here."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.CalledProcessError):
        return _walk(ROOT)
    paths = (ROOT / name for name in listed.split("\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


@pytest.fixture(scope="session")
def python_files(project_files: list[Path]) -> list[Path]:
    return [path for path in project_files if path.suffix == ".py"]
