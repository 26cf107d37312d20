"""A Python whose `-m dreambooth_resume …` is forked by the fork server: 1 s and not 8 s for each that a command starts.

What the command starts is a small real process in its place: it hands signals on and ends as the forked one ended, and
its own end is that of the forked one and of all below it.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.resume.forked_trainings import PRELUDE
from tests.resume.harness import Bench

_PROGRAM = """\
#!{python} -SE
import contextlib, json, os, signal, socket, sys

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

def hand_on(number, _frame):
    with contextlib.suppress(ProcessLookupError):
        os.kill(forked, number)

signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("\\0{address}")
    lines = connection.makefile("rw")
    told = dict(words=sys.argv[1:], pid=os.getpid(), cwd=os.getcwd(), environment=dict(os.environ))
    print(json.dumps(told), file=lines, flush=True)
    forked = json.loads(lines.readline())
    for number in NUMBERS:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
    code = json.loads(lines.readline())
if code < 0:
    if -code in NUMBERS:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""
_LOOK_SECONDS = 0.02


@contextmanager
def forking_python(bench: Bench, folder: Path) -> Iterator[Path]:
    """The program, in `folder`. What still runs of it at the end is killed."""
    address, program = f"dbr-{uuid.uuid4().hex}", folder / "python"
    program.write_text(_PROGRAM.format(python=sys.executable, address=address))
    program.chmod(0o755)
    closing, threads = threading.Event(), list[threading.Thread]()

    def accept() -> None:
        while not closing.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=_serve, args=(connection, bench, closing)))
                threads[-1].start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{address}")
        listener.listen()
        listener.settimeout(_LOOK_SECONDS)
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield program
        finally:
            closing.set()
            accepting.join()
            for thread in threads:
                thread.join()


def _serve(connection: socket.socket, bench: Bench, closing: threading.Event) -> None:
    """Fork what one of those programs was started as, and watch both."""
    with connection, connection.makefile("r") as lines:
        told = json.loads(lines.readline())
        module, words = told["words"][:2], told["words"][2:]
        assert module == ["-m", "dreambooth_resume"], told["words"]
        asked = {
            "argv": words,
            "log": f"/proc/{told['pid']}/fd/1",
            "cwd": told["cwd"],
            "home": told["cwd"],
            "environment": told["environment"],
            "prelude": PRELUDE if words[0] == "supervise" else None,
        }
        pid = bench.server.ask(asked)["pid"]
        connection.sendall(b"%d\n" % pid)
        while (code := bench.server.ask({"poll": pid})["code"]) is None:
            # It says nothing after its first line: what is there to be read is its end.
            if closing.is_set() or select.select([connection], [], [], _LOOK_SECONDS)[0]:
                _kill_with_all_below(pid)
        with suppress(BrokenPipeError):
            connection.sendall(b"%d\n" % code)


def _kill_with_all_below(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()
