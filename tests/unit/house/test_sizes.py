"""Files and functions stay small enough to be read at once (CONTRIBUTING.md, rules 2 to 4)."""

from __future__ import annotations

import ast
from pathlib import Path

FILE_LINES, TEST_FILE_LINES, FUNCTION_LINES = 400, 600, 70
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "misc"}


def test_files_stay_under_their_line_limits(python_files: list[Path], root: Path) -> None:
    too_long = []
    for path in python_files:
        lines = len(path.read_text().splitlines())
        limit = TEST_FILE_LINES if path.is_relative_to(root / "tests") else FILE_LINES
        if lines >= limit:
            too_long.append(f"{path.relative_to(root)}: {lines} lines, limit {limit}")
    assert not too_long


def test_functions_stay_within_70_lines(python_files: list[Path], root: Path) -> None:
    too_long = []
    for path in python_files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    too_long.append(f"{path.relative_to(root)}:{node.lineno} {node.name}: {lines} lines")
    assert not too_long


def test_package_files_hold_a_docstring_and_nothing_else(python_files: list[Path], root: Path) -> None:
    more = []
    for path in python_files:
        if path.name != "__init__.py" or path.is_relative_to(root / "tests"):
            continue
        tree = ast.parse(path.read_text())
        if len(tree.body) != 1 or not ast.get_docstring(tree):
            more.append(str(path.relative_to(root)))
    assert not more


def test_every_module_says_what_it_is(python_files: list[Path], root: Path) -> None:
    assert not [
        str(path.relative_to(root))
        for path in python_files
        if path.name != "conftest.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]


def test_no_module_is_a_place_for_anything(python_files: list[Path], root: Path) -> None:
    assert not [str(path.relative_to(root)) for path in python_files if path.stem in NAMES_THAT_SAY_NOTHING]
