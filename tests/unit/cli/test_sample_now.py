"""`dbr sample-now` asks the holder and names the pictures; `dbr samples` lists them and draws them into one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_resume.cli.main import main
from dreambooth_resume.cli.sample_now import sample_now
from dreambooth_resume.errors import ComeBack
from dreambooth_resume.runs.control import open_requests
from dreambooth_resume.runs.samples import SampleSet, write_samples
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.holders import Waiting
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import Attempt, begin
from tests.fakes.watched_run import beat, record_run


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def attempt(storage: MemoryStorage) -> Attempt:
    """Trains on another machine, at step 2."""
    attempt = begin(storage, "gpu-7")
    attempt.commit(1)
    beat(storage, 1, step=2)
    return attempt


def png(colour: str) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(body, format="PNG")
    return body.getvalue()


def ask(storage: MemoryStorage, prompt: str | None, on_sleep: Callable[[], None]) -> SampleSet | None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        on_sleep()

    before = summarise(storage)
    assert before is not None
    waiting = Waiting(tell=lambda _text: None, answer_seconds=20.0, monotonic=lambda: now, sleep=sleep)
    return sample_now(storage, before, prompt, waiting)


def answering(storage: MemoryStorage, *, makes: bool) -> Callable[[], None]:
    """What a training does that finds the request."""

    def answer() -> None:
        for key, request in open_requests(storage):
            assert (request.kind, request.prompt) == ("sample", "a red dog")
            if makes:
                recipe = {"prompt": "a red dog", "seed": 7}
                write_samples(storage, (png("red"),), step=2, attempt=1, recipe=recipe, kind=request.nonce[:8])
            beat(storage, 1, step=3, counter=2, answered=(request.nonce,))
            storage.delete(key)

    return answer


def test_the_pictures_that_were_asked_for_are_named(storage: MemoryStorage, attempt: Attempt) -> None:
    recipe = {"prompt": "another's", "seed": 7}
    write_samples(storage, (png("blue"),), step=2, attempt=1, recipe=recipe, kind="01234567")
    made = ask(storage, "a red dog", answering(storage, makes=True))
    assert made is not None
    assert made.prompts == ("a red dog",)
    assert storage.read(made.pictures[0]) == png("red")
    assert open_requests(storage) == []


def test_pictures_that_were_left_out_are_said(storage: MemoryStorage, attempt: Attempt) -> None:
    with pytest.raises(ComeBack, match="left the pictures out"):
        ask(storage, "a red dog", answering(storage, makes=False))


def test_an_older_release_that_knows_no_such_request_costs_only_the_waiting(
    storage: MemoryStorage, attempt: Attempt
) -> None:
    with pytest.raises(ComeBack, match="did not answer within 20 s"):
        ask(storage, None, lambda: None)
    assert open_requests(storage) == []


def test_a_request_of_a_later_release_is_passed_over(storage: MemoryStorage) -> None:
    storage.write(f"control/1234567890123-{'0' * 32}.json", [b'{"kind": "sing", "nonce": "1", "asked_by": "me"}'])
    assert open_requests(storage) == []


def test_where_nobody_trains_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    left = begin(storage)
    left.commit(2)
    left.stop()
    before = storage.list()
    assert main(["sample-now", str(storage.root)]) == 0
    assert storage.list() == before
    assert "dbr generate" in capsys.readouterr().out
    assert main(["sample-now", str(storage.root), "--prompt", " "]) == 2


def test_samples_are_listed_and_drawn_into_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    begin(storage).commit(2)
    assert main(["samples", str(storage.root)]) == 0
    assert "No pictures yet" in capsys.readouterr().out
    grid = tmp_path / "grid.png"
    assert main(["samples", str(storage.root), "--grid", str(grid)]) == 2
    for step, kind in ((2, "validation"), (4, "01234567"), (6, "final")):
        facts = [{"prompt": prompt, "seed": 7, "number": 0} for prompt in ("a red dog", "a blue dog")]
        recipe = {"prompt": "a red dog", "seed": 7}
        pngs = (png("red"), png("blue"))
        write_samples(storage, pngs, step=step, attempt=1, recipe=recipe, facts=facts, kind=kind)
    assert main(["samples", str(storage.root), "--grid", str(grid)]) == 0
    shown = capsys.readouterr().out
    assert "a red dog and 1 more" in shown
    assert "the result" in shown
    with Image.open(grid) as drawn:
        left, right = 150 + 128, 150 + 256 + 8 + 128
        colours = [
            [drawn.getpixel((x, drawn.height - 12 - 8 - 128 - row * 264)) for x in (left, right)] for row in range(3)
        ]
    assert colours == [[(255, 0, 0), (0, 0, 255)]] * 3
    assert main(["samples", str(storage.root), "--json"]) == 0
    assert [one["step"] for one in json.loads(capsys.readouterr().out)] == [2, 4, 6]
