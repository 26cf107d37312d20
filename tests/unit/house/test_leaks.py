"""Nothing of the machine that it was written on is in the project."""

from __future__ import annotations

import re
import sys
from pathlib import Path

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".sh", ".json", ".cfg", ".service", ".sbatch", ""}
# Put together here, so that this file doesn't hold what it looks for. /home/user is nobody's: tests may invent it.
HOME_FOLDERS = "|".join((r"/home/(?!user\b)\w", r"/Users/\w", "/root" + "/"))


def test_no_path_of_a_machine_is_in_a_file(project_files: list[Path], root: Path) -> None:
    # A checkout right under / or a system Python has a path too common to be looked for.
    own = {str(path) for path in (root, Path.home(), Path(sys.prefix)) if len(path.parts) > 2 and path != Path("/usr")}
    pattern = re.compile("|".join([HOME_FOLDERS, *(re.escape(path) for path in own)]))
    leaks = []
    for path in project_files:
        if path.suffix not in TEXT:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                leaks.append(f"{path.relative_to(root)}:{number}: {line.strip()[:100]}")
    assert not leaks


def test_no_index_host_is_in_a_file(project_files: list[Path], root: Path) -> None:
    """pip's own sources are the user's affair. The one index that is named is PyTorch's, in the Makefile."""
    pattern = re.compile(
        r"https?://[\w.-]*(?:" + "|".join(("pypi", "artifactory", "nexus", "devpi", "pythonhosted")) + ")"
    )
    leaks = [
        f"{path.relative_to(root)}:{number}"
        for path in project_files
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not leaks
