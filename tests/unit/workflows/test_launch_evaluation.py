"""An evaluation that is launched: refused before anything is made, or a job of its own beside the run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from dreambooth_resume.cli.main import main
from dreambooth_resume.launch.base import Job, launch_name
from dreambooth_resume.launch.launchers import LAUNCHERS, settings_options
from dreambooth_resume.launch.record import read_launches, write_launch, write_started
from dreambooth_resume.launch.skypilot.settings import SkyPilotSettings
from dreambooth_resume.launch.skypilot.task import task_yaml
from dreambooth_resume.launch.state_folder import launch_folder, output_file
from dreambooth_resume.runs.record import Pins, new_record, write_record
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.workflows.launched import newest_job
from dreambooth_resume.workflows.supervise import Order, supervise
from tests.fakes.far_launcher import ENTRY, FarLauncher
from tests.fakes.s3_server import ENVIRONMENT, shared_server
from tests.fakes.toy_run import begin

MODEL = "stabilityai/stable-diffusion-xl-base-1.0"
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FarLauncher]:
    """A launcher `far`, the S3 server, and a state folder of this test's own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setitem(LAUNCHERS, "far", ENTRY)
    FarLauncher.reset()
    return FarLauncher


def trained(storage: Storage, model: str = MODEL) -> None:
    """A run with two checkpoints."""
    write_record(
        storage,
        new_record(
            options={
                "pretrained_model_name_or_path": model, "instance_prompt": "a photo of sks dog", "max_train_steps": 4,
                "instance_data_dir": "dog", "output_dir": "dog",
            },
            seed=0, effective_batch=4, block_size=4, pins=Pins(base_model={}, dataset="0" * 64), numerics={},
        ),
    )  # fmt: skip
    attempt = begin(storage)
    attempt.commit(1)
    attempt.commit(2)


@pytest.fixture
def uri() -> str:
    return shared_server().new_home()


@pytest.fixture
def storage(uri: str) -> S3Storage:
    found = S3Storage(uri, S3Settings(endpoint_url=shared_server().url))
    trained(found)
    return found


def s3() -> list[str]:
    return ["--s3-endpoint-url", shared_server().url]


def keys(storage: Storage) -> set[str]:
    return {found.key for found in storage.list()}


def test_the_job_has_its_options_in_the_home_and_the_training_knows_nothing_of_it(
    storage: S3Storage, uri: str, far: type[FarLauncher], capsys: pytest.CaptureFixture[str]
) -> None:
    before = keys(storage)
    words = ["eval", uri, *s3(), "--on", "far", "--zone", "b", "--num_images=1", "--subject", "sks dog"]
    assert main([*words, "--dry-run"]) == 0
    assert f"supervise {uri} --launch" in capsys.readouterr().out
    assert keys(storage) == before
    assert main(words) == 0
    assert f"dbr stop {uri} --eval" in capsys.readouterr().out
    (request,) = far.started
    assert request.name.startswith("dbr-eval-")
    assert request.command[:4] == ("supervise", uri, "--launch", request.launch_id)
    assert request.options.model.pretrained_model_name_or_path == MODEL
    (launch,) = read_launches(storage, "eval")
    assert (launch.words, launch.settings) == (("--subject=sks dog", "--num_images=1"), {"zone": "b"})
    assert newest_job(storage) is None
    added = {key.split("/")[0] for key in keys(storage) - before}
    assert added == {"notes", "packages"}, "neither in the log nor in control/"

    far.state = "waiting"
    assert main(["delete", uri, *s3(), "--yes"]) == 75
    assert "An evaluation of" in capsys.readouterr().err
    assert main(words) == 75
    assert "was launched already" in capsys.readouterr().err
    assert main(["stop", uri, *s3()]) == 0
    assert f"An evaluation goes on ({request.name}): dbr stop {uri} --eval" in capsys.readouterr().out
    assert far.released == []
    assert main(["stop", uri, *s3(), "--eval"]) == 0
    assert far.released == [request.name], "that platform has no word for it, so its machine is given back"


def test_one_that_died_while_it_launched_is_waited_for_and_found_by_its_number(
    storage: S3Storage, uri: str, far: type[FarLauncher], capsys: pytest.CaptureFixture[str]
) -> None:
    write_launch(storage, ID, launcher="far", settings={}, words=(), version="1", purpose="eval")
    assert main(["eval", uri, *s3(), "--on", "far"]) == 75
    assert re.search(f"is being launched already .far, by .*dbr stop {uri} --eval", capsys.readouterr().err)
    far.lost, far.state = launch_name(uri, ID, purpose="eval"), "running"
    assert main(["stop", uri, *s3(), "--eval"]) == 0
    assert far.lost.startswith("dbr-eval-")
    assert far.released == [far.lost]
    assert f"Told {far.lost} to end" in capsys.readouterr().out
    # Of one of which nothing is there, nothing is left.
    far.lost = None
    write_launch(storage, "f" * 32, launcher="far", settings={}, words=(), version="1", purpose="eval")
    assert main(["stop", uri, *s3(), "--eval"]) == 0
    assert [launch.id for launch in read_launches(storage, "eval")] == [ID]


def test_a_start_that_fails_leaves_no_launch_behind(storage: S3Storage, uri: str, far: type[FarLauncher]) -> None:
    far.fails = True
    assert main(["eval", uri, *s3(), "--on", "far"]) == 75
    assert read_launches(storage, "eval") == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "aws"], "--on aws: launches trainings alone"),
        (["--on", "hf-jobs"], "one of local, slurm, skypilot, kubernetes, far"),
        (["--on", "slrum"], "is no launcher"),
        (["--on"], "needs a value"),
        (["--dry-run"], "shows what a launcher would be sent"),
        (["--on", "far", "--json"], "a job has nobody to show it to"),
        (["--on", "far", "--metrics", "loss"], "is computed by the training alone"),
        (["--on", "far", "--metrics", "dinosaur"], "dinosaur is none"),
        (["--on", "far", "--steps", "7"], "--steps 7"),
        (["--on", "far", "--prompts", "nowhere.txt"], "is no file that can be read"),
        (["--on", "far", "--prompts", "FILE"], "--prompts: FILE is on this machine alone"),
        (["--on", "far", "--dino-model", "FILE"], "fix: name one of the Hub"),
        (["--on", "far", "--zone"], "needs a value"),
        (["--on", "far", "--partition", "x"], "unrecognized arguments: --partition"),
    ],
)
def test_what_can_not_work_there_is_refused_and_nothing_is_made(
    words: list[str], said: str, storage: S3Storage, uri: str, tmp_path: Path, far: type[FarLauncher],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("a red {}\n")
    before = keys(storage)
    assert main(["eval", uri, *s3(), *words]) == 2
    assert said in capsys.readouterr().err
    assert keys(storage) == before
    assert far.started == []


def test_a_home_or_a_base_model_of_this_machine_alone_is_refused_for_others_and_taken_here(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(LocalStorage(tmp_path / "dog"))
    assert main(["eval", str(tmp_path / "dog"), "--on", "far"]) == 2
    assert "is a folder of this machine" in capsys.readouterr().err
    (tmp_path / "sdxl").mkdir()
    trained(S3Storage(uri, S3Settings(endpoint_url=shared_server().url)), model=str(tmp_path / "sdxl"))
    assert main(["eval", uri, *s3(), "--on", "far"]) == 2
    assert "pretrained_model_name_or_path of the run" in capsys.readouterr().err
    assert main(["eval", uri, *s3(), "--on", "far", "--pretrained-model-name-or-path", MODEL]) == 0
    # On this machine a file is named so that it is found from anywhere.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("a red {}\n")
    capsys.readouterr()
    assert main(["eval", "dog", "--on", "local", "--prompts", "mine.txt", "--dry-run"]) == 0
    assert f"supervise {tmp_path / 'dog'} --launch" in capsys.readouterr().out


def supervised(home: Path, program: Path, *words: str) -> tuple[int, list[str]]:
    """The supervisor's exit code, and what it said, with `program` in place of dbr."""
    told: list[str] = []
    order = Order(
        home=str(home), launch_id=ID, queue=False, words=words, tell=told.append, program=(sys.executable, str(program))
    )
    return supervise(order), told


def test_a_launched_machine_evaluates_with_the_words_of_the_note_while_another_supervises_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, program = tmp_path / "dog", tmp_path / "dbr.py"
    write_launch(
        LocalStorage(home), ID, launcher="local", settings={}, words=("--steps=all",), version="1", purpose="eval"
    )
    # Told of an address, it posts nothing to it: that one waits for the training.
    monkeypatch.setenv("DBR_NOTIFY", "http://127.0.0.1:1/nobody")
    program.write_text(f"import sys; open({str(tmp_path / 'words')!r}, 'w').write(repr(sys.argv[1:]))")
    code, told = supervised(home, program, "--stage_dir", "/elsewhere", "--s3_region", "eu-west-1")
    assert code == 0
    assert (tmp_path / "words").read_text() == repr(["eval", str(home), "--steps=all", "--s3_region=eu-west-1"])
    assert told == []
    # Within a supervised training of the same home, the same again: one holds nothing that the other needs.
    inner = tmp_path / "inner.py"
    inner.write_text(
        "import sys\nfrom dreambooth_resume.workflows.supervise import Order, supervise\n"
        f"sys.exit(supervise(Order(home={str(home)!r}, launch_id={ID!r}, queue=False, words=(), tell=print, "
        f"program=(sys.executable, {str(program)!r}))))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    (tmp_path / "words").unlink()
    order = Order(
        home=str(home), launch_id=None, queue=False, words=(), tell=told.append, program=(sys.executable, str(inner))
    )
    assert supervise(order) == 0
    assert (tmp_path / "words").exists()


def test_its_output_is_not_taken_for_the_trainings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(tmp_path / "dog")
    trained(storage)
    for launch_id, purpose, line in (("a" * 32, "train", "step 1"), ("b" * 32, "eval", "picture 1")):
        write_launch(storage, launch_id, launcher="local", settings={}, words=(), version="1", purpose=purpose)  # type: ignore[arg-type]
        write_started(storage, launch_id, launcher="local", job=Job(name="pid 1", values={"launch": launch_id}))
        launch_folder(launch_id).mkdir(parents=True)
        output_file(launch_id).write_text(f"{line}\n")
    for words, line in (([], "step 1"), (["--eval"], "picture 1")):
        assert main(["logs", str(storage.root), *words]) == 0
        assert capsys.readouterr().out == f"{line}\n"


def test_skypilots_job_is_an_evaluations(storage: S3Storage, uri: str, far: type[FarLauncher]) -> None:
    assert main(["eval", uri, *s3(), "--on", "far"]) == 0
    (request,) = far.started
    task = yaml.safe_load(task_yaml(request, SkyPilotSettings()))
    assert task["name"] == request.name
    assert task["name"].startswith("dbr-eval-")
    assert task["envs"]["DBR_WORDS"].startswith(f"supervise {uri} --launch {request.launch_id}")
    assert request.package is not None
    assert task["envs"]["DBR_WHEEL_SHA256"] == request.package.wheel_sha256


def test_no_option_of_a_launcher_is_called_like_one_of_eval() -> None:
    from dreambooth_resume.cli.evaluate import _parser

    own = {action.dest for action in _parser()._actions}
    for name in LAUNCHERS:
        assert not own & settings_options(name).keys(), name
