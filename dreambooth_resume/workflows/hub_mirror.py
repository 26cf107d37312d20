"""Each commit's LoRA on the Hub while the run goes on (`--hub_strategy every_save`): a mirror, never a second home.

A thread of its own looks at what is committed and uploads the newest, one at a time; what came between is left out. A
Hub that hangs or refuses is an alarm, tried again with the next look, and never in the way of training or saving. Kill
anywhere: an upload is one commit on the Hub, there or not, and the home knows nothing of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from dreambooth_resume.config.options.reporting import ReportingOptions
from dreambooth_resume.errors import DbrError
from dreambooth_resume.models.hub_upload import HubUpload, repository_name
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import CheckpointRef, Commit
from dreambooth_resume.runs.home import CHECKPOINT_PREFIX
from dreambooth_resume.runs.log import Log, LogWriter
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.hub_checkpoint import resumable_files
from dreambooth_resume.workflows.push import files_of

logger = logging.getLogger(__name__)

THREAD_NAME = "dbr-mirror"
LOOK_SECONDS, RETRY_SECONDS = 1.0, 60.0

Files = Callable[[CheckpointRef], Mapping[str, bytes]]
"""What is uploaded of a checkpoint, by its names in the repository."""
Send = Callable[[str, Mapping[str, bytes]], str]
"""Upload these files with this message; the repository's address."""


class HubMirror:
    """Uploads the newest of what `newest` shows."""

    def __init__(
        self,
        newest: Callable[[], CheckpointRef | None],
        *,
        files: Files,
        send: Send,
        look_seconds: float | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        self._newest = newest
        self._files = files
        self._send = send
        self._look_seconds = LOOK_SECONDS if look_seconds is None else look_seconds
        self._retry_seconds = RETRY_SECONDS if retry_seconds is None else retry_seconds
        self._closing = threading.Event()
        self._sent: int | None = None
        self.alarm: str | None = None
        """Why the Hub lags behind, for as long as it does."""
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)

    def start(self) -> None:
        """What is committed already is taken for sent: the attempt before saw to it, or the next commit does."""
        newest = self._newest()
        self._sent = newest.number if newest is not None else None
        self._thread.start()

    def close(self, *, timeout_seconds: float) -> bool:
        """Send no more; waits for the upload in flight, at most for so long. Is there none any more?"""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            wait_seconds = self._look_seconds
            while not self._closing.wait(wait_seconds):
                newest, wait_seconds = self._newest(), self._look_seconds
                if newest is not None and newest.number != self._sent and not self._sends(newest):
                    wait_seconds = self._retry_seconds
        except Exception as error:
            # A thread's root: a mirror that has a fault ends, and the run goes on without it.
            self.alarm = f"The mirror on the Hub has ended ({type(error).__name__}); the run itself goes on."
            logger.exception("The mirror on the Hub ended")

    def _sends(self, ref: CheckpointRef) -> bool:
        try:
            address = self._send(f"Step {ref.step}", self._files(ref))
        except DbrError as error:
            # A refused token, a Hub that is away, a checkpoint that was retired meanwhile: the next look may do better.
            self.alarm = f"The mirror on the Hub is behind at step {ref.step}: {error}"
            logger.info("%s", self.alarm)
            return False
        self._sent, self.alarm = ref.number, None
        logger.info("Step %d is on the Hub: %s", ref.step, address)
        return True


def open_mirror(options: ReportingOptions, storage: Storage, writer: LogWriter) -> HubMirror | None:
    """The mirror that the options ask for, not yet started; None for none."""
    if not options.push_to_hub or options.hub_strategy == "end":
        return None
    name = repository_name(options.hub_model_id, storage.describe())
    hub = HubUpload(token=options.hub_token)
    resumable = options.hub_strategy == "checkpoint"

    def files(ref: CheckpointRef) -> Mapping[str, bytes]:
        shown = files_of(storage, writer.log, ref, name=name)
        return {**shown, **resumable_files(storage, writer.log, ref)} if resumable else shown

    replaces = CHECKPOINT_PREFIX if resumable else None
    return HubMirror(
        lambda: newest_commit(writer.log),
        files=files,
        send=lambda message, sent: hub.upload(name, sent, message=message, replaces=replaces),
    )


def newest_commit(log: Log) -> CheckpointRef | None:
    """The checkpoint of the newest entry that is one, whatever became of it. Cheap: asked once a second."""
    number = next((entry.number for entry in reversed(log.entries) if isinstance(entry.body, Commit)), None)
    return ref_of(log, number) if number is not None else None
