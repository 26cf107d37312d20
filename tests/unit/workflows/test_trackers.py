"""Trackers are checked before a model loads; nobody needs one that nobody asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.config.options.reporting import ReportingOptions
from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows import trackers
from dreambooth_resume.workflows.trackers import check_trackers, chosen_trackers, shown_values


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which packages there are."""

    def only(*packages: str) -> None:
        monkeypatch.setattr(trackers, "find_spec", lambda name: name if name in packages else None)

    return only


def options(report_to: str) -> ReportingOptions:
    return ReportingOptions.model_validate({"report_to": report_to})


@pytest.mark.parametrize(
    ("report_to", "there", "chosen"),
    [
        ("auto", ("tensorboard", "wandb"), ("tensorboard",)),
        ("auto", ("wandb",), ()),
        ("none", ("tensorboard",), ()),
        ("all", ("tensorboard", "comet_ml"), ("tensorboard", "comet_ml")),
        ("wandb", ("tensorboard", "wandb"), ("wandb",)),
    ],
)
def test_which_trackers_are_fed(
    report_to: str, there: tuple[str, ...], chosen: tuple[str, ...], installed: Callable[..., None]
) -> None:
    installed(*there)
    assert chosen_trackers(options(report_to)) == chosen


@pytest.mark.parametrize("report_to", ["tensorboard", "wandb", "trackio", "comet_ml"])
def test_a_missing_package_is_refused_with_what_to_type(report_to: str, installed: Callable[..., None]) -> None:
    installed()
    with pytest.raises(BadInput) as caught:
        check_trackers(options(report_to), {"report_to": "--report_to"})
    assert caught.value.fix == f"pip install {report_to}, or --report_to none"
    assert caught.value.where == "--report_to"
    with pytest.raises(BadInput, match="no tracker is installed"):
        check_trackers(options("all"), {})
    check_trackers(options("auto"), {})


def test_wandb_without_a_login_is_refused_before_the_run(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    with pytest.raises(BadInput, match="nobody is logged in"):
        check_trackers(options("wandb"), {})
    netrc.write_text("machine api.wandb.ai login user password x")
    check_trackers(options("wandb"), {})
    netrc.unlink()
    settings: list[dict[str, Any]] = [{"WANDB_API_KEY": "k"}, {"WANDB_MODE": "offline"}]
    for setting in settings:
        with monkeypatch.context() as patch:
            for name, value in setting.items():
                patch.setenv(name, value)
            check_trackers(options("wandb"), {})


def test_values_have_the_names_that_the_script_gives_them() -> None:
    assert shown_values({"loss": 1.0, "learning_rate": 2.0, "grad_norm": 3.0, "seconds": 4.0, "lr_text": 5.0}) == {
        "loss": 1.0,
        "lr": 2.0,
        "grad_norm": 3.0,
        "lr_text": 5.0,
    }
