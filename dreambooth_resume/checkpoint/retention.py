"""Which checkpoints a commit retires (DESIGN: rule 7). A pure function of the log."""

from __future__ import annotations

from dreambooth_resume.runs.log import Log


def to_retire(
    log: Log, *, total_limit: int | None, keep_every: int | None = None, keep: frozenset[int] = frozenset()
) -> tuple[int, ...]:
    """Numbers to retire with the commit that comes next, so that `total_limit` checkpoints are kept, it included.

    Kept are the newest of the line; those that were gone back over fill up what is left, newest first. Set-aside ones
    neither count nor are retired, and neither do those of the line whose step `keep_every` divides, and those in
    `keep`. A limit of None keeps all. Raises ValueError for a limit under 1.
    """
    if total_limit is None:
        return ()
    if total_limit < 1:
        raise ValueError(f"total_limit must be at least 1, not {total_limit}")
    others_kept = total_limit - 1
    line = [number for number in log.usable_line() if keep_every is None or log.commit(number).step % keep_every]
    newest_first = [number for number in (*reversed(line), *reversed(log.off_line())) if number not in keep]
    return tuple(sorted(newest_first[others_kept:]))
