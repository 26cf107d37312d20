"""Prior preservation: killed while class pictures are made, or in training, a run ends in the same bytes."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from dreambooth_resume.data.class_images import MADE_LIST
from dreambooth_resume.data.inputs import CLASS_INPUTS_LIST, read_list
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.storage.local import LocalStorage
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, log_of, result_digests

PRIOR: dict[str, object] = {
    "with_prior_preservation": True,
    "class_prompt": "a photo of a robot",
    "num_class_images": 3,
    "sample_batch_size": 2,
    "prior_loss_weight": 0.5,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "max_train_steps": 4,
}


def made_pictures(home: Path) -> list[Path]:
    """Files of the made class pictures; a local home is its own stage."""
    listed = read_list(LocalStorage(home), MADE_LIST)
    assert listed is not None
    return [home / "inputs" / picture.sha256 for picture in listed.pictures]


@pytest.fixture(scope="module")
def one_class_picture(bench: Bench) -> Path:
    """A folder that lacks two of the three."""
    folder = bench.folder / "class"
    for extra in draw_pictures(folder)[1:]:
        extra.unlink()
    return folder


def test_killed_while_class_pictures_are_made(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    """Twice: after the first batch, and when all are made but not yet listed."""
    process = bench.start(home, **PRIOR)  # type: ignore[arg-type]
    process.wait_for(lambda: "making class pictures 2/3" in process.output(), "the first batch")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    assert not (home / MADE_LIST).exists()
    crash = CrashPoint(call="link", path=MADE_LIST)
    second = bench.start(home, crash=crash, **PRIOR)  # type: ignore[arg-type]
    assert second.wait() == KILLED
    assert "making class pictures 2/3" in second.output()
    resumed = bench.run(home, **PRIOR)
    assert "making class pictures 3/3" in resumed.output()
    assert "making class pictures 2/3" not in resumed.output()
    assert result_digests(home) == undisturbed(**PRIOR)


def test_a_new_machine_without_the_class_folder_needs_only_the_home(
    bench: Bench, one_class_picture: Path, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    """The pictures of the folder come first, only the others are made; the home is moved to an empty disk."""
    folder = tmp_path / "class"
    shutil.copytree(one_class_picture, folder)
    process = bench.start(home, class_data_dir=folder, **PRIOR)  # type: ignore[arg-type]
    process.wait_for_step(2)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    shutil.rmtree(folder)
    elsewhere = tmp_path / "elsewhere"
    home.rename(elsewhere)
    listed = read_list(LocalStorage(elsewhere), CLASS_INPUTS_LIST)
    assert listed is not None
    assert [picture.name for picture in listed.pictures] == ["robot-1.png"]
    assert len(made_pictures(elsewhere)) == 2
    resumed = bench.run(elsewhere, class_data_dir=folder, **PRIOR)
    assert "making class pictures 2/2" in resumed.output()
    assert "making class pictures 0/2" not in resumed.output()
    assert log_of(elsewhere).highest_attempt == 2
    assert result_digests(elsewhere) == undisturbed(class_data_dir=one_class_picture, **PRIOR)


def test_a_notice_while_class_pictures_are_made_ends_the_attempt_at_once(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process = bench.start(home, **PRIOR)  # type: ignore[arg-type]
    process.wait_for(lambda: "making class pictures" in process.output(), "the class pictures")
    process.send(signal.SIGTERM)
    assert process.wait() == 75
    assert "SIGTERM while making class pictures: nothing was lost" in process.output()
    bench.run(home, **PRIOR)
    assert result_digests(home) == undisturbed(**PRIOR)


def test_a_lost_class_picture_is_made_again_to_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process = bench.start(home, **PRIOR)  # type: ignore[arg-type]
    process.wait_for_step(2)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    lost, torn, _ = made_pictures(home)
    lost.unlink()
    torn.chmod(0o644)
    torn.write_bytes(torn.read_bytes()[:-20])
    resumed = bench.run(home, **PRIOR)
    assert "It is made again" in resumed.output()
    assert result_digests(home) == undisturbed(**PRIOR)
