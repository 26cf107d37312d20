"""The checks check: missing components fail where they must be there, and `make test` leaves the system alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = """
import pytest

@pytest.mark.real
def test_of_a_component_that_is_missing():
    pytest.skip("no such component")

def test_that_skips_for_another_reason():
    pytest.skip("not on this day")
"""
MODULE_SKIPS = """
import pytest
pytest.importorskip("a_component_that_nobody_has")
"""


def _run_pytest(folder: Path, root: Path, *, require_real: bool) -> tuple[int, str]:
    settings = {**os.environ, "DBR_REQUIRE_REAL": "1" if require_real else ""}
    (folder / "tests").mkdir()
    shutil.copy(root / "tests" / "conftest.py", folder / "tests")
    shutil.copy(root / "pyproject.toml", folder)
    (folder / "tests" / "test_skips.py").write_text(SKIPS)
    (folder / "tests" / "test_module_skips.py").write_text(MODULE_SKIPS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "--continue-on-collection-errors",
        ],
        cwd=folder,
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_missing_components_are_skipped_with_the_reason(tmp_path: Path, root: Path) -> None:
    code, output = _run_pytest(tmp_path, root, require_real=False)
    assert code == 0
    assert "3 skipped" in output
    assert "no such component" in output


def test_missing_components_fail_where_they_are_required(tmp_path: Path, root: Path) -> None:
    code, output = _run_pytest(tmp_path, root, require_real=True)
    assert code != 0
    assert "this real component is missing: Skipped: no such component" in output
    assert "this module skipped itself" in output
    assert "not on this day" not in re.findall(r"^(?:FAILED|ERROR).*$", output, re.M)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


def _dry_run(target: str, root: Path, venv: Path) -> str:
    """What make would do on a machine that has no environment yet."""
    command = ["make", "--dry-run", "--no-print-directory", target, f"VENV={venv}"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=30).stdout


@needs_make
@pytest.mark.parametrize("target", ["test", "demo", "bench"])
def test_make_leaves_the_system_packages_alone(target: str, root: Path, tmp_path: Path) -> None:
    planned = _dry_run(target, root, tmp_path / "none")
    assert "pip install" in planned
    assert "apt" not in planned
    assert "system_deps.sh" not in planned


@needs_make
@pytest.mark.parametrize("target", ["test", "demo", "bench"])
def test_second_make_installs_nothing(target: str, root: Path, tmp_path: Path) -> None:
    for name in ("python", "torch", "package"):
        (tmp_path / f".stamp-{name}").touch()
    planned = _dry_run(target, root, tmp_path)
    assert "pip install" not in planned
    assert "venv" not in planned.replace(str(tmp_path), "")


@needs_make
def test_make_test_runs_every_gate(root: Path, tmp_path: Path) -> None:
    planned = _dry_run("test", root, tmp_path)
    for gate in ("ruff format --check", "ruff check", "mypy", "lint-imports", "pytest -q -n 2"):
        assert f"{tmp_path}/bin/{gate}" in planned


def test_ci_prepares_the_system_and_then_requires_everything(root: Path) -> None:
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-2].endswith("system-deps")
    assert re.fullmatch(r"DBR_REQUIRE_REAL=1 make .*test", lines[-1])
