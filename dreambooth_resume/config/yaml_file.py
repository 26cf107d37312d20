"""The file behind --config: flat keys, each with the line it stands on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from dreambooth_resume.config.options.train import SECTIONS
from dreambooth_resume.errors import BadInput

LARGEST_FILE_BYTES = 1_000_000  # a few KB are usual; more is a model or a picture given by mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlValue:
    """One key's value as YAML has it, and where it stands ("run.yaml:3: rank")."""

    name: str
    value: object
    where: str


def read_yaml(path: Path) -> tuple[YamlValue, ...]:
    """The file's keys in their order; dashes in them become underscores. The names are not looked at here.

    Raises BadInput if the file can't be read, isn't YAML, isn't a flat mapping, or has a key twice.
    """
    text = _read(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return ()
        if not isinstance(node, yaml.MappingNode):
            raise BadInput(
                "is not a list of options", where=str(path), fix="write lines such as `rank: 4`, or see: dbr config new"
            )
        return _pairs(path, loader, node)
    except yaml.YAMLError as error:
        raise _not_yaml(path, error) from None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise BadInput(
                f"has {path.stat().st_size:,} bytes, which no file of options has",
                where=f"--config {path}",
                fix="give a YAML file; make one with: dbr config new run.yaml",
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput(
            "is not text in UTF-8", where=f"--config {path}", fix="give a YAML file; see: dbr config new"
        ) from None
    except FileNotFoundError:
        raise BadInput(
            "there is no such file", where=f"--config {path}", fix=f"make one with: dbr config new {path}"
        ) from None
    except OSError as error:
        raise BadInput(
            f"can't be read: {error.strerror}", where=f"--config {path}", fix="give a file that you may read"
        ) from None


def _pairs(path: Path, loader: yaml.SafeLoader, node: yaml.MappingNode) -> tuple[YamlValue, ...]:
    found: dict[str, YamlValue] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise BadInput("a key must be the name of an option", where=f"{path}:{line}", fix="see: dbr options")
        name = key_node.value.replace("-", "_")
        where = f"{path}:{line}: {key_node.value}"
        if name in found:
            first = found[name].where.rpartition(": ")[0]
            raise BadInput(f"stands twice, first at {first}", where=where, fix="leave one of the two lines")
        if name in SECTIONS and isinstance(value_node, yaml.MappingNode):
            raise BadInput(
                "options stand in the file without a heading",
                where=where,
                fix=f"remove the line `{key_node.value}:` and the indent of those below it",
            )
        try:
            value = loader.construct_object(value_node, deep=True)
        except (ValueError, AttributeError, KeyError, IndexError, TypeError):
            # PyYAML's constructors raise these for text that doesn't fit its type: the date 2026-13-41, `!!bool x`.
            raise BadInput("the value can't be read", where=where, fix="put it in quotes") from None
        found[name] = YamlValue(name=name, value=value, where=where)
    return tuple(found.values())


def _not_yaml(path: Path, error: yaml.YAMLError) -> BadInput:
    """Line and cause, but never the line's text: it may hold a token."""
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
    return BadInput(
        "this is not YAML", where=place, fix="write `name: value`; put text with : # ' or a tab in it in double quotes"
    )
