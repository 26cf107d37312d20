"""Every command that takes HOME takes s3://BUCKET/NAME; a listing of runs asks little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from tests.fakes.fault_proxy import FaultProxy
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
