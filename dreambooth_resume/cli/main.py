"""The program `dbr`: finds the command, runs it, and turns errors into messages and exit codes.

Imports nothing heavy, so that `dbr --help` and the commands that only read answer at once; a command's module is
imported when the command is used.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import cast

from dreambooth_resume.config.messages import format_error, more
from dreambooth_resume.errors import BadInput, DbrError, StoppedOnPurpose

BUG_EXIT_CODE = DbrError.exit_code
BROKEN_PIPE_EXIT_CODE = 128 + 13  # as if SIGPIPE had ended the process, as it does other programs

# Command -> ("module:function", summary). The function takes the words behind the command and returns the exit code.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("dreambooth_resume.cli.train:run", "train a LoRA, or go on with a run: the same command does both"),
    "launch": ("dreambooth_resume.cli.launch:run", "start a run in the background here, or on other machines"),
    "status": ("dreambooth_resume.cli.status:run", "what a run is doing, and its last durable step"),
    "history": ("dreambooth_resume.cli.history:run", "every attempt of a run, and why it ended"),
    "report": ("dreambooth_resume.cli.report:run", "one HTML file with everything about a run"),
    "compare": ("dreambooth_resume.cli.compare:run", "two runs: options that differ, losses, results"),
    "eval": ("dreambooth_resume.cli.evaluate:run", "how well each checkpoint hits the subject and the prompt"),
    "runs": ("dreambooth_resume.cli.runs:run", "all runs in a folder or a bucket"),
    "checkpoints": ("dreambooth_resume.cli.checkpoints:run", "list, verify, pull or delete a run's checkpoints"),
    "export": (
        "dreambooth_resume.cli.export:run",
        "a checkpoint's LoRA as a file for Diffusers, ComfyUI, AUTOMATIC1111",
    ),
    "fork": ("dreambooth_resume.cli.fork:run", "begin a new run from a checkpoint of this one"),
    "generate": ("dreambooth_resume.cli.generate:run", "pictures with any checkpoint, beside the base model's"),
    "samples": ("dreambooth_resume.cli.samples:run", "the pictures that a run made, and a grid of them"),
    "sample-now": ("dreambooth_resume.cli.sample_now:run", "ask a run for pictures of now, without stopping it"),
    "push": ("dreambooth_resume.cli.push:run", "a checkpoint's LoRA, card and pictures on the Hugging Face Hub"),
    "save-now": ("dreambooth_resume.cli.save_now:run", "ask a run to save, and wait until it is durable"),
    "stop": ("dreambooth_resume.cli.stop:run", "ask a run to save and stop"),
    "resume": ("dreambooth_resume.cli.resume:run", "launch a run again, where it was or elsewhere"),
    "logs": ("dreambooth_resume.cli.logs:run", "what a launched run printed"),
    "gc": ("dreambooth_resume.cli.gc:run", "clear a home of what no log entry names"),
    "delete": ("dreambooth_resume.cli.delete:run", "delete a whole run"),
    "data": ("dreambooth_resume.cli.data:run", "look through pictures and captions, or write captions"),
    "config": ("dreambooth_resume.cli.config:run", "write a commented YAML file: new, or from another trainer's"),
    "doctor": ("dreambooth_resume.cli.doctor:run", "everything that could stop a run later, before it is begun"),
    "estimate": (
        "dreambooth_resume.cli.estimate:run",
        "memory, time, cost and interruptions of a run, before it is begun",
    ),
    "options": ("dreambooth_resume.cli.options:run", "search the options of train, by any trainer's name for them"),
    "verify-resume": (
        "dreambooth_resume.cli.verify_resume:run",
        "train a stretch of a run twice, once being killed, and compare the bytes",
    ),
    "drill": ("dreambooth_resume.cli.drill:run", "interrupt a launched run on purpose, and measure how it comes back"),
    "supervise": ("dreambooth_resume.cli.supervise:run", "train, and start again by the restart rule of launchers"),
    "ui": ("dreambooth_resume.cli.ui:run", "a web page that shows, starts, stops and resumes runs"),
    "demo": ("dreambooth_resume.cli.demo:run", "train a tiny model, kill it three times, compare the bytes"),
}

_THREADS_LEFT_BEHIND = ("dbr-tracker", "dbr-mirror", "dbr-doctor")
_EXIT_CODES = """\
exit codes
  0 finished               75 come back: the same command goes on     78 refused to go on: damaged
  2 bad input              76 stopped on purpose, resumable           79 a newer attempt has the run
  70 a bug in dbr          77 no access"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code. Raises nothing but SystemExit."""
    return _leave(_main(argv))


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except DbrError as error:
        return _say(format_error(error), error.exit_code)
    except KeyboardInterrupt as error:
        return _say(f"dbr: stopped by {str(error) or 'Ctrl-C'}", StoppedOnPurpose.exit_code)
    except BrokenPipeError as error:
        return BROKEN_PIPE_EXIT_CODE if _stdout_is_gone() else _bug(error)
    except Exception as error:  # noqa: BLE001  the one place: whatever comes here is a bug, and is shown whole
        return _bug(error)


def _leave(code: int) -> int:
    """`code`, or the end at once if a tracker, the Hub, a store or a process that was killed hangs.

    It would be waited for.
    """
    if _has_left_something_behind():
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


def _has_left_something_behind() -> bool:
    if any(thread.name.startswith(_THREADS_LEFT_BEHIND) for thread in threading.enumerate()):
        return True
    # Loaded wherever there were several processes. One that hangs in its GPU's driver does not even end by SIGKILL.
    several = sys.modules.get("multiprocessing")
    return several is not None and bool(several.active_children())


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        if words[:1] == ["help"] and len(words) > 1:
            return _help(words[1:])
        print(overview())
        return 0 if words else BadInput.exit_code
    if words[0] in ("-V", "--version", "version"):
        print(f"dbr {_version()}")
        return 0
    return _command(words[0])(words[1:])


def _help(words: list[str]) -> int:
    """Of a command its options, else the section of the troubleshooting page that is called so."""
    if words[0] in COMMANDS:
        return _command(words[0])([*words[1:], "--help"])
    from dreambooth_resume.cli import topics

    name = " ".join(words)
    if (text := topics.section(name)) is None:
        near = topics.near(name) or next(iter(get_close_matches(name, COMMANDS, n=1)), None)
        raise BadInput(
            "is neither a command nor a heading of the troubleshooting page", where=f"dbr help {name[:60]}",
            fix=f"dbr help {near}" if near else "all commands: dbr --help",
        )  # fmt: skip
    print(text)
    return 0


def overview() -> str:
    """What `dbr --help` prints."""
    commands = "\n".join(f"  {name:<13} {summary}" for name, (_, summary) in COMMANDS.items())
    return f"""\
usage: dbr COMMAND ...

Trains an SDXL DreamBooth LoRA that can be killed at any moment: start the same command again, and it
ends in the same bytes as a run that was left alone.

commands
{commands}

`dbr COMMAND --help` shows a command's options, `dbr help out of memory` what to do about that.
To see it work:
  dbr demo
  dbr config new run.yaml
  dbr train --config run.yaml --resume latest

{_EXIT_CODES}"""


def _command(name: str) -> Callable[[list[str]], int]:
    """The function behind a command. Raises BadInput for a name that is none."""
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        if name.startswith("-"):
            raise BadInput("a command comes first", where=name, fix=f"dbr train {name} …; all commands: dbr --help")
        raise BadInput(
            "is not a command", where=f"dbr {name[:40]}", fix=f"dbr {near[0]}" if near else "all commands: dbr --help"
        )
    module, _, function = COMMANDS[name][0].partition(":")
    return cast("Callable[[list[str]], int]", getattr(import_module(module), function))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dreambooth-resume")
    except PackageNotFoundError:
        return "(not installed: run from a source tree)"


def _say(message: str, exit_code: int) -> int:
    # Launchers decide by the exit code: it must not become another one because a full disk takes no message.
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)
    return exit_code


def _bug(error: Exception) -> int:
    import traceback

    with contextlib.suppress(OSError):
        traceback.print_exception(error, file=sys.stderr)
    return _say(
        "dbr: this is a bug in dbr, not in what you typed. Checkpoints that were committed are safe: the same command "
        "goes on from the newest.\n"
        "  fix: try the same command once more; if it ends here again, report the lines above with `dbr --version`\n"
        f"{more(DbrError)}",
        BUG_EXIT_CODE,
    )


def _stdout_is_gone() -> bool:
    """Did the reader of our output leave (`dbr options | head`), or did another pipe or socket break?"""
    import select

    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # a stream that is no file, under a test runner
        return False
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    if not any(events & select.POLLERR for _, events in poller.poll(0)):
        return False
    # Python flushes once more at its end, and would complain then.
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True
