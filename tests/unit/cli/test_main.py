"""The program: commands, exit codes, what is printed where, and how fast it answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_resume import errors
from dreambooth_resume.cli import main as program
from dreambooth_resume.cli.main import COMMANDS, main

pytestmark = pytest.mark.quick


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], int]], None]:
    """Puts a function behind `dbr probe`."""

    def install(function: Callable[[list[str]], int]) -> None:
        module = types.ModuleType("dbr_probe")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "dbr_probe", module)
        monkeypatch.setitem(COMMANDS, "probe", ("dbr_probe:run", "a command of this test"))

    return install


def _raising(error: BaseException) -> Callable[[list[str]], int]:
    def run(words: list[str]) -> int:
        raise error

    return run


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_names_every_command_and_ends_with_0(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    page = capsys.readouterr().out
    assert not [name for name in COMMANDS if f"\n  {name} " not in page]
    assert max(map(len, page.splitlines())) <= 102


def test_without_a_command_help_is_shown_and_the_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("dbr ")


def test_help_command_shows_a_commands_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "train"]) == 0
    assert capsys.readouterr().out.startswith("usage: dbr train")


def test_words_and_exit_code_are_passed_through(command: Callable[[Callable[[list[str]], int]], None]) -> None:
    seen: list[list[str]] = []

    def run(words: list[str]) -> int:
        seen.append(words)
        return 75

    command(run)
    assert main(["probe", "a", "--b"]) == 75
    assert seen == [["a", "--b"]]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadInput("w"), 2),
        (errors.ComeBack("w"), 75),
        (errors.StoppedOnPurpose("w"), 76),
        (errors.AccessDenied("w"), 77),
        (errors.CheckpointDamaged("w"), 78),
        (errors.Fenced("w"), 79),
        (errors.DbrError("w"), 70),
    ],
)
def test_error_is_printed_to_stderr_and_gives_its_exit_code(
    error: errors.DbrError,
    code: int,
    command: Callable[[Callable[[list[str]], int]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command(_raising(error))
    assert main(["probe"]) == code
    assert capsys.readouterr() == ("", f"dbr: w\n  more: dbr help {error.anchor}\n")


def test_ctrl_c_is_76(
    command: Callable[[Callable[[list[str]], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(_raising(KeyboardInterrupt()))
    assert main(["probe"]) == 76
    assert capsys.readouterr().err == "dbr: stopped by Ctrl-C\n"


def test_bug_is_70_with_a_traceback_and_what_to_do(
    command: Callable[[Callable[[list[str]], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(_raising(ZeroDivisionError("oops")))
    assert main(["probe"]) == 70
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "ZeroDivisionError: oops" in told
    assert "this is a bug in dbr" in told
    assert "fix:" in told
    assert told.endswith("  more: dbr help a-bug\n")


def test_broken_pipe_that_is_not_our_output_is_a_bug(
    command: Callable[[Callable[[list[str]], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(_raising(BrokenPipeError("a socket")))
    assert main(["probe"]) == 70
    assert "BrokenPipeError" in capsys.readouterr().err


def test_reader_that_leaves_ends_the_program_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "dreambooth_resume", "options", "--markdown"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (141, b"")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "dbr: dbr trian: is not a command\n  fix: dbr train\n"),
        (["zzz"], "dbr: dbr zzz: is not a command\n  fix: all commands: dbr --help\n"),
        (
            ["--config", "x"],
            "dbr: --config: a command comes first\n  fix: dbr train --config …; all commands: dbr --help\n",
        ),
    ],
)
def test_unknown_command_is_answered_with_the_nearest(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == f"{told}  more: dbr help bad-input\n"


def test_every_commands_module_has_a_file() -> None:
    package = Path(program.__file__).parents[2]
    for place, summary in COMMANDS.values():
        module, _, function = place.partition(":")
        assert (package / f"{module.replace('.', '/')}.py").is_file(), module
        assert function == "run"
        assert summary[0].islower()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dreambooth_resume.cli.main import main; main(['--help'])\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'yaml', 'diffusers', 'argparse'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_help_of_train_and_options_import_no_torch() -> None:
    code = (
        "import sys; from dreambooth_resume.cli.main import main; main(['train', '--help']); main(['options', 'lr'])\n"
        "main(['config', 'new']); main(['train', '--rank', 'x'])\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'rich', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60
    )


LEAVES_A_PROCESS_THAT_DOES_NOT_END = """
import multiprocessing, signal, sys, time, types
from dreambooth_resume.cli.main import COMMANDS, main

def hang(connection):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send("ready")
    time.sleep(600)

def run(words):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hang, args=(theirs,), daemon=True)
    process.start()
    ours.recv()
    print(process.pid)
    return 75

sys.modules["dbr_probe"] = types.ModuleType("dbr_probe")
sys.modules["dbr_probe"].run = run
COMMANDS["probe"] = ("dbr_probe:run", "")
raise SystemExit(main(["probe"]))
"""


def test_a_process_that_can_not_be_ended_does_not_keep_the_program_from_ending(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as output:  # no pipe: the process that stays would hold it open
        program = subprocess.Popen([sys.executable, "-c", LEAVES_A_PROCESS_THAT_DOES_NOT_END], stdout=output)
    try:
        assert program.wait(timeout=30) == 75
    finally:
        program.kill()
        os.kill(int((tmp_path / "output").read_text()), signal.SIGKILL)
