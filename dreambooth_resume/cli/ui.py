"""`dbr ui`: the web page that shows, starts, stops and resumes runs."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_s3_options, s3_settings
from dreambooth_resume.cli.output import tell_at_once
from dreambooth_resume.cli.runs import DEFAULT_FOLDER
from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows.home import S3_OPTIONS

_PORT_MAX = 65535


def run(words: list[str]) -> int:
    """Serves until Ctrl-C or SIGTERM; exit code 0. Raises BadInput for an address that would be open to everybody."""
    parser = CommandParser(
        "dbr ui",
        description="A web page that shows, starts, stops and resumes runs. It reads them from their homes, so it may "
        "be closed, restarted or run elsewhere at any time; runs that it starts go on without it. Needs gradio: pip "
        "install 'dreambooth-resume[ui]'.",
        fix="dbr ui --homes runs",
    )
    parser.add_argument(
        "--homes",
        metavar="PLACE",
        nargs="+",
        help="folders, or s3://BUCKET/NAME, that hold your runs (default: ./runs)",
    )
    parser.add_argument(
        "--files",
        metavar="FOLDER",
        nargs="+",
        default=["."],
        help="what pictures and models of new runs may be taken from (default: the folder you are in, and --homes)",
    )
    parser.add_argument("--port", metavar="INT", default="7860", help="default 7860")
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="default 127.0.0.1: this machine alone")
    parser.add_argument("--auth", metavar="USER:FILE", help="ask for USER and the password that is FILE's first line")
    parser.add_argument(
        "--auth-env", metavar="NAME", help="the same, from the environment variable NAME: USER:PASSWORD"
    )
    add_s3_options(parser)
    arguments = parser.parse_words(words)
    from dreambooth_resume.ui.app import Serving, serve_until

    s3_words = [(name, getattr(arguments, name)) for name in S3_OPTIONS if getattr(arguments, name) is not None]
    serving = Serving(
        places=_places(arguments.homes),
        host=arguments.host,
        port=_port(arguments.port),
        login=_login(arguments.auth, arguments.auth_env),
        s3=s3_settings(arguments),
        files=tuple(arguments.files),
        s3_words=tuple(word for name, value in s3_words for word in _typed(name, value)),
    )
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    serve_until(serving, stop, lambda url: tell_at_once(f"The page is at {url}   (Ctrl-C ends it; runs go on)"))
    return 0


def _places(homes: list[str] | None) -> tuple[str, ...]:
    if homes is None:
        Path(DEFAULT_FOLDER).mkdir(exist_ok=True)
        return (DEFAULT_FOLDER,)
    for home in homes:
        if "://" not in home and not Path(home).is_dir():
            raise BadInput("there is no such folder", where=f"--homes {home}", fix=f"mkdir -p {home}, or name another")
    return tuple(homes)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _PORT_MAX:
        raise BadInput("is no port", where=f"--port {text[:20]}", fix="--port 7860")
    return int(text)


def _login(auth: str | None, variable: str | None) -> tuple[str, str] | None:
    """User and password. Raises BadInput for what isn't both: an empty password would let everybody in."""
    if auth is not None and variable is not None:
        raise BadInput("says the same as --auth", where="--auth-env", fix="give one of the two")
    if auth is not None:
        user, _, file = auth.partition(":")
        try:
            lines = Path(file).expanduser().read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                "the password's file can't be read", where=f"--auth {user}:{file}", fix="--auth USER:FILE"
            ) from error
        return _both(
            user, lines[0] if lines else "", "--auth", "--auth USER:FILE, with the password as FILE's first line"
        )
    if variable is not None:
        user, _, password = os.environ.get(variable, "").partition(":")
        return _both(user, password, f"--auth-env {variable}", f"export {variable}=USER:PASSWORD")
    return None


def _both(user: str, password: str, where: str, fix: str) -> tuple[str, str]:
    if not user or not password.strip():
        raise BadInput("has no user or no password", where=where, fix=fix)
    return user, password


def _typed(name: str, value: object) -> list[str]:
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]
