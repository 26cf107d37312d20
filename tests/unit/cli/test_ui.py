"""`dbr ui` is safe by default: what would be open to everybody is refused before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.cli.ui import run
from dreambooth_resume.errors import BadInput


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_another_address_without_a_password_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="anyone who reaches this address") as refused:
        run(["--homes", str(tmp_path), "--host", host])
    assert "--auth" in (refused.value.fix or "")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--auth", "me:/no/such/file"], "can't be read"),
        (["--auth", "me"], "can't be read"),
        (["--auth-env", "DBR_TEST_NOT_SET"], "no user or no password"),
        (["--auth", "me:EMPTY"], "no user or no password"),
        (["--auth", "me:EMPTY", "--auth-env", "X"], "says the same"),
        (["--port", "http"], "is no port"),
        (["--port", "70000"], "is no port"),
    ],
)
def test_half_a_login_and_no_port_are_refused(
    words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_text("\n")
    words = [word.replace("EMPTY", str(tmp_path / "empty")) for word in words]
    assert main(["ui", "--homes", str(tmp_path), *words]) == BadInput.exit_code
    assert what in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--homes", str(tmp_path / "none")]) == BadInput.exit_code
    assert "mkdir -p" in capsys.readouterr().err
