"""Forks `dbr` processes from one that has imported everything: 1 s instead of 6 s for a run that can really be killed.

Run as a program it reads a JSON command a line: {"argv": [...], "log": FILE, "cwd": DIR, "home": DIR,
"bucket_home": "bucket/prefix" | null, "crash": {...} | null, "record": FILE | null, "limits": {...}, "clock_off": N,
"faults": [...], "program": "module:function" | null, "prelude": "module:function" | null,
"environment": {...}}
forks a child and answers {"pid": N}; {"poll": N} answers {"code": null | exit code}; {"build_model": DIR, "log": FILE}
builds the tiny SDXL in a child.

`crash` and `record` are about the calls that change a folder, or with `bucket_home` about every request to S3. `limits`
shortens what would wait for minutes: "module:NAME" or "module:Class.NAME" is a constant, or the default of a keyword.
`clock_off` is how many seconds the wall clock is off. `program` is called with argv in place of `dbr`, and `prelude`
without anything before it.

The server never runs a tensor operation: a process that has run one with several threads leaves its forked children
hanging in libgomp. Clients, threads and models are made in the children.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import gc
import importlib
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

HEAVY = (
    "accelerate",
    "boto3",
    "botocore.httpsession",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "diffusers.schedulers.scheduling_ddpm",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
    "diffusers.schedulers.scheduling_euler_discrete",
    "dreambooth_resume.cli.progress",
    "dreambooth_resume.cli.train",
    "dreambooth_resume.models.sdxl.denoiser",
    "dreambooth_resume.models.sdxl.encoders",
    "dreambooth_resume.models.sdxl.family",
    "dreambooth_resume.models.sdxl.generation",
    "dreambooth_resume.storage.s3",
    "dreambooth_resume.training.optimizers.adamw",
    "dreambooth_resume.workflows.start",
    "dreambooth_resume.workflows.train",
    "peft",
    "peft.tuners.lora.bnb",
    "transformers.models.clip.image_processing_pil_clip",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "transformers.models.vit.image_processing_pil_vit",
    "transformers.models.vit.modeling_vit",
)


_SAVE_SECONDS = 5.0
"""Longer than any disk takes for the files of the tiny model."""


def main() -> None:
    for module in HEAVY:
        importlib.import_module(module)
    _get_ready()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    ended: dict[int, int] = {}
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        if "poll" in command:
            print(json.dumps({"code": _poll(command["poll"], ended)}), file=answers)
            continue
        pid = os.fork()
        if pid == 0:
            _end_with(command["log"], lambda command=command: _do(command))
        # Numbers come round again, soon where there are but 32,768: this child has not ended with another one's code.
        ended.pop(pid, None)
        print(json.dumps({"pid": pid}), file=answers)


def _get_ready() -> None:
    """What each child would do once more for itself, and none of it with a tensor: a third of a short training."""
    from PIL import Image
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    Image.init()
    get_checkpoint_conversion_mapping("clip_text_model")  # compiles a thousand patterns and keeps them
    # A collection in a child would look at every object of every module, and so copy their pages.
    gc.collect()
    gc.freeze()


def _poll(pid: int, ended: dict[int, int]) -> int | None:
    """The child's exit code, minus the signal's number if one ended it, None while it lives."""
    if pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == pid:
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended.get(pid)


def _end_with(log: str, work: Callable[[], int]) -> None:
    """Do `work` in a session of its own, with its output in `log`, and end the process with its code."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _do(command: dict[str, Any]) -> int:
    if "build_model" in command:
        from dreambooth_resume.models.tiny import build_tiny_sdxl

        build_tiny_sdxl(Path(command["build_model"]))
        return 0
    os.chdir(command["cwd"])
    os.environ.update(command.get("environment", {}))
    os.environ["DBR_TEST_HOME"] = command["home"]
    _set_clock_off(command.get("clock_off", 0.0))
    for name, value in command.get("limits", {}).items():
        _limit(name, value)
    if faults := command.get("faults"):
        from tests.resume.faults import install

        install(faults)
    bucket_home = command.get("bucket_home")
    if slow_copy_seconds := command.get("slow_copies"):
        _make_copies_slow(slow_copy_seconds)
    else:
        _let_saves_keep_up()
    watches = [_recorder(command["record"])] if command.get("record") else []
    watches += [_crasher(command["crash"])] if command.get("crash") else []
    for watch in watches:
        if bucket_home is None:
            _watch_writes(watch)
        else:
            _watch_requests(watch, bucket_home)
    if command.get("prelude"):
        _named(command["prelude"])()
    program = _named(command.get("program") or "dreambooth_resume.cli.main:main")
    code: int = program(command["argv"])
    return code


def _named(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


Watch = Callable[[str, str, str], None]
"""(before | after, name of the call, path below the home) -> nothing, or the end of the process."""


def _watch_writes(watch: Watch) -> None:
    """Wrap every call by which a local home changes, so that each is a crash point and none can be forgotten."""

    def wrap(name: str, path_of: Callable[..., str]) -> None:
        real = getattr(os, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            path = _shown(path_of(*arguments))
            watch("before", name, path)
            result = real(*arguments, **options)
            watch("after", name, path)
            return result

        setattr(os, name, watched)

    wrap("link", lambda source, target, *_: str(target))
    wrap("replace", lambda source, target, *_: str(target))
    wrap("fsync", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    wrap("unlink", lambda path, *_: str(path))


def _watch_requests(watch: Watch, bucket_home: str) -> None:
    """Wrap the one way by which the SDK sends, so that every request is a crash point and none can be forgotten."""
    from botocore.httpsession import URLLib3Session

    real = URLLib3Session.send

    def send(session: URLLib3Session, request: Any) -> Any:
        name = _name_of(request.method, request.url, bucket_home)
        watch("before", *name)
        response = real(session, request)
        watch("after", *name)
        return response

    URLLib3Session.send = send


def _name_of(method: str, url: str, bucket_home: str) -> tuple[str, str]:
    """What a request does, and the key below the home; probes (whose names are random) as one."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    prefix = bucket_home.partition("/")[2]
    if "list-type" in query or (method == "GET" and "uploads" in query):
        name = "LIST" if "list-type" in query else "LIST uploads"
        return name, query.get("prefix", [""])[0].removeprefix(f"{prefix}/")
    in_parts = {("POST", "uploads"): " begin", ("PUT", "uploadId"): " part", ("POST", "uploadId"): " complete"}
    step = next((shown for (verb, word), shown in in_parts.items() if verb == method and word in query), "")
    key = unquote(parts.path).removeprefix(f"/{bucket_home}/")
    return f"{method}{step}", re.sub(r"[0-9a-f]{32}", "x", key) if key.startswith("control/") else key


def _limit(name: str, value: float) -> None:
    """Give a constant, or a keyword argument's default, another value in this child."""
    module, _, attribute = name.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, last = attribute.split(".")
    for one in classes:
        owner = getattr(owner, one)
    if classes and last in (owner.__init__.__kwdefaults__ or {}):
        owner.__init__.__kwdefaults__[last] = value
    else:
        assert hasattr(owner, last), name
        setattr(owner, last, value)


def _make_copies_slow(seconds: float) -> None:
    """Let every copy of the state take so long, most of it between its first pieces and its last."""
    import numpy as np

    from dreambooth_resume.checkpoint.manager import CheckpointManager

    def slow(to: Any, live: Any) -> None:
        np.copyto(to[: len(to) // 2], live[: len(to) // 2])
        if len(to) > 4096:
            time.sleep(seconds)
        np.copyto(to[len(to) // 2 :], live[len(to) // 2 :])

    assert CheckpointManager.__init__.__kwdefaults__ is not None
    CheckpointManager.__init__.__kwdefaults__["copy_bytes"] = slow


def _let_saves_keep_up() -> None:
    """Begin no save in the background while one is under way, as in a training whose steps take seconds.

    Those of the tiny model take milliseconds: on a slow disk newer saves would replace the ones that wait, and which
    checkpoints there are would be the disk's doing. Not for long, and never again: then the storage is in trouble.
    """
    from dreambooth_resume.checkpoint.manager import CheckpointManager

    real, is_patient = CheckpointManager.save_in_background, True

    @functools.wraps(real)
    def save_in_background(manager: Any, state: Any, **options: Any) -> None:
        nonlocal is_patient
        deadline, thread = time.monotonic() + _SAVE_SECONDS, manager._thread
        while is_patient and thread.pending_step is not None and thread.alarm is None:
            is_patient = time.monotonic() < deadline
            thread.check()
            time.sleep(0.001)
        real(manager, state, **options)

    CheckpointManager.save_in_background = save_in_background  # type: ignore[method-assign]


def _set_clock_off(seconds: float) -> None:
    """Set this child's wall clock off, and leave the one that measures elapsed time alone."""
    if not seconds:
        return
    real_time, real_datetime = time.time, datetime.datetime

    class ClockOff(real_datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return real_datetime.now(tz) + datetime.timedelta(seconds=seconds)

    time.time = lambda: real_time() + seconds
    datetime.datetime = ClockOff  # type: ignore[misc]
    for module in [one for name, one in sys.modules.items() if name.startswith("dreambooth_resume")]:
        if getattr(module, "datetime", None) is real_datetime:
            module.datetime = ClockOff  # type: ignore[attr-defined]


def _shown(path: str) -> str:
    """The path below the home, temporaries (whose names are random) as one."""
    relative = os.path.relpath(path, os.environ["DBR_TEST_HOME"]) if os.path.isabs(path) else path
    return ".tmp" if ".tmp/" in relative else relative


def _recorder(file: str) -> Watch:
    def record(when: str, call: str, path: str) -> None:
        if when == "before":
            with lock, open(file, "a") as out:
                out.write(f"{call} {path}\n")

    lock = threading.Lock()

    return record


def _crasher(crash: dict[str, Any]) -> Watch:
    """End the process at the nth time that this call is made on this path: no handler, no flush, no farewell."""
    seen: Counter[tuple[str, str, str]] = Counter()
    wanted = (crash["when"], crash["call"], crash["path"])
    lock = threading.Lock()

    def count(when: str, call: str, path: str) -> None:
        with lock:
            seen[when, call, path] += 1
            if (when, call, path) == wanted and seen[wanted] == crash["nth"]:
                os.kill(os.getpid(), signal.SIGKILL)

    return count


if __name__ == "__main__":
    main()
