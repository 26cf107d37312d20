"""What an hour of a GPU costs: a small table with its date, and the user's own price before it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPrice:
    """US dollars an hour of a machine; None: not known."""

    spot_per_hour: float | None
    on_demand_per_hour: float | None
    source: str


def price_of(
    gpu: str | None, *, per_hour: float | None = None, on_demand_per_hour: float | None = None, gpus: int = 1
) -> GpuPrice | None:
    """The given prices, of the whole machine, else the table's for so many GPUs; None if neither is there."""
    if per_hour is not None:
        return GpuPrice(spot_per_hour=per_hour, on_demand_per_hour=on_demand_per_hour, source="as given")
    listed = _times(gpus, _listed().get(gpu or ""))
    if listed is None or on_demand_per_hour is None:
        return listed
    return GpuPrice(
        spot_per_hour=listed.spot_per_hour,
        on_demand_per_hour=on_demand_per_hour,
        source=f"on demand as given; {listed.source}",
    )


def _times(gpus: int, price: GpuPrice | None) -> GpuPrice | None:
    if price is None or gpus == 1:
        return price
    return GpuPrice(
        spot_per_hour=None if price.spot_per_hour is None else gpus * price.spot_per_hour,
        on_demand_per_hour=None if price.on_demand_per_hour is None else gpus * price.on_demand_per_hour,
        source=f"{gpus} x {price.source}",
    )


@cache
def _listed() -> dict[str, GpuPrice]:
    table = json.loads((files("dreambooth_resume.insight") / "prices.json").read_text(encoding="utf-8"))
    return {
        name: GpuPrice(
            spot_per_hour=row["spot_per_hour"],
            on_demand_per_hour=row["on_demand_per_hour"],
            source=f"{row['machine']} ({row['source']}; table of {table['date']}: it goes out of date)",
        )
        for name, row in table["gpus"].items()
    }
