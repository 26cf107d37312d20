"""Which clouds there are, and which of them this machine is in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Protocol

from dreambooth_resume.errors import BadInput
from dreambooth_resume.preemption.metadata import MetadataTrouble
from dreambooth_resume.preemption.notice_file import NoticeFile
from dreambooth_resume.preemption.poller import PolledSource
from dreambooth_resume.runs.notice import Lead, Notice

CLOUDS: dict[str, str] = {
    "aws": "dreambooth_resume.preemption.aws:AwsSource",
    "gcp": "dreambooth_resume.preemption.gcp:GcpSource",
    "azure": "dreambooth_resume.preemption.azure:AzureSource",
}
_DETECTION_SECONDS = 0.5
_LOOKS_AGAIN_AFTER_SECONDS = (15.0, 30.0, 60.0, 120.0)
"""A metadata service that did not answer once, on a machine that only boots, is asked again so long after."""
_NEVER_AGAIN_SECONDS = 86_400.0


NONE, AUTO = "none", "auto"


class CloudSource(PolledSource, Protocol):
    """A cloud's notices."""

    @property
    def lead_seconds(self) -> float: ...

    def is_here(self, *, timeout_seconds: float) -> bool: ...


def cloud_source(name: str) -> CloudSource:
    """The source called `name` in CLOUDS."""
    module, _, cls = CLOUDS[name].partition(":")
    source: CloudSource = getattr(import_module(module), cls)()
    return source


class AutoSource:
    """`--spot auto`: finds out at its first looks which cloud this is, and is that cloud's source from then on.

    Off a cloud a look takes half a second, on the watcher's thread; the first says so. After the fifth, four minutes
    later, nobody is asked any more.
    """

    name = "the cloud"

    def __init__(
        self,
        *,
        tell: Callable[[str], None],
        clouds: Callable[[], Sequence[CloudSource]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._clouds = clouds or (lambda: [cloud_source(name) for name in CLOUDS])
        self._monotonic = monotonic
        self._found: CloudSource | None = None
        self._looks = 0
        self._next_look_s: float | None = None
        """None: at once before the first look, and never again after the last."""

    @property
    def interval_seconds(self) -> float:
        if self._found is not None:
            return self._found.interval_seconds
        if self._next_look_s is not None:
            return max(0.1, self._next_look_s - self._monotonic())
        return _NEVER_AGAIN_SECONDS if self._looks else 0.0

    def lead(self) -> Lead | None:
        """How long ahead this cloud says that a machine goes; None off a cloud, and before that is known."""
        return None if self._found is None else Lead(source=self._found.name, seconds=self._found.lead_seconds)

    def look(self) -> Notice | None:
        if self._found is None and self._is_due():
            self._find()
        return self._found.look() if self._found is not None else None

    def _is_due(self) -> bool:
        if self._next_look_s is None:
            return self._looks == 0
        return self._monotonic() >= self._next_look_s

    def _find(self) -> None:
        self._found = _first_that_is_here(self._clouds())
        if self._found is not None:
            self._tell(f"Watching for notices of {self._found.name}.")
            return
        if self._looks == 0:
            self._tell("No cloud's metadata service answers here: only signals and dbr stop are heeded (--spot).")
        left = _LOOKS_AGAIN_AFTER_SECONDS[self._looks :]
        self._next_look_s = self._monotonic() + left[0] if left else None
        self._looks += 1


def _first_that_is_here(clouds: Sequence[CloudSource]) -> CloudSource | None:
    def is_here(cloud: CloudSource) -> bool:
        try:
            return cloud.is_here(timeout_seconds=_DETECTION_SECONDS)
        except MetadataTrouble:
            return False

    with ThreadPoolExecutor(len(clouds), thread_name_prefix="which-cloud") as pool:
        return next((cloud for cloud, here in zip(clouds, pool.map(is_here, clouds), strict=True) if here), None)


def polled_sources(*, spot: str, notice_file: str | None, tell: Callable[[str], None]) -> list[PolledSource]:
    """What the watcher's thread is to ask: a cloud by its name, `auto` or `none`, and a file.

    Raises BadInput for a folder in place of the file: it is there always, so every attempt would leave at once.
    """
    sources: list[PolledSource] = []
    if spot == AUTO:
        sources.append(AutoSource(tell=tell))
    elif spot != NONE:
        sources.append(cloud_source(spot))
    if notice_file is not None:
        if Path(notice_file).is_dir():
            raise BadInput(
                "is a folder; a notice is a file that appears",
                where=f"--notice_file {notice_file}",
                fix=f"name a file in it that something else makes, such as {Path(notice_file) / 'notice'}",
            )
        sources.append(NoticeFile(Path(notice_file)))
    return sources
