"""A launcher to machines that see no folder of this one, belong to it and cost money; what is asked of it is noted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel

from dreambooth_resume.config.options.declaration import free
from dreambooth_resume.errors import AccessDenied, ComeBack
from dreambooth_resume.launch.base import SETTINGS_CONFIG, Job, JobState, JobStatus, LaunchRequest
from dreambooth_resume.launch.local import LocalLauncher
from dreambooth_resume.runs.entries import Price

ENTRY = ("tests.fakes.far_launcher:FarLauncher", "tests.fakes.far_launcher:FarSettings", "far away")
"""Its line in the table of launchers."""


class FarSettings(BaseModel):
    """Machines of nobody."""

    model_config = SETTINGS_CONFIG

    zone: Annotated[str, free()] = "here"
    """Which of them."""


class FarLauncher(LocalLauncher):
    """What it was asked, and how it answers, is the class's: launchers are made anew by each command."""

    shares_folders = False
    needs_package = True
    owns_machine = True
    started: list[LaunchRequest] = []  # noqa: RUF012
    released: list[str] = []  # noqa: RUF012
    ended: list[tuple[str, str]] = []  # noqa: RUF012
    state: JobState = "ended"
    fails = False
    silent = False
    """It answers nothing about what was started."""
    while_starting: Callable[[LaunchRequest], object] = staticmethod(lambda _request: None)
    lost: str | None = None
    """A job that was started, and of which the home knows no name."""

    def __init__(self, settings: FarSettings) -> None:
        self.settings = settings  # type: ignore[assignment]

    @classmethod
    def reset(cls) -> None:
        """Nobody has asked for anything yet."""
        cls.started, cls.released, cls.ended = [], [], []
        cls.state, cls.fails, cls.silent, cls.lost = "ended", False, False, None
        cls.while_starting = staticmethod(lambda _request: None)

    def plan(self, request: LaunchRequest) -> str:
        return " ".join(request.command)

    def price(self, request: LaunchRequest) -> Price | None:
        return Price(per_hour=0.42, on_demand_per_hour=1.2)

    def start(self, request: LaunchRequest) -> Job:
        if self.fails:
            raise ComeBack("no machine is free")
        self.started.append(request)
        type(self).while_starting(request)
        return Job(name=request.name, values={"zone": "here"})

    def find(self, launch_id: str, name: str) -> Job | None:
        self._answer()
        return Job(name=name, values={"zone": "here"}) if self.lost == name else None

    def look(self, job: Job) -> JobStatus:
        self._answer()
        return JobStatus(state=self.state, because="as the test says")

    def interrupt(self, job: Job) -> bool:
        self._answer()
        return False

    def release(self, job: Job) -> None:
        self._answer()
        self.released.append(job.name)

    def end_machine(self, launch_id: str, how: str) -> None:
        if self.fails:
            raise AccessDenied("autoscaling:UpdateAutoScalingGroup is missing")
        self.ended.append((launch_id, how))

    def _answer(self) -> None:
        if self.silent:
            raise ComeBack("far away does not answer")
