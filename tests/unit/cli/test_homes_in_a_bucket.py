"""Every command that takes HOME takes s3://BUCKET/NAME; a listing of runs asks little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.config.load import parse_train
from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.entries import sealed
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.workflows.home import S3_OPTIONS, Place, cache_folder_for, find_place, open_home
from tests.fakes.fault_proxy import FaultProxy, What
from tests.fakes.s3_server import ENVIRONMENT, shared_server
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import beat, record_run


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix that nobody has used, on a server that boto3 finds by its own environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", shared_server().url)
    return shared_server().new_home()


def make_run(address: str, *, stop: bool = True) -> S3Storage:
    storage = S3Storage(address)
    record_run(storage)
    attempt = begin(storage, limit=2)
    for step in (1, 2, 3):
        attempt.commit(step)
    beat(storage, 1, step=3)
    if stop:
        attempt.stop()
    return storage


def test_every_command_reads_a_home_in_a_bucket(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = make_run(address)
    storage.write("checkpoint-9/trainer_state.json", [b"never committed"])
    for words in (["status"], ["history"], ["checkpoints", "list"], ["checkpoints", "verify"], ["stop"], ["save-now"]):
        assert main([*words, address]) == 0, capsys.readouterr().err
    assert main(["checkpoints", "pull", address, str(tmp_path)]) == 0
    assert (tmp_path / "checkpoint-3" / "pytorch_lora_weights.safetensors").is_file()
    assert main(["gc", address, "--yes"]) == 0
    assert storage.list("checkpoint-9/") == []
    assert main(["checkpoints", "delete", address, "2", "--yes"]) == 0
    assert main(["delete", address, "--yes"]) == 0
    assert storage.list() == []
    assert main(["status", address]) == 2
    assert f"dbr runs {address.rpartition('/')[0]}" in capsys.readouterr().err


def test_the_endpoint_may_be_given_by_an_option(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(address)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert main(["status", address, "--s3-endpoint-url", shared_server().url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["durable_step"] == 3
    assert main(["status", address, "--s3_endpoint_url", "not an address"]) == 2


def test_a_home_is_reached_by_the_options_of_train(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Region, style and encryption are on the wire; bad values are refused in the words of `dbr train`."""
    make_run(address)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with FaultProxy(shared_server().port) as proxy:
        reach = ["--s3_endpoint_url", proxy.url, "--s3-region", "eu-central-1", "--s3-addressing-style", "path"]
        assert main(["gc", address, "--yes", *reach, "--s3-sse", "aws:kms", "--s3-kms-key-id", "key-7"]) == 0
        puts = [request for request in proxy.requests("PUT") if "/log/" in request.key]
    assert puts
    for request in puts:
        assert "/eu-central-1/s3/" in request.headers["Authorization"]
        assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-7"
    capsys.readouterr()
    assert main(["status", address, "--s3-addressing-style", "bath"]) == 2
    refused = capsys.readouterr().err
    assert '"bath" is not one of auto, path, virtual' in refused
    assert "--s3-addressing-style path" in refused or "--s3_addressing_style path" in refused


@pytest.mark.parametrize("command", ["status", "history", "checkpoints", "runs", "stop", "save-now", "gc", "delete"])
def test_every_command_that_takes_a_home_takes_every_option_that_leads_there(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, *(["list"] if command == "checkpoints" else []), "--help"])
    page = capsys.readouterr().out
    missing = [name for name in S3_OPTIONS if f"--{name.replace('_', '-')}" not in page]
    assert missing == []


def test_a_store_without_conditional_writes_is_used_if_the_user_says_so(address: str) -> None:
    make_run(address)
    with FaultProxy(shared_server().port) as proxy:
        proxy.add(What.ANSWER, verb="PUT", conditional=True, times=None, status=501, code="NotImplemented")
        assert main(["gc", address, "--yes", "--s3-endpoint-url", proxy.url]) == 2
        assert main(["gc", address, "--yes", "--s3-endpoint-url", proxy.url, "--unfenced"]) == 0


def test_delete_takes_along_what_this_machine_holds_of_the_run(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage, digest = make_run(address), "a" * 64
    record = read_record(storage)
    assert record is not None
    picture = {"name": "rex.png", "sha256": digest, "size_bytes": 3, "width": 1, "height": 1}
    storage.write("inputs.json", [sealed({"format": 1, "pictures": [picture]})])
    in_cache, named = cache_folder_for(address), tmp_path / "stage"
    ours = [
        folder / name
        for folder in (in_cache, named)
        for name in (f"staged/{record.run_id}/checkpoint-9/trainer_state.json", f"fetched-inputs/{digest}")
    ]
    others = [named / "staged/another-run/checkpoint-1/x", named / f"fetched-inputs/{'b' * 64}", named / "mine.txt"]
    result, copy = named / "pytorch_lora_weights.safetensors", in_cache / "pytorch_lora_weights.safetensors"
    for file in [*ours, *others, result, copy]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"rex")
    assert main(["delete", address, "--yes", "--stage-dir", str(named)]) == 0
    page = capsys.readouterr().out
    assert f"On this machine: 5 files, 15 bytes, in {in_cache}, {named}" in page
    assert "and 5 files on this machine" in page
    assert storage.list() == []
    assert not in_cache.exists()
    assert [file for file in ours if file.exists()] == []
    assert all(file.exists() for file in [*others, result])


def test_runs_in_a_bucket_cost_one_list_and_two_gets_each(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dog", "cats/tom", ".trash/old"):
        make_run(f"{address}/{name}", stop=False)
    with FaultProxy(shared_server().port) as proxy:
        assert main(["runs", f"{address}/", "--s3-endpoint-url", proxy.url]) == 0
        page = capsys.readouterr().out
        asked = [(request.verb, request.key) for request in proxy.requests()]
    assert [line.split()[0] for line in page.splitlines()[1:]] == [f"{address}/cats/tom", f"{address}/dog"]
    # Two folders that are no run (the one asked about, and cats) and two that are.
    assert len(asked) == 2 * 3 + 2 * 3, asked


def test_a_bucket_without_runs_says_so(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", address]) == 0
    assert f"No run in {address}" in capsys.readouterr().out


def test_one_broken_run_does_not_hide_the_others(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(f"{address}/good")
    make_run(f"{address}/broken").write("log/00000005.json", [b"torn"])
    assert main(["runs", address]) == 0
    broken, good = capsys.readouterr().out.splitlines()[1:]
    assert "unreadable" in broken
    assert "interrupted" in good


def test_a_bucket_that_is_not_there_is_bad_input(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "s3://no-such-bucket-here/"]) == 2
    assert "no-such-bucket-here" in capsys.readouterr().err
    assert S3Storage(address, S3Settings()).list() == []


def place_at(address: str) -> Place:
    return find_place(parse_train(["--storage_uri", address]))


def test_a_new_home_inside_another_runs_is_refused(address: str) -> None:
    """`checkpoint-5` of the outer run, cleared as nobody's, would be the inner run's."""
    make_run(address)
    for inner in (f"{address}/checkpoint-5", f"{address}/run.json", f"{address}/deep/in/it"):
        with pytest.raises(BadInput, match=f"lies inside the home of another run, {address}"):
            open_home(place_at(inner))
    assert open_home(place_at(f"{address}-beside")).record is None
    assert open_home(place_at(address)).record is not None


def test_an_object_that_is_no_run_is_refused(address: str) -> None:
    folder, _, name = address.rpartition("/")
    S3Storage(folder).write(f"{name}.zip", [b"x" * 100_000])
    S3Storage(folder).write(name, [])
    with pytest.raises(BadInput, match="is an object; a home is a folder of them") as refused:
        open_home(place_at(f"{address}.zip"))
    assert f"{address}.zip-run" in str(refused.value.fix)
    assert open_home(place_at(address)).record is None, "consoles make an empty object for a folder"


def test_what_lies_above_may_be_out_of_reach(address: str) -> None:
    """A policy for `bucket/dog/*` alone is enough: 403 above it is no reason to refuse."""
    with FaultProxy(shared_server().port) as proxy:
        inside = f"{address.removeprefix('s3://').partition('/')[2]}/"
        for key in ("run.json", "runs/run.json", inside.rstrip("/")):
            proxy.add(What.ANSWER, verb="GET", key=key, times=None, status=403, code="AccessDenied")
        given = parse_train(["--storage_uri", address, "--s3_endpoint_url", proxy.url])
        assert open_home(find_place(given)).record is None
        assert sum(fault.acted for fault in proxy.state.faults) == 3
