"""The home's own copy of the pictures: complete or absent, checked, and enough without the folder."""

from __future__ import annotations

import json
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest

from dreambooth_resume.data.dataset import PictureSet, scan_pictures
from dreambooth_resume.data.fingerprint import dataset_fingerprint
from dreambooth_resume.data.inputs import INPUTS_LIST, input_key, load_inputs, store_inputs
from dreambooth_resume.errors import BadInput, RefusedToGoOn, StorageUnavailable
from dreambooth_resume.runs.entries import sealed, unsealed
from dreambooth_resume.storage.base import StoredObject
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.memory_storage import MemoryStorage

from .conftest import DrawPicture

PROMPT = "a photo of sks dog"


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def pictures(pictures_folder: Path, draw: DrawPicture) -> PictureSet:
    for number in range(3):
        draw(f"{number}.png", seed=number)
    shutil.copy(pictures_folder / "0.png", pictures_folder / "twin.png")
    return scan_pictures(pictures_folder, prompt=PROMPT)


def test_an_empty_machine_gets_the_same_pictures_from_the_home(pictures: PictureSet, tmp_path: Path) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    shutil.rmtree(pictures.pictures[0].path.parent)

    loaded = load_inputs(storage, tmp_path / "stage", prompt=PROMPT)
    assert loaded is not None
    assert dataset_fingerprint(loaded.pictures) == dataset_fingerprint(pictures.pictures)
    for was, now in zip(pictures.pictures, loaded.pictures, strict=True):
        assert (now.name, now.sha256, now.size_bytes, now.width, now.height) == (
            was.name, was.sha256, was.size_bytes, was.width, was.height,
        )  # fmt: skip
        assert now.path.stat().st_size == was.size_bytes


def test_equal_pictures_are_stored_once(pictures: PictureSet) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    assert len([key for key in storage.objects if key.startswith("inputs/")]) == 3


def test_a_second_start_copies_nothing(pictures: PictureSet) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    storage.calls.clear()
    store_inputs(storage, pictures)
    assert storage.calls == [("read", INPUTS_LIST)]


def test_a_second_load_fetches_only_the_list(pictures: PictureSet, tmp_path: Path) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    load_inputs(storage, tmp_path, prompt=PROMPT)
    storage.calls.clear()
    load_inputs(storage, tmp_path, prompt=PROMPT)
    assert storage.calls == [("read", INPUTS_LIST)]


def test_a_home_that_is_a_folder_here_is_used_in_place(pictures: PictureSet, tmp_path: Path) -> None:
    home = tmp_path / "home"
    store_inputs(LocalStorage(home), pictures)
    loaded = load_inputs(LocalStorage(home), home, prompt=PROMPT)
    assert loaded is not None
    assert {picture.path.parent for picture in loaded.pictures} == {home / "inputs"}


def test_a_key_that_is_a_folder_here_is_read_through_the_storage(pictures: PictureSet, tmp_path: Path) -> None:
    """Homes on mounts without hard links keep a key as a folder with its body inside."""
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    for key in storage.objects:
        (tmp_path / key).mkdir(parents=True)
    assert load_inputs(storage, tmp_path, prompt=PROMPT) is not None


def test_should_stop_is_heard_before_each_picture(pictures: PictureSet) -> None:
    storage = MemoryStorage()
    assert not store_inputs(storage, pictures, should_stop=lambda: len(storage.objects) == 2)
    assert INPUTS_LIST not in storage.objects
    assert store_inputs(storage, pictures)
    assert storage.count("put_if_absent") == 4


def test_no_copy_is_no_error(tmp_path: Path) -> None:
    assert load_inputs(MemoryStorage(), tmp_path, prompt=PROMPT) is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_at_any_call_leaves_no_copy_or_a_whole_one(pictures: PictureSet, tmp_path: Path, when: str) -> None:
    undisturbed = MemoryStorage()
    store_inputs(undisturbed, pictures)
    for number in range(len(undisturbed.calls)):
        storage = MemoryStorage()

        def kill(call: str, key: str, storage: MemoryStorage = storage, number: int = number) -> None:
            if len(storage.calls) == number + 1:
                if when == "after" and call == "put_if_absent":
                    storage.objects[key] = undisturbed.objects[key]
                raise KilledError

        storage.before = kill
        with pytest.raises(KilledError):
            store_inputs(storage, pictures)
        storage.before = None
        left = load_inputs(storage, tmp_path / f"{number}", prompt=PROMPT)
        assert left is None or len(left.pictures) == 4

        already_there = set(storage.objects)
        storage.calls.clear()
        store_inputs(storage, pictures)
        assert storage.objects == undisturbed.objects
        assert not already_there & {key for call, key in storage.calls if call == "put_if_absent"}


def test_a_damaged_copy_is_refused_by_the_pictures_name(pictures: PictureSet, tmp_path: Path) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    key = input_key(pictures.pictures[1].sha256)
    storage.objects[key] = b"?" + storage.objects[key][1:]
    with pytest.raises(RefusedToGoOn, match=r"^1\.png: .* is damaged"):
        load_inputs(storage, tmp_path, prompt=PROMPT)
    del storage.objects[key]
    with pytest.raises(RefusedToGoOn, match=r"^1\.png: .* is missing"):
        load_inputs(storage, tmp_path, prompt=PROMPT)


def test_a_damaged_copy_in_a_home_used_in_place_is_refused(pictures: PictureSet, tmp_path: Path) -> None:
    store_inputs(LocalStorage(tmp_path), pictures)
    path = tmp_path / input_key(pictures.pictures[1].sha256)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RefusedToGoOn, match=r"^1\.png: .* is damaged"):
        load_inputs(LocalStorage(tmp_path), tmp_path, prompt=PROMPT)


def test_a_damaged_fetched_file_is_fetched_again(pictures: PictureSet, tmp_path: Path) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    first = load_inputs(storage, tmp_path, prompt=PROMPT)
    assert first is not None
    first.pictures[0].path.write_bytes(b"torn")
    assert load_inputs(storage, tmp_path, prompt=PROMPT) == first
    assert first.pictures[0].path.stat().st_size == pictures.pictures[0].size_bytes


def test_a_torn_copy_of_a_killed_start_is_replaced(pictures: PictureSet) -> None:
    storage = MemoryStorage()
    key = input_key(pictures.pictures[0].sha256)
    storage.objects[key] = b"torn"
    store_inputs(storage, pictures)
    assert storage.objects[key] == pictures.pictures[0].path.read_bytes()


def test_other_pictures_than_the_homes_are_refused(
    pictures: PictureSet, pictures_folder: Path, draw: DrawPicture
) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    draw("new.png")
    with pytest.raises(BadInput, match="begun with other pictures"):
        store_inputs(storage, scan_pictures(pictures_folder, prompt=PROMPT))


def test_a_picture_that_changes_while_it_is_copied_is_refused(pictures: PictureSet) -> None:
    pictures.pictures[2].path.write_bytes(b"changed")
    with pytest.raises(BadInput, match="changed while the run was being set up"):
        store_inputs(MemoryStorage(), pictures)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b'{"format": 1}', b'{"format": 1, "pictures": [{"name": "a"}]}']
)
def test_a_damaged_list_is_refused_by_name(body: bytes, tmp_path: Path) -> None:
    storage = MemoryStorage()
    storage.objects[INPUTS_LIST] = body
    with pytest.raises(RefusedToGoOn, match=r"inputs\.json .* is damaged"):
        load_inputs(storage, tmp_path, prompt=PROMPT)


def test_every_flipped_bit_of_the_list_is_found_and_none_is_another_set_of_pictures(
    pictures: PictureSet, tmp_path: Path
) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    whole = storage.objects[INPUTS_LIST]
    blank = {place for place, byte in enumerate(whole) if byte in b" \n"}  # what JSON doesn't read
    for place in sorted(set(range(len(whole))) - blank):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 7
        storage.objects[INPUTS_LIST] = bytes(flipped)
        for use in (partial(load_inputs, storage, tmp_path, prompt=PROMPT), partial(store_inputs, storage, pictures)):
            with pytest.raises(RefusedToGoOn, match=r"inputs\.json .* is damaged"):
                use()


def test_a_bit_that_flips_on_the_lists_way_is_no_damage(pictures: PictureSet, tmp_path: Path) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    whole = storage.objects[INPUTS_LIST]
    storage.objects[INPUTS_LIST] = whole.replace(b"0.png", b"1.png")

    def mend(call: str, key: str) -> None:
        if (call, key) == ("read", INPUTS_LIST) and storage.calls.count((call, key)) > 1:
            storage.objects[key] = whole

    storage.calls.clear()
    storage.before = mend
    loaded = load_inputs(storage, tmp_path, prompt=PROMPT)
    assert loaded is not None
    assert [picture.name for picture in loaded.pictures] == [picture.name for picture in pictures.pictures]


def test_a_list_of_a_newer_dbr_is_refused_and_its_new_fields_are_not(pictures: PictureSet, tmp_path: Path) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    listed = unsealed(storage.objects[INPUTS_LIST])
    storage.objects[INPUTS_LIST] = sealed({**listed, "captions": []})
    assert load_inputs(storage, tmp_path, prompt=PROMPT) is not None
    storage.objects[INPUTS_LIST] = sealed({**listed, "format": 2})
    with pytest.raises(RefusedToGoOn, match="newer dbr"):
        load_inputs(storage, tmp_path, prompt=PROMPT)


def test_a_list_that_was_written_before_there_were_seals_is_read(pictures: PictureSet, tmp_path: Path) -> None:
    storage = MemoryStorage()
    store_inputs(storage, pictures)
    storage.objects[INPUTS_LIST] = json.dumps(unsealed(storage.objects[INPUTS_LIST]), sort_keys=True).encode()
    loaded = load_inputs(storage, tmp_path, prompt=PROMPT)
    assert loaded is not None
    assert dataset_fingerprint(loaded.pictures) == dataset_fingerprint(pictures.pictures)
    storage.calls.clear()
    assert store_inputs(storage, pictures)
    assert storage.calls == [("read", INPUTS_LIST)]


AT_ONCE = 4


def test_pictures_are_copied_and_fetched_side_by_side(pictures: PictureSet, tmp_path: Path) -> None:
    """All three are on their way before the first has arrived, there and back."""
    storage, one_at_a_time = MemoryStorage(requests_at_once=AT_ONCE), MemoryStorage()
    store_inputs(one_at_a_time, pictures)
    for wanted in ("put_if_absent", "read"):
        together = threading.Barrier(3)

        def meet(call: str, key: str, wanted: str = wanted, together: threading.Barrier = together) -> None:
            if call == wanted and key.startswith("inputs/"):
                together.wait(30)

        storage.before = meet
        if wanted == "put_if_absent":
            assert store_inputs(storage, pictures)
        else:
            loaded = load_inputs(storage, tmp_path, prompt=PROMPT)
            assert loaded is not None
            assert dataset_fingerprint(loaded.pictures) == dataset_fingerprint(pictures.pictures)
    assert storage.objects == one_at_a_time.objects


def test_side_by_side_a_notice_and_trouble_are_heard_as_they_are_one_by_one(pictures: PictureSet) -> None:
    storage = MemoryStorage(requests_at_once=AT_ONCE)
    assert not store_inputs(storage, pictures, should_stop=lambda: True)
    assert storage.objects == {}

    def refuse(call: str, key: str) -> None:
        if (call, key) == ("put_if_absent", input_key(pictures.pictures[1].sha256)):
            raise StorageUnavailable("503")

    storage.before = refuse
    with pytest.raises(StorageUnavailable, match="503"):
        store_inputs(storage, pictures)
    assert INPUTS_LIST not in storage.objects
    storage.before = None
    assert store_inputs(storage, pictures)


def test_a_copy_that_no_listing_shows_yet_is_compared_all_the_same(pictures: PictureSet) -> None:
    class ListsNothing(MemoryStorage):
        def list(self, prefix: str = "") -> list[StoredObject]:
            return super().list(prefix)[:0]

    storage = ListsNothing()
    torn, whole = (input_key(pictures.pictures[number].sha256) for number in (0, 1))
    storage.objects[torn] = b"torn"
    storage.objects[whole] = pictures.pictures[1].path.read_bytes()
    assert store_inputs(storage, pictures)
    assert storage.objects[torn] == pictures.pictures[0].path.read_bytes()
    assert ("delete", whole) not in storage.calls
