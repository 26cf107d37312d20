"""May this run go on with those options? Each field declares it; here what was given is compared with the run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dreambooth_resume.config.load import GivenOptions, record, resolve
from dreambooth_resume.config.messages import plain
from dreambooth_resume.config.options.declaration import ChangePolicy
from dreambooth_resume.config.schema import ALIASES, OPTIONS
from dreambooth_resume.config.unknown import nearest_name
from dreambooth_resume.errors import BadInput

_BATCH = ("train_batch_size", "gradient_accumulation_steps")
_HEAD = ("option", "the run has", "given", "by", "on a resume")
_BEFORE_IT_EXISTED: Mapping[str, object] = {"use_aspect_ratio_buckets": False, "masked_training": False}
"""What a run did that lacks the option, where today's default stands for a choice at the first start."""
_REFUSING = (ChangePolicy.REFUSED, ChangePolicy.NEVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionChange:
    """An option that was given with another value than the run has. Values are as `record` has them."""

    name: str
    before: object
    after: object
    policy: ChangePolicy
    where: str
    advice: str | None
    allowed: bool = False
    """The policy is `refused`, and the user has named the option in --allow_change."""

    @property
    def is_refused(self) -> bool:
        return self.policy in _REFUSING and not self.allowed

    @property
    def changes_the_result(self) -> bool:
        """The run does not end in the bytes that it would have ended in without the change."""
        return self.policy is ChangePolicy.APPLIED or self.allowed

    @property
    def effect(self) -> str:
        """What a resume does about it: `applied: the schedule is computed from the new rate from the next step on`."""
        if self.allowed:
            return "refused, and allowed: the new value counts from the next step on"
        return f"{self.policy}: {self.advice}" if self.advice else str(self.policy)

    @property
    def line(self) -> str:
        """One line for a user: `learning_rate: 0.0001 -> 5e-05 (--learning_rate): applied: …`."""
        return f"{self.name}: {plain(self.before)} -> {plain(self.after)} ({self.where}): {self.effect}"


def compare(recorded: Mapping[str, object], given: GivenOptions) -> tuple[OptionChange, ...]:
    """Every given option whose value is not the run's, in the schema's order. Options not given never differ.

    `recorded` is what `record` returned at the start, brought up to date with the changes that were applied since.
    Raises what `resolve` and `allowed_names` raise.
    """
    options = resolve(given, recorded=recorded)
    allowed = allowed_names(given)
    now = record(options)
    changes: list[OptionChange] = []
    for name, option in OPTIONS.items():
        # A run that an older version began has no record of newer options: it ran with their defaults.
        before = recorded.get(name, option.default)
        if before is None:
            before = _BEFORE_IT_EXISTED.get(name)
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
                allowed=name in allowed and option.policy is ChangePolicy.REFUSED,
            )
        )
    return tuple(_in_context(change, now, given, recorded) for change in changes)


def allowed_names(given: GivenOptions) -> frozenset[str]:
    """The options that --allow_change names. Raises BadInput for one that isn't there, or that nothing allows."""
    value, where = given.values.get("allow_change"), given.sources.get("allow_change")
    names = [ALIASES.get(name, name) for name in str(value).split(",")] if value is not None else []
    for name in names:
        if name not in OPTIONS:
            near = nearest_name(name)
            fix = f"did you mean {near}?" if near in OPTIONS else "search the options with: dbr options WORD"
            raise BadInput(f"{name[:40]} is no option", where=where, fix=fix)
        option = OPTIONS[name]
        if option.policy is ChangePolicy.NEVER:
            raise BadInput(f"{name} can't be allowed to change", where=where, fix=option.advice)
    return frozenset(names)


def table(changes: Sequence[OptionChange]) -> str:
    """The changes as aligned columns, for whoever has to see all of them at once. Empty for none."""
    if not changes:
        return ""
    rows = [_HEAD, *(_row(change) for change in changes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "Given otherwise than the run has it:\n" + "\n".join(f"  {line}" for line in lines)


def refuse_if_refused(changes: Sequence[OptionChange]) -> None:
    """Raises BadInput that names every refused change and what to do about it."""
    refused = [change for change in changes if change.is_refused]
    if not refused:
        return
    values = ", ".join(f"{change.name} {plain(change.before)} (not {plain(change.after)})" for change in refused)
    advice = list(dict.fromkeys(change.advice for change in refused if change.advice))
    if any("new run" in line for line in advice):
        advice.append("a new run has an output_dir of its own")
    if all(change.policy is ChangePolicy.REFUSED for change in refused):
        flag = f"--allow_change {','.join(change.name for change in refused)}"
        advice.append(
            f"or add {flag} to go on with the new value{'s' if len(refused) > 1 else ''} from the next step on"
        )
    raise BadInput(
        f"the run has {values}",
        where=", ".join(change.where for change in refused),
        fix=f"leave {'it' if len(refused) == 1 else 'them'} out to go on as before; {'; '.join(advice)}",
    )


def _row(change: OptionChange) -> tuple[str, str, str, str, str]:
    return change.name, plain(change.before), plain(change.after), change.where, change.effect


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
        return replace(change, advice=f"the run's length is max_train_steps {now['max_train_steps']}: change that one")
    return change


def _samples_a_step(values: Mapping[str, object]) -> int:
    batch, accumulation = (values.get(name, OPTIONS[name].default) for name in _BATCH)
    assert isinstance(batch, int)
    assert isinstance(accumulation, int)
    return batch * accumulation
