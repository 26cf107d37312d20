"""Options of the loss and of the noise that contradict each other, or have no effect beside others."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.errors import BadInput

_BIAS = "timestep_bias_"
_NOT_BESIDE_EDM = (
    "snr_gamma",
    "debiased_estimation_loss",
    "loss_type",
    "input_perturbation",
    "min_timestep",
    "max_timestep",
    "weighting_scheme",
    "timestep_bias_strategy",
)


def refuse_loss_contradictions(options: TrainOptions, sources: Mapping[str, str]) -> None:
    """Raises BadInput for two weightings of one loss, two ways to draw timesteps, and an empty range of them."""
    loss = options.loss
    if loss.debiased_estimation_loss and loss.snr_gamma is not None:
        raise BadInput(
            f"debiased_estimation_loss and snr_gamma {loss.snr_gamma:g} are two weightings of one loss",
            where=sources.get("debiased_estimation_loss") or sources.get("snr_gamma"),
            fix="leave out one of the two",
        )
    if loss.weighting_scheme != "none" and loss.timestep_bias_strategy != "none":
        raise BadInput(
            f"weighting_scheme {loss.weighting_scheme} and timestep_bias_strategy {loss.timestep_bias_strategy} are "
            "two ways to draw the timesteps",
            where=sources.get("weighting_scheme") or sources.get("timestep_bias_strategy"),
            fix="leave out one of the two",
        )
    for first, end in (("min_timestep", "max_timestep"), ("timestep_bias_begin", "timestep_bias_end")):
        low, high = getattr(loss, first), getattr(loss, end)
        if high is not None and low >= high:
            raise BadInput(
                f"{first} {low} is not below {end} {high}: no timestep is left",
                where=sources.get(first) or sources.get(end),
                fix=f"give a lower --{first} or a higher --{end}",
            )
    if loss.do_edm_style_training:
        refuse_beside_edm(options, sources, because="do_edm_style_training has weights of its own")


def refuse_beside_edm(options: TrainOptions, sources: Mapping[str, str], *, because: str) -> None:
    """Raises BadInput for what has no meaning in the EDM formulation.

    Called again once the base model is known to be an EDM one.
    """
    for name in _NOT_BESIDE_EDM:
        value = getattr(options.loss, name)
        if value != OPTIONS[name].default:
            said = f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            raise BadInput(
                f"{said.removesuffix(' True')} does not go with EDM-style training: {because}",
                where=sources.get(name, name),
                fix=f"leave out --{name}",
            )


def refuse_timesteps_beyond(options: TrainOptions, sources: Mapping[str, str], *, train_timesteps: int) -> None:
    """Raises BadInput for timesteps that the base model does not have: known once its configuration is read."""
    loss = options.loss
    ends = {"min_timestep": loss.min_timestep + 1, "max_timestep": loss.max_timestep or 1}
    if loss.timestep_bias_strategy == "range":
        ends["timestep_bias_end"] = loss.timestep_bias_end
    for name, end in ends.items():
        if end > train_timesteps:
            raise BadInput(
                f"{getattr(loss, name)} is beyond the base model's {train_timesteps} timesteps",
                where=sources.get(name, name),
                fix=f"give a --{name} of at most {train_timesteps - (name == 'min_timestep')}",
            )


def remark_on_bias(options: TrainOptions, *, train_timesteps: int) -> str:
    """What is said of a timestep bias that no trained timestep gets, or all of them, or some of those it names alone.

    Known once the base model's configuration is read. Empty where nothing is odd.
    """
    loss = options.loss
    if (biased := loss.biased_timesteps(train_timesteps)) is None:
        return ""
    first, end = loss.min_timestep, loss.max_timestep or train_timesteps
    meant = f"timestep_bias_strategy {loss.timestep_bias_strategy} means timesteps {biased[0]} to {biased[1] - 1}"
    trained = f"{first} to {end - 1} are trained"
    low, high = max(biased[0], first), min(biased[1], end)
    if low >= high:
        return f"{meant}, and {trained}: it has no effect."
    if (low, high) == (first, end):
        return f"{meant}, and {trained}: all of them are drawn alike, so it has no effect."
    return "" if (low, high) == biased else f"{meant}, and {trained}: it counts for {low} to {high - 1}."


def without_effect_on_the_loss(options: TrainOptions) -> dict[str, str]:
    """Option to the reason why it has no effect."""
    loss = options.loss
    idle: dict[str, str] = {}
    if not loss.is_huber:
        idle |= dict.fromkeys(("huber_c", "huber_schedule"), "only loss_type huber and smooth_l1 have it")
    if loss.weighting_scheme != "logit_normal":
        idle |= dict.fromkeys(("logit_mean", "logit_std"), "only weighting_scheme logit_normal has it")
    if loss.weighting_scheme != "mode":
        idle["mode_scale"] = "only weighting_scheme mode has it"
    if not loss.masked_training:
        idle["unmasked_weight"] = "only masked_training has masks"
    strategy = loss.timestep_bias_strategy
    if strategy == "none":
        biases = (name for name in OPTIONS if name.startswith(_BIAS) and name != "timestep_bias_strategy")
        idle |= dict.fromkeys(biases, "timestep_bias_strategy is none")
    elif strategy == "range":
        idle["timestep_bias_portion"] = "timestep_bias_strategy range has a begin and an end"
    else:
        ends = ("timestep_bias_begin", "timestep_bias_end")
        idle |= dict.fromkeys(ends, f"timestep_bias_strategy {strategy} has a portion")
    return idle
