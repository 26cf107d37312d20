"""What a run will take: memory, time, money and interruptions, each number with where it comes from.

Everything here is arithmetic on what it is given; `workflows.estimate` asks for that. Seconds, bytes, US dollars.
"""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth_resume.insight.gpus import Gpu
from dreambooth_resume.insight.interruptions import (
    Habits,
    Life,
    Outcome,
    best_interval,
    expected,
    expected_with_notice,
    replay_from_everywhere,
)
from dreambooth_resume.insight.memory import (
    FITS_SHARE,
    MOMENT_BYTES,
    Change,
    MemoryPart,
    Setting,
    encoding_bytes,
    memory_parts,
    needed_bytes,
    what_to_change,
)
from dreambooth_resume.insight.prices import GpuPrice

START_SECONDS = 60.0
"""Assumed: imports and 7 GB of weights from a disk, nothing to download."""
WAIT_SECONDS = 300.0
"""Assumed: until another machine is there, when one was taken away."""
NO_BF16 = "it has no bf16: --mixed_precision fp16, in a new run"
MEAN_SECONDS = 4 * 3600.0
"""Assumed: how long a machine on spot lasts."""
SAVE_SECONDS_PER_GB = 0.56
"""What a save beside the training adds to a step, for each GB of state: docs/benchmarks.md, on two CPU cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be computed, whatever computes it."""

    model: str
    setting: Setting
    steps: int
    effective_batch: int
    """Pictures a step, without class pictures."""
    latents: int
    """Pictures that are encoded before the training."""
    denoising_steps: int
    """Passes of the denoiser for all pictures that are made, guidance counted twice."""
    pictures: int
    """Pictures that are made while training, at its end, and of the class."""
    interval_steps: int | None
    interval_seconds: float | None
    processes: int = 1
    """GPUs of one kind in one machine that compute each step together. What is encoded and painted one does alone."""

    @property
    def step_flops(self) -> float:
        """Operations of one update."""
        setting = self.setting
        demands = setting.demands
        each = demands.forward_flops + demands.backward_flops
        if setting.checkpointing:
            each += demands.recomputed_flops
        return each * self.effective_batch * (2 if setting.doubles else 1)

    @property
    def state_bytes(self) -> float:
        """What a checkpoint holds of weights and moments."""
        return float((4 + MOMENT_BYTES[self.setting.optimizer]) * self.setting.demands.adapter_parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a machine is for this work: a step's seconds, and operations a second for the rest."""

    step_seconds: float
    flops: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where it might run."""

    name: str
    title: str
    speed: Speed
    memory_bytes: int | None = None
    """None: a CPU, whose memory is shared."""
    has_bf16: bool = True
    price: GpuPrice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """How a run is interrupted. `mean` is a machine's life; `is_assumed`: nobody said it."""

    mean: float = MEAN_SECONDS
    wait: float = WAIT_SECONDS
    restart: float = START_SECONDS
    is_assumed: bool = True
    trace: tuple[Life, ...] = ()
    trace_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """What interruptions make of a run, without a word and with a notice that is heeded; None: it would never end."""

    interval_seconds: float
    """Between two saves, as the options have it."""
    best_interval_seconds: float
    best_interval_steps: int
    save_seconds: float
    """What a save adds."""
    without_notice: Outcome | None
    goodput: float | None
    with_notice: Outcome | None
    at_best_interval: Outcome | None
    replayed: Outcome | None = None
    """The mean over starts at each row of the trace."""
    replayed_worst: Outcome | None = None
    replayed_goodput: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnMachine:
    """The run on one machine, first as if nobody interrupted it."""

    machine: Machine
    fits: bool | None
    changes: tuple[Change, ...]
    """What to change first so that it fits."""
    remark: str
    """What else is in the way; empty: nothing."""
    train_seconds: float
    start_seconds: float
    encode_seconds: float
    pictures_seconds: float
    saves_seconds: float
    total_seconds: float
    interrupted: Interrupted
    spot_cost: float | None
    """With the expected interruptions, without notices."""
    on_demand_cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """All of it."""

    workload: Workload
    parts: tuple[MemoryPart, ...]
    needed_bytes: float
    encoding_bytes: float
    step_flops: float
    chances: Chances
    machines: tuple[OnMachine, ...]


def estimate(workload: Workload, machines: tuple[Machine, ...], chances: Chances) -> Estimate:
    """What the run takes on each of the machines."""
    return Estimate(
        workload=workload,
        parts=memory_parts(workload.setting),
        needed_bytes=needed_bytes(workload.setting),
        encoding_bytes=encoding_bytes(workload.setting),
        step_flops=workload.step_flops,
        chances=chances,
        machines=tuple(_on_machine(workload, machine, chances) for machine in machines),
    )


def speed_of(gpu: Gpu, workload: Workload, *, efficiency: float | None = None) -> Speed:
    """By the data sheet, and the share of it that a training gets."""
    is_float32 = workload.setting.precision == "no"
    peak = gpu.float32_flops if is_float32 else gpu.half_flops
    share = gpu.efficiency if efficiency is None else efficiency
    source = (
        f"{workload.step_flops / 1e12:,.1f} TFLOP a step, at {share:g} of {peak / 1e12:g} TFLOPS "
        f"({'given' if efficiency is not None else 'assumed'})"
        f"{f', on {workload.processes} GPUs at once' if workload.processes > 1 else ''}"
    )
    seconds = workload.step_flops / (share * peak * workload.processes)
    return Speed(step_seconds=seconds, flops=share * peak, source=source)


def measured_speed(step_seconds: float, workload: Workload, *, source: str) -> Speed:
    """From a step's real seconds."""
    flops = workload.step_flops / step_seconds / workload.processes
    return Speed(step_seconds=step_seconds, flops=flops, source=source)


def fits(setting: Setting, memory_bytes: int) -> bool:
    """Whether the training and the encoding before it leave a tenth of the memory."""
    return max(needed_bytes(setting), encoding_bytes(setting)) <= FITS_SHARE * memory_bytes


def _on_machine(workload: Workload, machine: Machine, chances: Chances) -> OnMachine:
    demands, speed = workload.setting.demands, machine.speed
    train = workload.steps * speed.step_seconds
    encode = workload.latents * demands.encode_flops / speed.flops
    pictures = (
        workload.denoising_steps * demands.forward_flops + workload.pictures * demands.decode_flops
    ) / speed.flops
    interval = _interval_seconds(workload, speed)
    save = SAVE_SECONDS_PER_GB * workload.state_bytes / 1e9
    saves = save * max(1.0, train / interval)
    interrupted = _interrupted(speed, chances, work=train + encode + pictures, interval=interval, save=save)
    total = chances.restart + train + encode + pictures + saves
    price, outcome = machine.price, interrupted.without_notice
    return OnMachine(
        machine=machine,
        fits=None if machine.memory_bytes is None else fits(workload.setting, machine.memory_bytes),
        changes=()
        if machine.memory_bytes is None
        else what_to_change(workload.setting, machine.memory_bytes, has_bf16=machine.has_bf16),
        remark="" if machine.has_bf16 or workload.setting.precision != "bf16" else NO_BF16,
        train_seconds=train,
        start_seconds=chances.restart,
        encode_seconds=encode,
        pictures_seconds=pictures,
        saves_seconds=saves,
        total_seconds=total,
        interrupted=interrupted,
        spot_cost=_cost(outcome.paid if outcome else None, price.spot_per_hour if price else None),
        on_demand_cost=_cost(total, price.on_demand_per_hour if price else None),
    )


def _cost(seconds: float | None, per_hour: float | None) -> float | None:
    return None if seconds is None or per_hour is None else seconds / 3600.0 * per_hour


def _interval_seconds(workload: Workload, speed: Speed) -> float:
    """Whichever comes first; a step is the least."""
    wished = [workload.interval_seconds] if workload.interval_seconds is not None else []
    if workload.interval_steps is not None:
        wished.append(workload.interval_steps * speed.step_seconds)
    return max(min(wished), speed.step_seconds)


def _interrupted(speed: Speed, chances: Chances, *, work: float, interval: float, save: float) -> Interrupted:
    habits = Habits(work=work, interval=interval, save=save, restart=chances.restart, wait=chances.wait)
    best_steps = max(1, round(best_interval(save=save, mean=chances.mean) / speed.step_seconds))
    best = Habits(
        work=work, interval=best_steps * speed.step_seconds, save=save, restart=chances.restart, wait=chances.wait
    )
    without = expected(habits, mean=chances.mean)
    replayed = replay_from_everywhere(chances.trace, habits) if chances.trace else None
    return Interrupted(
        interval_seconds=interval,
        best_interval_seconds=best.interval,
        best_interval_steps=best_steps,
        save_seconds=save,
        without_notice=without,
        goodput=without.goodput(work) if without else None,
        with_notice=expected_with_notice(habits, mean=chances.mean),
        at_best_interval=expected(best, mean=chances.mean),
        replayed=replayed[0] if replayed else None,
        replayed_worst=replayed[1] if replayed else None,
        replayed_goodput=replayed[0].goodput(work) if replayed else None,
    )
