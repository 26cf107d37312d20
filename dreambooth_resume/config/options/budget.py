"""Options: what a run may take, and what becomes of a machine that was made for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from dreambooth_resume.config.options.declaration import FINITE, SECTION_CONFIG, free


class BudgetOptions(BaseModel):
    """What a run may take in all, and what becomes of a machine that was made for it."""

    model_config = SECTION_CONFIG

    max_hours: Annotated[float | None, FINITE, Field(gt=0), free()] = None
    """Hours of machines, over all attempts and loading included, after which the run saves and stops (exit code 76).
    Starts that ended before they had taken the run over are not counted. Raise it, or say none, to go on."""

    max_cost: Annotated[float | None, FINITE, Field(gt=0), free()] = None
    """US dollars, over all attempts, after which the run saves and stops (exit code 76). It needs the machine's price:
    price_per_hour, or a launcher that knows it."""

    max_interruptions: Annotated[int | None, Field(ge=0), free()] = None
    """How often the run may be interrupted (a machine lost or taken back, a crash): one more, and the next start stops
    with exit code 76 instead of training."""

    price_per_hour: Annotated[float | None, FINITE, Field(ge=0), free(recorded=False)] = None
    """What an hour of this machine costs, in US dollars: kept with each attempt, for the history and max_cost."""

    on_demand_price_per_hour: Annotated[float | None, FINITE, Field(ge=0), free(recorded=False)] = None
    """What the same hour costs where nobody may take the machine away: the history then says what was saved."""

    on_finish: Annotated[Literal["terminate", "stop", "keep"], free(recorded=False)] = "terminate"
    """What becomes of a machine that a launcher made, once the run is finished or was stopped on purpose. stop keeps
    its disk, and costs for it; keep leaves it running, and costs on. It does nothing where you made the machine."""

    on_failure: Annotated[Literal["terminate", "stop", "keep"], free(recorded=False)] = "terminate"
    """The same after an end that nobody restarts and nobody wanted: bad input, no access, damage, another attempt."""
