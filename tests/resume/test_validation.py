"""Pictures while training change no byte of it, are made once, and a kill among them costs nothing."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.runs.control import open_requests, post_request
from dreambooth_resume.runs.curves import read_curve
from dreambooth_resume.runs.samples import read_samples
from dreambooth_resume.storage.local import LocalStorage
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests

# Three pictures and two a step: epochs end in steps 2, 3, 5 and 6; dropout is what evaluation mode has to switch off.
FEW_STEPS = {
    "dreambooth_resume.training.preview:INFERENCE_STEPS": 3,
    "dreambooth_resume.training.preview:FINAL_INFERENCE_STEPS": 2,
}
WITHOUT: dict[str, object] = {"lora_dropout": 0.3}
WITH: dict[str, object] = {
    **WITHOUT,
    "validation_prompt": "a red toy",
    "num_validation_images": 2,
    "validation_epochs": 1,
}


def pictures(home: Path) -> dict[tuple[int, int], str]:
    """(step, number) -> digest of the picture."""
    storage = LocalStorage(home)
    found: dict[tuple[int, int], str] = {}
    for made in read_samples(storage):
        if made.asked:
            continue
        for number, key in enumerate(made.pictures):
            assert (made.step, number) not in found, "made once"
            found[made.step, number] = hashlib.sha256(storage.read(key)).hexdigest()
    return found


def test_killed_among_the_pictures_it_ends_in_the_bytes_of_a_run_without_any(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    prompts = bench.folder / "prompts.txt"
    prompts.write_text("a small toy --n blue --w 64 --h 72 --d 5 --l 7 --s 2\n# and\na picture of the dog\n")
    chosen = {**WITH, "validation_prompts_file": prompts}
    whole = bench.folder / "with-pictures"
    bench.run(whole, limits=FEW_STEPS, **chosen)
    assert result_digests(whole) == undisturbed(**WITHOUT)
    assert sorted(pictures(whole)) == [(step, number) for step in (2, 3, 5, 6) for number in range(4)]
    made = read_samples(LocalStorage(whole), step=2)[0]
    assert made.prompts == ("a red toy", "a red toy", "a small toy", "a picture of the dog")
    assert made.facts[2] == {
        "prompt": "a small toy",
        "negative_prompt": "blue",
        "width": 64,
        "height": 72,
        "seed": 5,
        "number": 0,
        "guidance_scale": 7.0,
        "num_inference_steps": 2,
    }
    asked = post_request(LocalStorage(home), "sample", prompt="a blue robot")

    for crash in (
        CrashPoint(call="replace", path="samples/2-a1/1.png"),
        CrashPoint(call="replace", path="samples/5-a2/samples.json"),
        CrashPoint(call="replace", path="samples/6-a3/0.png", when="after"),
    ):
        process = bench.start(home, crash=crash, limits=FEW_STEPS, **chosen)
        assert process.wait() == KILLED, process.output()
        prompts.unlink(missing_ok=True)  # what the home keeps will do
    assert committed_steps(home)[-1] == 6
    assert log_of(home).finished is None, "the result's pictures come before the end, so that a kill can't lose them"
    bench.run(home, limits=FEW_STEPS, **chosen)
    assert result_digests(home) == undisturbed(**WITHOUT)
    assert pictures(home) == pictures(whole)
    (now,) = [one for one in read_samples(LocalStorage(home)) if one.asked]
    assert (now.asked, now.prompts, now.is_final) == (asked.nonce[:8], ("a blue robot",), False)
    assert open_requests(LocalStorage(home)) == []


def test_a_validation_loss_changes_no_byte_and_comes_again_after_a_kill_from_the_homes_own_copies(
    bench: Bench, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    held_out = tmp_path / "held-out"
    draw_pictures(held_out)
    for extra in sorted(held_out.iterdir())[2:]:
        extra.unlink()
    without = {"lora_dropout": 0.3, "train_text_encoder": True, "text_encoder_lr": 1e-3}
    with_loss: dict[str, object] = {**without, "validation_data_dir": held_out, "validation_steps": 2}
    whole = bench.folder / "with-a-validation-loss"
    bench.run(whole, **with_loss)
    assert result_digests(whole) == undisturbed(**without)
    expected = val_losses(whole)
    assert sorted(expected) == [2, 4, 6]
    assert len(set(expected.values())) == 3

    process = bench.start(home, **with_loss)  # type: ignore[arg-type]
    process.wait_for(lambda: "Step 4: validation loss" in process.output(), "the second value")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    for picture in held_out.iterdir():
        picture.unlink()
    held_out.rmdir()
    bench.run(home, **with_loss)
    assert result_digests(home) == undisturbed(**without)
    assert val_losses(home) == expected


def val_losses(home: Path) -> dict[int, float]:
    points = read_curve(LocalStorage(home)).points
    assert all((point.memory_bytes or 0) > 10_000_000 for point in points), "what it took is measured with each step"
    return {point.step: point.val_loss for point in points if point.val_loss is not None}


def test_a_signal_among_the_pictures_saves_and_leaves_without_them(bench: Bench, home: Path) -> None:
    many = {**WITH, "num_validation_images": 500}
    process = bench.start(home, **many)
    process.wait_for(lambda: "validation pictures" in process.output(), "the first pictures")
    process.send(signal.SIGTERM)
    assert process.wait() == 75, process.output()
    assert committed_steps(home) == [2]
    assert "left out: somebody asks for the machine" in process.output()
