"""Every command that a document shows is one that the program takes, and every command explains itself."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import COMMANDS, main, overview
from dreambooth_resume.cli.verify_resume import parser as verify_parser
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.launchers import LAUNCHERS, split_words

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_FILES = sorted((ROOT / "configs").glob("*.yaml"))
LAUNCHING = ("launch", "resume", "supervise")
DBR = re.compile(r"(?:\.venv/bin/)?dbr [a-z]")


def _shown_commands() -> list[str]:
    """`dbr …` lines of fenced blocks, comments of run files and inline code, without what stands for anything (`…`)."""
    found = set()
    for path in [*DOCUMENTS, *RUN_FILES]:
        text = path.read_text()
        if path in RUN_FILES:
            lines = re.findall(r"^#  +(.*)$", text, re.M)
        else:
            blocks = re.findall(r"^```(?:bash|sh|console|)\n(.*?)^```", text, re.M | re.S)
            lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
            lines += re.findall(r"`([^`\n]+)`", text)
        found |= {line.removeprefix(".venv/bin/") for line in lines if DBR.match(line) and "…" not in line}
    return sorted(found)


def test_documents_show_commands_at_all() -> None:
    shown = _shown_commands()
    assert len(shown) > 10
    assert {shlex.split(line)[1] for line in shown} == {*COMMANDS, "help"}


@pytest.mark.parametrize("line", _shown_commands())
def test_shown_command_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line, comments=True)[1:]
    command, rest = words[0], words[1:]
    if not rest:
        assert command in COMMANDS  # a mention: "what `dbr train` does"
    elif command == "help" or any(word.startswith("--help") for word in rest):
        assert main(words) == 0
    elif command == "train":
        _resolves(rest)
    elif command in LAUNCHING:
        _launches(command, rest)
    elif command == "verify-resume":
        _, rest = verify_parser().parse_known_args(rest)
        parse_train(_with_a_file(rest))
    else:
        real = argparse.ArgumentParser.parse_args

        def parse_and_stop(self: argparse.ArgumentParser, args: list[str] | None = None) -> argparse.Namespace:
            raise SystemExit(f"parsed {real(self, args)}")

        # The words are parsed as ever, and nothing is done about them: the homes of the documents don't exist here.
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        with pytest.raises(SystemExit, match="parsed"):
            main(words)


def _launches(command: str, words: list[str]) -> None:
    """These commands take the options of `dbr train` beside their own."""
    if words[0] == "list":
        return
    words = [word for word in words if word not in ("--dry-run", "--queue")]
    if command == "launch":
        where, *words = words
        _, words = split_words(where, words)
        if words and words[0] == "--clean-up":
            return
    elif not words[0].startswith("--"):
        words = words[1:]
    if "--on" in words:
        place = words.index("--on")
        assert words[place + 1] in LAUNCHERS
        del words[place : place + 2]
    _resolves(words)


def _with_a_file(words: list[str]) -> list[str]:
    for place, word in enumerate(words[:-1]):
        if word == "--config":
            named = ROOT / words[place + 1]
            words[place + 1] = str(named if named.is_file() else ROOT / "configs" / "sdxl.yaml")
    return words


def _resolves(words: list[str]) -> None:
    """The words of `dbr train` make a whole run; configs/sdxl.yaml stands for a file that the reader is to write."""
    given = parse_train(_with_a_file(words))
    if "--config" in words or len(words) > 4:
        assert resolve(given, recorded=None)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([command, "--help"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    shown = capsys.readouterr().out
    assert code == 0
    assert shown.startswith("usage: dbr")
    assert len(shown.splitlines()) >= 3
    assert len(COMMANDS[command][1]) > 10


def test_the_overview_names_every_command() -> None:
    for command, (_, summary) in COMMANDS.items():
        assert f"  {command:<13} {summary}" in overview()


def test_a_misspelt_option_in_a_document_would_be_found() -> None:
    with pytest.raises(BadInput):
        _resolves(["--config", "configs/demo.yaml", "--resme", "latest"])
