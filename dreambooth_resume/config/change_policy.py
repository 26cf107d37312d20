"""May this run go on with those options? Each field declares it; here what was given is compared with the run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dreambooth_resume.config.load import GivenOptions, record, resolve
from dreambooth_resume.config.messages import plain
from dreambooth_resume.config.options.declaration import ChangePolicy
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.errors import BadInput

_BATCH = ("train_batch_size", "gradient_accumulation_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionChange:
    """An option that was given with another value than the run has. Values are as `record` has them."""

    name: str
    before: object
    after: object
    policy: ChangePolicy
    where: str
    advice: str | None

    @property
    def line(self) -> str:
        """One line for a user: `learning_rate: 0.0001 -> 5e-05 (--learning_rate): applied, …`."""
        end = f", {self.advice}" if self.advice else ""
        return f"{self.name}: {plain(self.before)} -> {plain(self.after)} ({self.where}): {self.policy}{end}"


def compare(recorded: Mapping[str, object], given: GivenOptions) -> tuple[OptionChange, ...]:
    """Every given option whose value is not the run's, in the schema's order. Options not given never differ.

    `recorded` is what `record` returned at the start, brought up to date with the changes that were applied since.
    Raises what `resolve` raises.
    """
    options = resolve(given, recorded=recorded)
    now = record(options)
    changes: list[OptionChange] = []
    for name, option in OPTIONS.items():
        # A run that an older version began has no record of newer options: it ran with their defaults.
        before = recorded.get(name, option.default)
        if name not in given.values or name not in now or now[name] == before:
            continue
        changes.append(
            OptionChange(
                name=name,
                before=before,
                after=now[name],
                policy=option.policy,
                where=given.sources[name],
                advice=option.advice,
            )
        )
    return tuple(_in_context(change, now, given, recorded) for change in changes)


def refuse_if_refused(changes: Sequence[OptionChange]) -> None:
    """Raises BadInput that names every refused change and what to do about it."""
    refused = [change for change in changes if change.policy is ChangePolicy.REFUSED]
    if not refused:
        return
    values = ", ".join(f"{change.name} {plain(change.before)} (not {plain(change.after)})" for change in refused)
    advice = list(dict.fromkeys(change.advice for change in refused if change.advice))
    raise BadInput(
        f"the run has {values}",
        where=", ".join(change.where for change in refused),
        fix=f"leave {'it' if len(refused) == 1 else 'them'} out to go on as before; {'; '.join(advice)}"
        + ("; a new run has an output_dir of its own" if any("new run" in line for line in advice) else ""),
    )


def _in_context(
    change: OptionChange, now: Mapping[str, object], given: GivenOptions, recorded: Mapping[str, object]
) -> OptionChange:
    """The change, with the policy that it has beside the others."""
    if change.name in _BATCH and _samples_a_step(now) == _samples_a_step(recorded):
        # The samples of a step are fixed, the portions in which they are computed are not.
        return replace(
            change, policy=ChangePolicy.APPLIED, advice="a step has the same samples, computed in other portions"
        )
    if change.name == "num_train_epochs" and now["max_train_steps"] is not None:
        if "max_train_steps" in given.values:
            return replace(change, policy=ChangePolicy.FREE, advice="it has no effect beside max_train_steps")
        return replace(
            change,
            policy=ChangePolicy.REFUSED,
            advice=f"the run's length is max_train_steps {now['max_train_steps']}: change that one",
        )
    return change


def _samples_a_step(values: Mapping[str, object]) -> int:
    batch, accumulation = (values.get(name, OPTIONS[name].default) for name in _BATCH)
    assert isinstance(batch, int)
    assert isinstance(accumulation, int)
    return batch * accumulation
