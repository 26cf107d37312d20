"""`dbr doctor` on real folders, a real S3 server and a Hub on this machine: what it finds, and that nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from PIL import Image

from dreambooth_resume.cli.main import _THREADS_LEFT_BEHIND, main
from dreambooth_resume.config.load import parse_train
from dreambooth_resume.insight.findings import Diagnosis
from dreambooth_resume.models.hub_upload import TOKENS_PAGE
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.workflows.checks import THREAD_PREFIX
from dreambooth_resume.workflows.doctor import examine
from dreambooth_resume.workflows.home import find_place
from dreambooth_resume.workflows.look_at_home import look_at_home
from dreambooth_resume.workflows.scratch import SCRATCH_PREFIX, scratch_folder
from tests.fakes.fault_proxy import FaultProxy, What, shared_proxy
from tests.fakes.hub_server import FakeHub, running_hub
from tests.fakes.metadata_server import running_metadata
from tests.fakes.s3_server import ENVIRONMENT, shared_server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures, and no GPU, cloud or cache of this machine."""
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (40 * number, 80, 120)).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def words(folder: Path, tiny_folder: Path) -> list[str]:
    return [
        *("--pretrained_model_name_or_path", str(tiny_folder), "--instance_data_dir", str(folder / "pictures")),
        *("--instance_prompt", "a photo of sks robot", "--output_dir", str(folder / "runs" / "home")),
        *("--resolution", "64", "--max_train_steps", "4", "--spot", "none", "--report_to", "none"),
    ]


def told(found: Diagnosis, severity: str, about: str) -> str:
    return "\n".join(
        f"{one.what} | {one.where} | {one.fix}"
        for one in found.findings
        if (one.severity, one.about) == (severity, about)
    )


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_run_that_is_fine_is_fine_and_nothing_is_left(words: list[str], folder: Path) -> None:
    before = everything(folder)
    found = examine(parse_train(words))
    assert [one.what for one in found.findings if one.severity != "fine"] == []
    about = {one.about for one in found.findings}
    assert about >= {"options", "home", "packages", "pictures", "base model", "disk", "gpu", "notices"}
    assert "put-if-absent works" in told(found, "fine", "home")
    assert everything(folder) == before


def test_everything_that_is_wrong_is_named_at_once(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run.yaml").write_text("lora_rnak: 4\nrank: none\ngradient_checkpointing: true\n")
    (folder / "pictures" / "torn.png").write_bytes(b"\x89PNG")
    broken = ["--validation_steps", "5", "--optimizer", "Lion", "--push_to_hub"]
    code = main(["doctor", "--config", str(folder / "run.yaml"), *words, *broken, "--json"])
    assert code == 2
    page = json.loads(capsys.readouterr().out)
    assert page["is_fatal"] is True
    fatal = " ".join(f"{one['what']} {one['where']}" for one in page["findings"] if one["severity"] == "fatal")
    for problem in ("lora_rnak", "rank", "torn.png", "needs a token"):
        assert problem in fatal, problem
    assert all(one["fix"] for one in page["findings"] if one["severity"] == "fatal")
    warned = " ".join(one["what"] for one in page["findings"] if one["severity"] == "warning")
    assert "validation_steps has no effect: there is no validation_prompt" in warned


@pytest.mark.parametrize(
    ("broken", "about", "what"),
    [
        (["--lr_scheduler", "linear", "--lr_warmup_steps", "9"], "options", "lr_warmup_steps is 9"),
        (["--with_prior_preservation"], "options", "class_prompt"),
        (["--instance_data_dir", "/nowhere"], "pictures", "There is no such folder"),
        (["--pretrained_model_name_or_path", "/nowhere/model"], "base model", "there is no folder"),
        (["--clip_skip", "9"], "start", "text encoder"),
        (["--output_dir", "/proc/none"], "home", "/proc"),
    ],
)
def test_what_train_would_end_with_is_fatal(
    broken: list[str], about: str, what: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = examine(parse_train([*words, *broken]))
    assert what in told(found, "fatal", about), found.findings


def test_a_run_that_has_begun_is_looked_at_as_its_resume_would(words: list[str], folder: Path) -> None:
    home = folder / "runs" / "home"
    (home / "log").mkdir(parents=True)
    (home / "log" / "00000001.json").write_text("{}")
    assert "has a commit log but no run.json" in told(examine(parse_train(words)), "fatal", "home")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    proxy = shared_proxy(shared_server().port)
    yield proxy
    proxy.clear()


def test_a_bucket_is_asked_for_everything_and_left_as_it_was(words: list[str], proxy: FaultProxy) -> None:
    home = shared_server().new_home()
    found = examine(parse_train([*words, "--storage_uri", home, "--s3_endpoint_url", proxy.url]))
    assert not found.is_fatal, found.findings
    assert "put, read, list and delete work" in told(found, "fine", "home")
    assert "of the storage's" in told(found, "fine", "clock")
    written = {request.key for request in proxy.requests("PUT")}
    deleted = {request.key for request in proxy.requests("DELETE")}
    assert written
    assert written <= deleted


@pytest.mark.parametrize(
    ("verbs", "permissions"),
    [
        (["PUT"], ["s3:PutObject"]),
        (["DELETE"], ["s3:DeleteObject"]),
        (["PUT", "DELETE"], ["s3:PutObject", "s3:DeleteObject"]),
    ],
)
def test_each_missing_permission_is_named(
    verbs: list[str], permissions: list[str], words: list[str], proxy: FaultProxy
) -> None:
    for verb in verbs:
        proxy.add(What.ANSWER, verb, status=403, code="AccessDenied", times=None)
    home = shared_server().new_home()
    found = examine(parse_train([*words, "--storage_uri", home, "--s3_endpoint_url", proxy.url]))
    missing = told(found, "fatal", "home")
    for permission in permissions:
        assert f"{permission} is missing" in missing
        assert f'"Action": "{permission}"' in missing


@pytest.fixture
def gate(proxy: FaultProxy) -> Iterator[threading.Event]:
    """Set at the end, when whoever still waits for an answer is waited for: none may outlive the test."""
    gate = threading.Event()
    yield gate
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith(THREAD_PREFIX):
            thread.join(100.0)
            assert not thread.is_alive(), thread


@pytest.mark.parametrize("verb", ["PUT", "*"], ids=["of writes", "of anything"])
def test_no_answer_is_a_finding_and_not_a_wait(
    verb: str, words: list[str], proxy: FaultProxy, gate: threading.Event
) -> None:
    proxy.add(What.DELAY, verb, gate=gate, times=None)
    home = shared_server().new_home()
    began = time.monotonic()
    found = examine(parse_train([*words, "--storage_uri", home, "--s3_endpoint_url", proxy.url]), patience_seconds=2.0)
    # The store's own patience is half a minute, and the gate opens behind us.
    assert found.seconds < 15.0
    assert time.monotonic() - began < 20.0
    assert "no answer within 2 s" in told(found, "warning", "home")
    assert ("once the home can be read" in told(found, "warning", "start")) == (verb == "*")
    assert not gate.is_set()


def test_what_still_waits_for_an_answer_does_not_keep_the_program_from_ending() -> None:
    assert THREAD_PREFIX.startswith(_THREADS_LEFT_BEHIND)


def test_rights_that_only_tidying_needs_are_worth_a_look_and_asked_for_without_a_trace(
    words: list[str], proxy: FaultProxy
) -> None:
    home = shared_server().new_home()
    storage = S3Storage(home, S3Settings(endpoint_url=proxy.url))
    assert storage.missing_to_tidy() == ()
    proxy.add(What.ANSWER, "LIST", "*checkpoint-", status=403, code="AccessDenied", times=None)
    # Of the home alone: a start lists checkpoints below the same prefix.
    place = find_place(parse_train([*words, "--storage_uri", home, "--s3_endpoint_url", proxy.url]))
    found = Diagnosis(findings=tuple(look_at_home(place, unfenced=False)), seconds=0.0)
    assert not found.is_fatal
    assert "s3:ListBucketMultipartUploads is missing" in told(found, "warning", "home")
    proxy.add(What.ANSWER, "DELETE", status=403, code="AccessDenied", times=None)
    missing = storage.missing_to_tidy()
    assert [one.permission for one in missing] == ["s3:ListBucketMultipartUploads", "s3:AbortMultipartUpload"]
    assert not proxy.requests("POST"), "no upload was begun"


def test_the_clock_of_a_file_server_is_compared(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, before = time.time, everything(folder)
    assert "within" in told(examine(parse_train(words)), "fine", "clock")
    monkeypatch.setattr(time, "time", lambda: now() + 4000)
    found = examine(parse_train(words))
    assert not found.is_fatal
    assert re.search(r"this machine's clock is [34],\d{3} s ahead of the storage's", told(found, "warning", "clock"))
    assert everything(folder) == before


@pytest.fixture
def hub(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    files = {
        path.relative_to(tiny_folder).as_posix(): path.read_bytes() for path in tiny_folder.rglob("*") if path.is_file()
    }
    with running_hub(files) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        yield hub


def on_the_hub(words: list[str]) -> list[str]:
    return [*words, "--pretrained_model_name_or_path", "owner/model"]


def test_a_model_on_the_hub_is_looked_at_without_fetching_it(words: list[str], hub: FakeHub, folder: Path) -> None:
    found = examine(parse_train(on_the_hub(words)))
    assert "on the Hub at 0123456789ab, and this machine may fetch it" in told(found, "fine", "base model")
    fetched = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET /owner/model/resolve")}
    assert not {name for name in fetched if name.endswith(".safetensors")}
    assert "config.json" in fetched
    assert not (folder / "cache" / "hub").exists()


def test_a_gated_model_is_fatal_with_its_licence_page(words: list[str], hub: FakeHub) -> None:
    hub.refuse = (403, "GatedRepo")
    found = told(examine(parse_train(on_the_hub(words))), "fatal", "base model")
    assert "owner/model is gated" in found
    assert "https://huggingface.co/owner/model" in found
    assert "hf auth login" in found


def test_a_model_of_another_kind_on_the_hub_is_fatal(words: list[str], hub: FakeHub) -> None:
    hub.files["model_index.json"] = b'{"_class_name": "FluxPipeline"}'
    assert "is a FluxPipeline" in told(examine(parse_train(on_the_hub(words))), "fatal", "base model")


@pytest.mark.parametrize(
    ("role", "severity", "what"), [("read", "fatal", "can only read"), ("write", "fine", "may write")]
)
def test_a_token_must_be_able_to_write_where_pushing_is_asked_for(
    role: str, severity: str, what: str, words: list[str], hub: FakeHub
) -> None:
    hub.role = role
    found = examine(parse_train([*words, "--push_to_hub", "--hub_token", hub.token, "--hub_model_id", "owner/dog"]))
    assert what in told(found, severity, "hub")
    assert (TOKENS_PAGE in told(found, severity, "hub")) == (severity == "fatal")
    assert hub.token not in str(found)


def test_the_cloud_and_its_notice_are_named(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with running_metadata(clouds=frozenset({"aws"})) as fake:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", fake.url)
        found = examine(parse_train([*words, "--spot", "aws"]))
    assert "aws answers, and tells 120 s ahead" in told(found, "fine", "notices")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    assert "does not answer here" in told(examine(parse_train([*words, "--spot", "aws"])), "warning", "notices")


def _driver(folder: Path, text: str) -> None:
    (folder / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "bin" / "nvidia-smi").chmod(0o755)


def test_a_driver_that_does_not_work_is_fatal_for_doctor_and_only_told_at_a_start(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _driver(folder, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    assert "Driver/library version mismatch" in told(examine(parse_train(words)), "fatal", "gpu")
    # What ends this start is behind it, and before torch is loaded.
    assert main(["train", *words, "--push_to_hub"]) == 2
    shown = capsys.readouterr()
    assert "Driver/library version mismatch" in shown.out
    assert "needs a token" in shown.err


def test_a_driver_that_is_slow_is_worth_a_look(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreambooth_resume.insight.devices._PATIENCE_SECONDS", 0.2)
    _driver(folder, "exec /bin/sleep 60")
    assert "not known: nvidia-smi has not answered" in told(examine(parse_train(words)), "warning", "gpu")


def test_killed_in_the_middle_it_leaves_what_the_next_one_clears(
    words: list[str], folder: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    program = (
        "import os, signal\nfrom dreambooth_resume.workflows.scratch import scratch_folder\n"
        "with scratch_folder() as folder:\n    (folder / 'x').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name.startswith(SCRATCH_PREFIX) for path in scratch.iterdir()] == [True]
    again = "from dreambooth_resume.workflows.scratch import scratch_folder\nwith scratch_folder():\n    pass\n"
    subprocess.run([sys.executable, "-c", again], env=environment, timeout=100, check=True)
    assert list(scratch.iterdir()) == []


def test_a_folder_of_another_machine_stays_until_it_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone, elsewhere, unsaid, forgotten = (tmp_path / f"{SCRATCH_PREFIX}4194303-{name}" for name in "abcd")
    dead = this_process().model_copy(update={"pid": 4194303, "started": "long ago"})
    for folder, owner in ((gone, dead), (elsewhere, dead.model_copy(update={"boot_id": "of another machine"}))):
        folder.mkdir()
        (folder / ".owner.json").write_text(owner.model_dump_json())
    for folder in (unsaid, forgotten):
        folder.mkdir()
    os.utime(forgotten, (time.time() - 8 * 24 * 3600.0,) * 2)
    with scratch_folder() as mine:
        assert set(tmp_path.iterdir()) == {elsewhere, unsaid, mine}
    assert set(tmp_path.iterdir()) == {elsewhere, unsaid}


def test_deep_told_to_end_ends_its_training_too(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, number = folder / "bin" / "python", folder / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {number}\n/bin/sleep 3\nkill -TERM $PPID\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    began = time.monotonic()
    try:
        assert main(["doctor", *words, "--deep"]) == 76
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert time.monotonic() - began < 45
    assert _is_gone_within_seconds(20, int(number.read_text()))


def _is_gone_within_seconds(seconds: float, pid: int) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("broken", [[], ["--config", "/nowhere.yaml"], ["--rnak", "4"]])
def test_without_options_there_is_nothing_to_look_at(broken: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *broken]) == 2
    assert "fix: " in capsys.readouterr().err


def test_a_home_with_a_run_is_not_changed(words: list[str], folder: Path) -> None:
    storage = LocalStorage(folder / "other")
    storage.write("notes/x.json", [b"{}"])
    before = everything(folder)
    examine(parse_train([*words, "--output_dir", str(folder / "other")]))
    assert everything(folder) == before
