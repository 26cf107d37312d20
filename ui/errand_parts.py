"""An errand as the visitor who waits for it sees it."""

from __future__ import annotations

from dreambooth_resume.ui.errands import Errand
from dreambooth_resume.ui.markup import problem, text
from dreambooth_resume.ui.view import span

_LINES_SHOWN = 12
_A_BUG = "dbr: this is a bug"

TOO_MANY = "Too many are waiting already. Try again in a few minutes."
GONE = "This page was served anew in the meantime, and nobody knows of it any more. Ask again."


def under_way(errand: Errand, *, what: str) -> str:
    """Whose turn it is, how long it has taken so far, and the last that it said."""
    if errand.state == "waiting":
        before = f"{errand.ahead} before it" if errand.ahead else "its turn comes"
        said, turn = f"Waiting: {before}.", "waits"
    else:
        told = errand.lines[-1] if errand.lines else "its process begins"
        said, turn = f"{what}: {span(errand.seconds)} so far. {told}", "runs"
    return (
        f'<div class="command command-running" role="status" aria-live="polite" data-turn="{turn}">'
        f'<span class="mark">…</span><div>{text(said)}<pre>{text(errand.typed)}</pre></div></div>'
    )


def without_result(errand: Errand) -> str:
    """Why there is nothing to show: it was ended, or failed."""
    if errand.state == "ended":
        return '<div class="command" role="status"><span class="mark">■</span><div>Ended, as asked.</div></div>'
    said = "\n".join(last_words(errand)) or "it ended without a word"
    return problem(said, f"Typed: {errand.typed}")


def last_words(errand: Errand) -> tuple[str, ...]:
    """What a process that failed said of it: its own message, without the traceback of a bug."""
    lines = errand.lines or tuple(errand.output.splitlines())
    message = next((place for place, line in enumerate(lines) if line.startswith(_A_BUG)), None)
    if message is not None:
        # The line above it is the error itself.
        return lines[max(0, message - 1) :]
    return lines[-_LINES_SHOWN:]
