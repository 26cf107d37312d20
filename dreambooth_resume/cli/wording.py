"""Numbers as people read them."""

from __future__ import annotations

from dreambooth_resume.runs.history import Attempt

UNKNOWN = "-"


def clock(seconds: float | None) -> str:
    """A span as `2:04` or `1:02:11`; `-` if unknown."""
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def ago(seconds: float | None) -> str:
    """An age in its largest fitting unit: `14 s ago`, `4 min ago`, `3 h ago`, `2 days ago`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min ago"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h ago"
    return f"{seconds / 86400:.0f} days ago"


def size(size_bytes: int) -> str:
    """`812 bytes`, `3.1 MB`, `7.4 GB`; 1 MB is 10^6 bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"


def count(number: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def why_it_ended(attempt: Attempt) -> str:
    """Why an attempt ended, and what was unusual about its start."""
    remarks = [attempt.reason]
    remarks += [f"set {aside.folder} aside: {aside.reason}" for aside in attempt.set_aside]
    if attempt.going_back is not None:
        remarks.append(f"went back to {attempt.base_folder}, as asked")
    if attempt.reopened:
        remarks.append("reopened the finished run")
    return "; ".join(remarks)
