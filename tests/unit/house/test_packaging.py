"""What is installed is what lies in the tree, at versions that were tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

MAPPED = ("ui", "configs", "infra")


@pytest.fixture(scope="module")
def pyproject(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def _packages_under(folder: Path, name: str) -> set[str]:
    """Dotted names of `folder` and the folders below that hold Python files; links are passed over."""
    found = {name} if any(folder.glob("*.py")) else set()
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            found |= _packages_under(child, f"{name}.{child.name}")
    return found


def test_packages_in_pyproject_equal_the_tree(root: Path, pyproject: dict[str, Any]) -> None:
    tree = _packages_under(root / "dreambooth_resume", "dreambooth_resume")
    for name in MAPPED:
        tree |= _packages_under(root / name, f"dreambooth_resume.{name}")
    assert set(pyproject["tool"]["setuptools"]["packages"]) == tree


def test_every_package_has_its_init_file(root: Path, pyproject: dict[str, Any]) -> None:
    for name in pyproject["tool"]["setuptools"]["packages"]:
        assert (root / name.replace(".", "/") / "__init__.py").is_file(), name


@pytest.mark.parametrize("name", MAPPED)
def test_root_folders_are_mapped_and_linked(root: Path, pyproject: dict[str, Any], name: str) -> None:
    assert pyproject["tool"]["setuptools"]["package-dir"][f"dreambooth_resume.{name}"] == name
    link = root / "dreambooth_resume" / name
    if not link.is_symlink():
        # A checkout on a file system without links has the target's name as text, and an editable install still works.
        assert link.read_text() == f"../{name}"
    else:
        assert link.resolve() == (root / name).resolve()


def test_the_page_that_help_prints_is_the_documents(root: Path) -> None:
    link = root / "dreambooth_resume" / "cli" / "troubleshooting.md"
    assert link.resolve() == (root / "docs" / "troubleshooting.md").resolve()


def test_data_files_of_packages_are_declared(root: Path, pyproject: dict[str, Any], project_files: list[Path]) -> None:
    declared = pyproject["tool"]["setuptools"]["package-data"]
    for folder in ("dreambooth_resume", *MAPPED):
        package = folder if folder == "dreambooth_resume" else f"dreambooth_resume.{folder}"
        for path in project_files:
            if path.is_relative_to(root / folder) and path.suffix != ".py":
                relative = path.relative_to(root / folder)
                assert any(relative.match(pattern) for pattern in declared.get(package, [])), path


def test_every_dependency_is_pinned_as_tested(root: Path, pyproject: dict[str, Any]) -> None:
    lines = (line for line in (root / "constraints.txt").read_text().splitlines() if line and not line.startswith("#"))
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    project = pyproject["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        assert re.sub(r"[-_.]+", "-", name[0]).lower() in pinned, requirement


def test_torch_is_one_version_everywhere(root: Path, pyproject: dict[str, Any]) -> None:
    assert "torch==2.13.0" in pyproject["project"]["dependencies"]
    assert "torch==2.13.0" in (root / "constraints.txt").read_text().splitlines()
    assert "TORCH := torch==2.13.0" in (root / "Makefile").read_text().splitlines()
