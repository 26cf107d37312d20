"""The own options of the slurm launcher, and the lines of a job file that they become."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from dreambooth_resume.config.options.declaration import free
from dreambooth_resume.launch.base import SETTINGS_CONFIG

_WORD = re.compile(r"[\w.,:@/+&|*()\[\]=-]+")
_TIME = re.compile(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?)|(?:(?:(\d+):)?(\d+):(\d+))|(\d+)")


def _is_word(value: str | None) -> str | None:
    if value is not None and _WORD.fullmatch(value) is None:
        raise ValueError("is no value of sbatch: it takes letters, digits and . , : @ / + & | * ( ) [ ] = -")
    return value


def _is_time(value: str | None) -> str | None:
    if value is not None and limit_seconds(value) is None:
        raise ValueError("is no time of Slurm; write minutes, hours:minutes:seconds or days-hours, as in 04:00:00")
    return value


def limit_seconds(text: str) -> int | None:
    """A time as sbatch and sinfo write it; None for `infinite` and for what is none. Source: sbatch(1), --time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    days, day_hours, day_minutes, day_seconds, hours, minutes, seconds, only_minutes = (
        int(group or 0) for group in match.groups()
    )
    in_hours = days * 24 + day_hours + hours
    return (in_hours * 60 + day_minutes + minutes + only_minutes) * 60 + day_seconds + seconds


_Word = Annotated[str | None, AfterValidator(_is_word), free()]


class SlurmSettings(BaseModel):
    """Nodes of this cluster."""

    model_config = SETTINGS_CONFIG

    partition: _Word = None
    """The partition. null: the cluster's default."""

    time: Annotated[str | None, AfterValidator(_is_time), free()] = None
    """Time limit of one turn, such as 04:00:00: before it is over the run saves and is queued again, as often as
    needed. null: the partition's."""

    gpus: _Word = "1"
    """GPUs, as a number or TYPE:NUMBER, such as a100:1. none: asks for none, on clusters that give them anyway."""

    gres: _Word = None
    """Generic resources as --gres of sbatch takes them, in place of --gpus."""

    cpus_per_task: Annotated[int | None, Field(ge=1), free()] = None
    """Processors. null: what the cluster gives."""

    mem: _Word = None
    """Memory, such as 32G. null: what the cluster gives."""

    account: _Word = None
    """The account that the time is taken from. null: your default one."""

    qos: _Word = None
    """Quality of service. null: your default one."""

    constraint: _Word = None
    """Features that the node must have, such as a100. null: any node. A resume on another kind of GPU is equivalent,
    not exact."""

    reservation: _Word = None
    """A reservation to run in. null: none."""

    signal_seconds: Annotated[int, Field(ge=30, le=65535), free()] = 120
    """How long before the time limit the run is told to save. Slurm may tell it up to a minute earlier."""

    def directives(self) -> list[str]:
        """Options of sbatch for what was asked for."""
        asked = {
            "partition": self.partition,
            "time": self.time,
            "gres": self.gres or (f"gpu:{self.gpus}" if self.gpus else None),
            "cpus-per-task": self.cpus_per_task,
            "mem": self.mem,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "reservation": self.reservation,
        }
        return [f"--{name}={value}" for name, value in asked.items() if value is not None]
