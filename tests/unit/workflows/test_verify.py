"""How a verification is planned, and what becomes of a training that fails by itself. Trainings are stand-ins here."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from dreambooth_resume.cli.verify_resume import run
from dreambooth_resume.config.load import parse_train
from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.log import Log
from dreambooth_resume.workflows.home import Home, find_place
from dreambooth_resume.workflows.lives import Child, NotVerified, Spawn
from dreambooth_resume.workflows.stretch import Stretch
from dreambooth_resume.workflows.verify import Order, _cuts
from dreambooth_resume.workflows.verify_source import Source

pytestmark = pytest.mark.quick


@dataclass(frozen=True)
class Ended:
    code: int

    def poll(self) -> int:
        return self.code

    def kill(self) -> None:
        return


def ending_with(code: int, said: str, seen: Callable[[Stretch], None] = lambda _stretch: None) -> Spawn:
    def spawn(words: Sequence[str], output: Path) -> Child:
        output.write_text(said)
        seen(Stretch.model_validate_json(Path(words[0]).read_bytes()))
        return Ended(code)

    return spawn


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    chosen = {
        "pretrained_model_name_or_path": tmp_path,
        "instance_data_dir": tmp_path,
        "instance_prompt": "a photo of sks dog",
        "max_train_steps": 400,
        "lr_scheduler": "constant",
        "output_dir": tmp_path / "home",
        "hub_token": "hf_secret",
    }
    return [word for name, value in chosen.items() for word in (f"--{name}", str(value))]


def test_a_training_that_fails_by_itself_ends_the_command_with_its_code_and_words(
    words: list[str], tmp_path: Path
) -> None:
    said = "dbr: None of the 0 pictures can be read\n"
    with pytest.raises(NotVerified, match="None of the 0 pictures") as raised:
        run([*words, "--dir", str(tmp_path / "work")], spawn=ending_with(2, said))
    assert raised.value.exit_code == 2
    assert (tmp_path / "work" / "undisturbed-1.log").read_text() == said, "kept, to be read"


def test_a_folder_that_was_named_is_kept_on_ctrl_c(words: list[str], tmp_path: Path) -> None:
    def pressed(_stretch: Stretch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([*words, "--dir", str(tmp_path / "work")], spawn=ending_with(0, "step 1/400", pressed))
    assert (tmp_path / "work" / "undisturbed-1.log").read_text() == "step 1/400"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_it_ends_its_training_too(number: signal.Signals, words: list[str], tmp_path: Path) -> None:
    killed: list[bool] = []

    class Training:
        def poll(self) -> int | None:
            signal.raise_signal(number)
            return 70

        def kill(self) -> None:
            killed.append(True)

    before = signal.signal(number, lambda _number, _frame: None)
    try:
        with pytest.raises(KeyboardInterrupt, match=number.name):
            run([*words, "--dir", str(tmp_path / "work")], spawn=lambda _words, _output: Training())
        assert signal.getsignal(number) is not signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert killed == [True]


def test_a_base_model_in_a_bucket_is_reached_as_the_run_reaches_it(words: list[str], tmp_path: Path) -> None:
    seen: list[Stretch] = []
    given = [*words, "--s3_endpoint_url", "http://127.0.0.1:9000"]
    with pytest.raises(NotVerified):
        run([*given, "--dir", str(tmp_path / "work")], spawn=ending_with(70, "", seen.append))
    (stretch,) = seen
    typed = dict(zip(stretch.words[::2], stretch.words[1::2], strict=True))
    assert typed["--s3_endpoint_url"] == "http://127.0.0.1:9000"


def test_a_fork_too_reaches_its_base_model_in_a_bucket(tmp_path: Path) -> None:
    fork = Source(
        what="a fork",
        base_step=2,
        until_step=4,
        begins_with=parse_train(["--s3_region", "eu-west-1", "--learning_rate", "1e-4"]),
        forked=CheckpointRef(number=2, step=2, attempt=1, folder="checkpoint-2", files=()),
        home=Home(place=find_place(parse_train(["--output_dir", str(tmp_path / "home")])), record=None, log=Log()),
    )
    typed = fork.words(tmp_path, saves_every=2)
    assert ("--s3_region", "eu-west-1") in pairwise(typed)
    assert "--learning_rate" not in typed, "the fork's own run.json has it"


def test_a_copy_sends_nothing_saves_often_and_has_no_secret_in_its_words(words: list[str], tmp_path: Path) -> None:
    seen: list[Stretch] = []
    given = [*words, "--checkpointing_steps", "50", "--push_to_hub", "--kills", "2"]
    with pytest.raises(NotVerified):
        run([*given, "--dir", str(tmp_path / "work")], spawn=ending_with(70, "", seen.append))
    (stretch,) = seen
    typed = dict(zip(stretch.words[::2], stretch.words[1::2], strict=True))
    assert typed["--output_dir"] == str(tmp_path / "work" / "undisturbed")
    assert (typed["--checkpointing_steps"], typed["--push_to_hub"], typed["--report_to"]) == ("2", "false", "none")
    assert (typed["--max_train_steps"], typed["--resume_from_checkpoint"]) == ("400", "latest")
    assert typed["--seed"].isdecimal(), "drawn once, for both"
    assert stretch.until_step == 12
    assert "hf_secret" not in str(stretch.words)


def test_a_folder_that_holds_something_is_refused(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine").touch()
    with pytest.raises(BadInput, match="not empty"):
        run([*words, "--dir", str(tmp_path / "work")], spawn=ending_with(0, ""))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--kills", "0"], "must be a number from 1 on"),
        (["--steps", "one"], "must be a number from 2 on"),
        (["--resume", "300"], "newest checkpoint that leaves room"),
        (["--kils", "3"], "unknown option"),
    ],
)
def test_what_cannot_be_verified_is_refused(words: list[str], more: list[str], said: str) -> None:
    with pytest.raises(BadInput) as raised:
        run([*words, *more], spawn=ending_with(0, ""))
    assert said in str(raised.value)


def test_deep_kills_before_each_call_of_a_save_as_well(words: list[str]) -> None:
    shallow, deep = (
        _cuts(
            Order(
                given=parse_train(words), kills=3, deep=deep, steps=None, folder=None, seed=7, spawn=ending_with(0, "")
            ),
            calls_a_save=20,
        )
        for deep in (False, True)
    )
    for one, other in zip(deep, shallow, strict=False):
        # A deep one saves every step, so it waits for its saves after fewer of them.
        assert one == (other.model_copy(update={"steps": 3}) if other.kind == "in a save" else other)
    assert [cut.call for cut in deep[len(shallow) :]] == list(range(1, 22))
    assert {cut.kind for cut in deep[len(shallow) :]} == {"in a save"}
