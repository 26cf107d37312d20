"""`dbr ui`: puts the pages together and serves them, safe by default. The one module that starts Gradio."""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any

from dreambooth_resume.errors import BadInput
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.ui.commands import Commands
from dreambooth_resume.ui.errands import Errands
from dreambooth_resume.ui.guards import Guard
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.open_run import OpenRuns
from dreambooth_resume.ui.served import Served

if TYPE_CHECKING:
    from dreambooth_resume.ui.site import Site

# Name in the bar -> (path, module with a `build(site)`). A new page is one file and one line here.
PAGES: dict[str, tuple[str, str]] = {
    "New run": ("/new-run", "dreambooth_resume.ui.new_run_page"),
    "Run": ("/run", "dreambooth_resume.ui.run_page"),
    "Compare": ("/compare", "dreambooth_resume.ui.compare_page"),
    "Try it": ("/try", "dreambooth_resume.ui.try_page"),
    "Doctor": ("/doctor", "dreambooth_resume.ui.doctor_page"),
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
UPLOAD_BYTES_MAX = 200_000_000
_HIDDEN = ("Run",)
"""Pages that are about something in their address, and so are no entry of the bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where the page is served, and to whom."""

    places: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 7860
    login: tuple[str, str] | None = None
    """User and password; None: anyone who reaches the address."""
    s3: S3Settings | None = None
    s3_words: tuple[str, ...] = ()
    files: tuple[str, ...] = (".",)
    """Folders that pictures and models may be taken from, beside the homes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The page as it is being served."""

    url: str
    close: Callable[[], None]


def check(serving: Serving) -> None:
    """Raises BadInput for what would be open to everybody, and where gradio isn't installed."""
    if serving.host not in LOOPBACK and serving.login is None:
        raise BadInput(
            "anyone who reaches this address could start programs here",
            where=f"--host {serving.host}",
            fix="--auth USER:PASSWORD_FILE, or leave --host out and reach it through ssh -L "
            f"{serving.port}:127.0.0.1:{serving.port} THIS_MACHINE",
        )
    try:
        # Before gradio is imported: it would ask its maker's host for a new version, and keep uploads in /tmp/gradio.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
        import_module("gradio")
    except ImportError as error:
        raise BadInput("needs gradio", where="dbr ui", fix="pip install 'dreambooth-resume[ui]'") from error


def serve(serving: Serving) -> Page:
    """Start serving and return. Raises BadInput for what `check` refuses and for a port that is taken."""
    # What is set for the page alone must not reach the commands: a run that it starts may have to ask the Hub.
    environment = dict(os.environ)
    check(serving)
    from dreambooth_resume.ui.site import Site

    served = Served()
    os.environ["GRADIO_TEMP_DIR"] = str(served.uploads)
    homes = Homes(serving.places, serving.s3)
    runs = OpenRuns(homes)
    commands = Commands(on_end=lambda command: _look_again(homes, runs, command.home), environment=environment)
    site = Site(
        homes=homes,
        runs=runs,
        commands=commands,
        served=served,
        s3_words=serving.s3_words,
        files=serving.files,
        examinations=Errands(environment=environment),
        paintings=Errands(environment=environment),
    )
    demo = _blocks(site)
    homes.start()
    try:
        _, url, _ = demo.launch(**_launch_words(serving, served))
    except OSError as error:
        homes.close()
        raise BadInput(
            f"the port is taken ({error})", where=f"--port {serving.port}", fix=f"dbr ui --port {serving.port + 1}"
        ) from error

    def close() -> None:
        demo.close(verbose=False)
        homes.close()
        commands.close()
        for errands in (site.examinations, site.paintings):
            errands.close()
        served.close()

    return Page(url=url, close=close)


def serve_until(serving: Serving, stop: threading.Event, tell: Callable[[str], None]) -> None:
    """Serve until `stop` is set."""
    page = serve(serving)
    tell(page.url)
    try:
        stop.wait()
    finally:
        page.close()


def _blocks(site: Site) -> Any:
    import gradio as gr

    from dreambooth_resume.ui import api, runs_page
    from dreambooth_resume.ui.site import end_with_their_tabs

    demo = gr.Blocks(title="dbr", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True)
    with demo:
        runs_page.build(site)
        api.publish(site)
        end_with_their_tabs(demo, site)
    for name, (path, module) in PAGES.items():
        with demo.route(name, path, show_in_navbar=name not in _HIDDEN):
            import_module(module).build(site)
    demo.queue(default_concurrency_limit=8, max_size=200)
    return demo


def _launch_words(serving: Serving, served: Served) -> dict[str, Any]:
    import gradio as gr
    from starlette.middleware import Middleware

    guards = [Middleware(Guard, hosts=LOOPBACK if serving.host in LOOPBACK else ())]
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    files = resources.files("dreambooth_resume.ui")
    return {
        "server_name": f"[{serving.host}]" if ":" in serving.host else serving.host,
        "server_port": serving.port,
        "auth": _login(serving.login),
        "allowed_paths": [str(served.folder)],
        "max_file_size": UPLOAD_BYTES_MAX,
        "app_kwargs": {"middleware": guards},
        "theme": gr.themes.Soft(primary_hue="teal", neutral_hue="slate", **fonts),
        "css": (files / "page.css").read_text(),
        "head": f"<script>{(files / 'page.js').read_text()}</script>",
        "prevent_thread_lock": True,
        "quiet": True,
        "share": False,
        "ssr_mode": False,
        "inbrowser": False,
        "footer_links": [],
        "show_error": False,
        "strict_cors": True,
        "enable_monitoring": False,
        "mcp_server": False,
    }


def _login(login: tuple[str, str] | None) -> Callable[[str, str], bool] | None:
    if login is None:
        return None

    def is_right(user: str, password: str) -> bool:
        same = [hmac.compare_digest(a.encode(), b.encode()) for a, b in zip((user, password), login, strict=True)]
        return all(same)

    return is_right


def _look_again(homes: Homes, runs: OpenRuns, home: str) -> None:
    """After a command about `home`: what it did is to be seen at once."""
    homes.forget(home)
    runs.forget_job(home)
