"""What this machine keeps of a run whose home is elsewhere: a state that could not be committed, fetched pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.data.inputs import FETCHED_FOLDER
from dreambooth_resume.runs.home import RESULT_FILES
from dreambooth_resume.runs.record import RunRecord
from dreambooth_resume.workflows.home import STAGED, cache_folder_for


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftHere:
    """Files of this machine, and the stages they lie in."""

    stages: tuple[Path, ...]
    files: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files if file.is_file())

    def delete(self) -> None:
        """Remove the files and the folders that are empty then. What lies beside them, such as the result, stays."""
        for file in self.files:
            file.unlink(missing_ok=True)
        for folder in sorted({parent for file in self.files for parent in self._parents(file)}, reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _parents(self, file: Path) -> list[Path]:
        return [folder for folder in file.parents for stage in self.stages if folder.is_relative_to(stage)]


def find_left_here(
    address: str, record: RunRecord | None, pictures: Collection[str], *, stage_dir: Path | None
) -> LeftHere:
    """What lies here of the run in `address`, whose `pictures` (digests) these are.

    Looked for in `stage_dir`, and where a stage is if none was named: in the user's cache, and in the default of
    output_dir in the current folder.
    """
    own = cache_folder_for(address)
    places = [own, Path(str(OPTIONS["output_dir"].default)), *([stage_dir] if stage_dir else [])]
    found = {stage: _files(stage, record, pictures) for stage in dict.fromkeys(places)}
    # Nobody chose the folder in the cache, so nobody looks for the result there.
    found[own] += [own / name for name in RESULT_FILES if (own / name).is_file()]
    return LeftHere(
        stages=tuple(stage for stage, files in found.items() if files),
        files=tuple(file for files in found.values() for file in files),
    )


def _files(stage: Path, record: RunRecord | None, pictures: Collection[str]) -> list[Path]:
    staged = sorted((stage / STAGED / record.run_id).rglob("*")) if record else []
    fetched = [stage / FETCHED_FOLDER / digest for digest in sorted(pictures)]
    return [file for file in [*staged, *fetched] if file.is_file()]
