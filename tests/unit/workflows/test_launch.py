"""A launch to other machines: refused before anything is made, or whole; a start that fails leaves nothing."""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.config.load import parse_train
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.data.inputs import INPUTS_LIST, VALIDATION_INPUTS_LIST
from dreambooth_resume.errors import BadInput, ComeBack, HolderAlive, StoppedOnPurpose
from dreambooth_resume.launch.base import Job, JobStatus
from dreambooth_resume.launch.launchers import LAUNCHERS
from dreambooth_resume.launch.ledger import remember
from dreambooth_resume.launch.record import forget_launch, read_launches
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.workflows import launch as launching
from dreambooth_resume.workflows.launch import (
    prepare,
    prepare_again,
    start,
    with_the_service_of_here,
    without_the_machine,
)
from dreambooth_resume.workflows.launched import list_launches
from tests.fakes.far_launcher import ENTRY, FarLauncher
from tests.fakes.s3_server import ENVIRONMENT, shared_server

MODEL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FarLauncher]:
    """A launcher `far`, the S3 server, and a state folder of this test's own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HF_TOKEN", "hf_canary-that-nobody-may-see")
    monkeypatch.setitem(LAUNCHERS, "far", ENTRY)
    FarLauncher.reset()
    return FarLauncher


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw_pictures(tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.fixture
def uri() -> str:
    return shared_server().new_home()


def words(pictures: Path, uri: str, *more: str) -> list[str]:
    return [
        *("--pretrained_model_name_or_path", MODEL, "--instance_data_dir", str(pictures)),
        *("--instance_prompt", "a photo of sks robot", "--resolution", "64", "--storage_uri", uri),
        *("--s3_endpoint_url", shared_server().url, *more),
    ]


def storage_of(uri: str) -> S3Storage:
    return S3Storage(uri, S3Settings(endpoint_url=shared_server().url))


def test_an_s3_service_of_this_machine_alone_is_warned_of_where_others_are_to_reach_it(
    pictures: Path, uri: str, tmp_path: Path
) -> None:
    told: list[str] = []
    prepare("far", words(pictures, uri), tell=told.append)
    (warning,) = told
    assert shared_server().url in warning
    assert "Give an address" in warning
    told.clear()
    prepare("local", words(pictures, uri), tell=told.append)
    assert told == []


def test_an_s3_service_that_only_the_environment_here_names_goes_along(
    pictures: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = words(pictures, uri)
    at = given.index("--s3_endpoint_url")
    monkeypatch.setenv("AWS_ENDPOINT_URL", shared_server().url)
    prepared = prepare("far", given[:at] + given[at + 2 :])
    assert prepared.request.s3.endpoint_url == shared_server().url
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3-fips.us-east-1.amazonaws.com")
    assert with_the_service_of_here(parse_train(given[:at] + given[at + 2 :])).value("s3_endpoint_url") is None


def test_the_home_gets_what_an_empty_machine_needs_and_no_secret(pictures: Path, uri: str) -> None:
    prepared = prepare("far", words(pictures, uri, "--zone", "b", "--rank", "8", "--output_dir", "out"))
    storage = storage_of(uri)
    assert storage.list() == [], "looked at, and nothing made"
    job = start(prepared, print)
    (request,) = FarLauncher.started
    assert request.command[:4] == ("supervise", uri, "--launch", request.launch_id)
    assert "--price_per_hour" in request.command
    assert request.package is not None
    kept = {found.key: storage.read(found.key) for found in storage.list()}
    assert hashlib.sha256(kept[request.package.wheel_key]).hexdigest() == request.package.wheel_sha256
    assert INPUTS_LIST in kept
    assert len([key for key in kept if key.startswith("inputs/")]) == len(list(pictures.iterdir()))
    (launch,) = read_launches(storage)
    assert (launch.job, launch.settings, launch.launcher) == (job, {"zone": "b"}, "far")
    assert launch.words[launch.words.index("--rank") : launch.words.index("--rank") + 2] == ("--rank", "8")
    assert not {"--storage_uri", "--output_dir", "--zone"} & set(launch.words)
    assert not [key for key, body in kept.items() if b"canary" in body]


def test_each_list_of_pictures_is_copied_once(pictures: Path, uri: str, tmp_path: Path) -> None:
    draw_pictures(tmp_path / "held-out")
    prepared = prepare("far", words(pictures, uri, "--validation_data_dir", str(tmp_path / "held-out")))
    assert [list_key for list_key, _ in prepared.to_store] == [INPUTS_LIST, VALIDATION_INPUTS_LIST]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--hub_token", "hf_secret", "--push_to_hub"), "is a secret"),
        (("--no_store_inputs",), "keeps the pictures on this machine"),
        (("--pretrained_model_name_or_path", "MODEL"), "is on this machine alone"),
        (("--network_weights", "FILE"), "is on this machine alone"),
        (("--validation_prompts_file", "FILE", "--validation_prompt", "a dog"), "is on this machine alone"),
        (("--instance_data_dir", "EMPTY"), "No pictures found"),
        (("--max_cost", "-1"), "is too small"),
    ],
)
def test_what_can_not_work_there_is_refused_and_nothing_is_made(
    more: tuple[str, ...], expected: str, pictures: Path, uri: str, tmp_path: Path
) -> None:
    for name in ("MODEL", "EMPTY"):
        (tmp_path / name).mkdir()
    (tmp_path / "FILE").write_text("a red dog\n")
    typed = [str(tmp_path / word) if word in ("MODEL", "EMPTY", "FILE") else word for word in more]
    with pytest.raises(BadInput, match=expected) as refused:
        prepare("far", words(pictures, uri, *typed))
    assert "hf_secret" not in str(vars(refused.value))
    assert storage_of(uri).list() == []
    assert FarLauncher.started == []


def test_a_folder_of_this_machine_is_no_home_for_others(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "dog"
    typed = words(pictures, "s3://nowhere/x")
    typed = [*typed[:8], "--output_dir", str(home)]
    assert main(["launch", "far", *typed]) == 2
    assert "--storage_uri s3://BUCKET/NAME" in capsys.readouterr().err
    assert not home.exists()


def test_a_start_that_fails_leaves_no_launch_behind(pictures: Path, uri: str, far: type[FarLauncher]) -> None:
    far.fails = True
    with pytest.raises(ComeBack, match="no machine is free"):
        start(prepare("far", words(pictures, uri)), print)
    assert read_launches(storage_of(uri)) == ()
    far.fails = False
    start(prepare("far", words(pictures, uri)), print)
    assert len(read_launches(storage_of(uri))) == 1


def test_a_second_launch_is_refused_while_a_job_lives_wherever_it_is(
    pictures: Path, uri: str, far: type[FarLauncher]
) -> None:
    start(prepare("far", words(pictures, uri)), print)
    far.state = "waiting"
    with pytest.raises(HolderAlive, match="was launched already"):
        prepare("far", words(pictures, uri))
    far.state = "ended"
    prepare("far", words(pictures, uri))


def test_of_two_terminals_one_launches_and_a_stop_in_between_gives_the_job_back(
    pictures: Path, uri: str, far: type[FarLauncher], tmp_path: Path
) -> None:
    one, other, told = prepare("far", words(pictures, uri)), prepare("far", words(pictures, uri)), list[str]()
    far.while_starting = lambda request: forget_launch(storage_of(uri), request.launch_id)
    with pytest.raises(StoppedOnPurpose):
        start(one, told.append)
    assert far.released == [one.request.name]
    assert read_launches(storage_of(uri)) == ()
    far.while_starting = lambda _request: setattr(far, "state", "waiting")
    # What `dbr launch list` reads can't be written: the launch has worked all the same.
    (tmp_path / "state").write_text("no folder")
    job = start(one, told.append)
    assert re.search("warning: dbr launch list on this machine won't show it, because of .*state", told[-1])
    with pytest.raises(HolderAlive, match="was launched already"):
        start(other, told.append)
    assert [launch.job for launch in read_launches(storage_of(uri))] == [job]


def test_resume_takes_launcher_settings_and_options_from_the_home(pictures: Path, uri: str) -> None:
    start(prepare("far", words(pictures, uri, "--zone", "b", "--rank", "8", "--max_hours", "3")), print)
    s3 = ["--s3_endpoint_url", shared_server().url]
    again = prepare_again(uri, None, [*s3, "--max_hours", "6"])
    assert again.where == "far"
    assert again.settings == {"zone": "b"}
    assert again.request.options.lora.rank == 8
    assert again.request.options.budget.max_hours == 6
    of_the_machine = ("--price_per_hour", "0.1", "--spot", "aws", "--deadline", "3h", "--notice_file", "/run/notice")
    assert without_the_machine((*of_the_machine, "--max_cost", "5")) == ("--max_cost", "5")
    with pytest.raises(BadInput, match="was not launched"):
        prepare_again(shared_server().new_home(), None, s3)


def test_a_stop_gives_machines_back_once_nobody_trains(
    pictures: Path, uri: str, far: type[FarLauncher], capsys: pytest.CaptureFixture[str]
) -> None:
    job = start(prepare("far", words(pictures, uri)), print)
    far.state = "waiting"
    assert main(["stop", uri, "--s3-endpoint-url", shared_server().url]) == 0
    assert "is given back" in capsys.readouterr().out
    assert far.released == [job.name]


def test_a_bucket_that_does_not_answer_hides_no_other_launch_from_the_list(pictures: Path, uri: str) -> None:
    job = start(prepare("far", words(pictures, uri)), print)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It takes connections, and says nothing on them.
        s3 = S3Settings(endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}", path_style=True)
        remember("1" * 32, home="s3://gone/cat", launcher="far", job=Job(name="cat", values={}), s3=s3)
        assert {row.because for row in list_launches(patience_seconds=0.0)} <= {
            "has not answered for 0 s",
            "was not asked yet",
        }
        rows = {row.home: row for row in list_launches(patience_seconds=60.0)}
    assert rows["s3://gone/cat"].state == rows["s3://gone/cat"].run == "unknown"
    assert re.search("s3://gone/cat.*127.0.0.1", rows["s3://gone/cat"].because)
    assert (rows[uri].job, rows[uri].state, rows[uri].run) == (job.name, "ended", "not begun")


def test_launches_that_nobody_came_to_ask_are_not_said_to_be_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        s3 = S3Settings(endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}", path_style=True)
        for number in range(18):
            remember(f"{number:032d}", home=f"s3://gone/{number}", launcher="far", job=Job(name="", values={}), s3=s3)
        reasons = [row.because for row in list_launches(patience_seconds=1.0)]
    assert reasons == ["has not answered for 1 s"] * 16 + ["was not asked yet"] * 2


def test_an_error_of_one_launch_is_said_in_its_line_and_hides_no_other(
    pictures: Path, uri: str, far: type[FarLauncher], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(self: FarLauncher, job: Job) -> JobStatus:
        raise IndexError("a platform's answer of another shape")

    start(prepare("far", words(pictures, uri)), print)
    monkeypatch.setattr(far, "look", look)
    remember("1" * 32, home=str(pictures.parent / "cat"), launcher="far", job=Job(name="", values={}), s3=S3Settings())
    rows = {row.home: row for row in list_launches(patience_seconds=60.0)}
    assert rows[uri].because == "IndexError: a platform's answer of another shape"
    assert rows[str(pictures.parent / "cat")].run == "not begun"


def test_every_option_that_names_a_path_has_its_place() -> None:
    named = {*launching.COPIED, *launching.NEEDED_THERE, *launching.LEFT_OUT, *launching.MEANT_THERE}
    paths = {
        option.name
        for option in OPTIONS.values()
        if option.kind == "text"
        and (
            re.search(r"_(?:dir|file|path|folder)$", option.name)
            or re.match(r"(?:A )?(?:file|folder)\b", option.help, re.I)
        )
    }
    assert len(paths) >= 7
    assert paths <= named
