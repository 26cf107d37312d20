"""A folder as a home: what is durable when, what a kill leaves, and what each refusal of the system means."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dreambooth_resume.errors import AccessDenied, BadInput, KeyNotFound, OutcomeUnknown, StorageUnavailable
from dreambooth_resume.storage.local import TEMPORARY, LocalStorage

pytestmark = pytest.mark.quick

RealCall = Callable[..., object]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def storage(home: Path) -> LocalStorage:
    return LocalStorage(home)


def left_over(home: Path) -> list[str]:
    return sorted(path.name for path in (home / TEMPORARY).iterdir())


def refusing(code: int) -> RealCall:
    def refuse(*_arguments: object, **_options: object) -> object:
        raise OSError(code, os.strerror(code))

    return refuse


class Journal:
    """What was made durable and what was given its name, in order."""

    def __init__(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        self.events: list[str] = []
        self._home = home
        self._fsync = os.fsync
        patch.setattr(os, "fsync", self._note_fsync)
        for name in ("link", "replace", "rename"):
            patch.setattr(os, name, self._noting(name, getattr(os, name)))

    def _note_fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        self.events.append(f"fsync {self._short(str(Path(f'/proc/self/fd/{descriptor}').readlink()))}")

    def _noting(self, name: str, real: RealCall) -> RealCall:
        def call(source: Path, target: Path) -> object:
            answer = real(source, target)
            self.events.append(f"{name} {self._short(str(target))}")
            return answer

        return call

    def _short(self, path: str) -> str:
        inside = os.path.relpath(path, self._home)
        return "temporary" if inside.startswith(f"{TEMPORARY}/") else inside


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch, storage: LocalStorage, home: Path) -> Journal:
    storage.write("log/before", [b"so that every folder is there"])
    storage.write("checkpoint-5/before", [b"x"])
    return Journal(monkeypatch, home)


def test_write_is_durable_before_it_has_its_name_and_the_name_after(storage: LocalStorage, journal: Journal) -> None:
    storage.write("checkpoint-5/a", [b"x"])
    assert journal.events == ["fsync temporary", "replace checkpoint-5/a", "fsync checkpoint-5"]


def test_an_entry_is_durable_before_it_has_its_name_and_the_name_after(storage: LocalStorage, journal: Journal) -> None:
    storage.put_if_absent("log/00000001.json", b"x")
    assert journal.events == ["fsync temporary", "link log/00000001.json", "fsync log"]


def test_the_same_holds_where_there_are_no_links(
    storage: LocalStorage, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    storage.put_if_absent("log/00000001.json", b"x")
    assert journal.events == [
        "fsync temporary",
        "replace temporary",
        "fsync temporary",
        "rename log/00000001.json",
        "fsync log",
    ]


def test_a_hint_costs_no_fsync(storage: LocalStorage, journal: Journal) -> None:
    storage.write("checkpoint-5/hint", [b"x"], durable=False)
    assert journal.events == ["replace checkpoint-5/hint"]


def test_names_of_new_folders_are_durable_up_to_the_first_that_was_there(
    storage: LocalStorage, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(monkeypatch, home)
    storage.write("checkpoint-6/a", [b"x"])
    named = journal.events.index("replace checkpoint-6/a")
    assert {"fsync ..", "fsync ."} <= set(journal.events[:named])


def test_a_refused_put_makes_sure_that_what_is_there_is_durable(storage: LocalStorage, journal: Journal) -> None:
    """Its writer may have lost its own fsync, and takes the entry for done when it finds it."""
    storage.put_if_absent("log/00000001.json", b"x")
    journal.events.clear()
    assert storage.put_if_absent("log/00000001.json", b"y") is False
    assert journal.events[-1] == "fsync log"


def test_a_name_that_the_disk_does_not_confirm_is_unknown_and_not_refused(
    storage: LocalStorage, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("log/before", [b"x"])
    real = os.fsync

    def fail_for_folders(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(OutcomeUnknown):
        storage.put_if_absent("log/00000001.json", b"x")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_body_and_no_temporary(
    storage: LocalStorage, home: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    storage.write("a", [b"old"])
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refusing(errno.ENOSPC))
        with pytest.raises(StorageUnavailable, match="No space left"):
            storage.write("a", [b"new"])
    assert storage.read("a") == b"old"
    assert left_over(home) == []


@pytest.mark.parametrize(
    ("links", "call"), [(True, "fsync"), (True, "link"), (False, "fsync"), (False, "replace"), (False, "rename")]
)
def test_a_failed_put_creates_nothing_and_leaves_no_temporary(
    storage: LocalStorage, home: Path, monkeypatch: pytest.MonkeyPatch, links: bool, call: str
) -> None:
    storage.write("log/before", [b"x"])
    with monkeypatch.context() as patch:
        if not links:
            patch.setattr(os, "link", refusing(errno.ENOTSUP))
        patch.setattr(os, call, refusing(errno.ENOSPC))
        with pytest.raises(StorageUnavailable):
            storage.put_if_absent("log/1", b"new")
    assert [found.key for found in storage.list("log/")] == ["log/before"]
    assert left_over(home) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_refusal_by_the_system_is_no_access(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    storage.write("a", [b"x"])
    monkeypatch.setattr(os, "replace", refusing(code))
    with pytest.raises(AccessDenied):
        storage.write("a", [b"y"])


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_failed_read_is_never_not_found(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    storage.write("a", [b"x"])
    monkeypatch.setattr("builtins.open", refusing(code))
    with pytest.raises(StorageUnavailable):
        storage.read("a")
    monkeypatch.undo()
    monkeypatch.setattr(os, "walk", refusing(code))
    with pytest.raises(StorageUnavailable):
        storage.list()


def test_homes_with_and_without_links_keep_each_other_out(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_links() -> None:
        monkeypatch.undo()

    def without_links() -> None:
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))

    for number, (first, second) in enumerate([(with_links, without_links), (without_links, with_links)]):
        key = f"log/{number}.json"
        first()
        assert storage.put_if_absent(key, b"first") is True
        second()
        assert storage.put_if_absent(key, b"second") is False
        assert storage.read(key) == b"first"


def test_a_folder_that_a_killed_delete_left_empty_is_no_key(storage: LocalStorage, home: Path) -> None:
    (home / "cache/x").mkdir(parents=True)
    with pytest.raises(KeyNotFound):
        storage.read("cache/x")
    assert storage.list() == []
    assert storage.put_if_absent("cache/x", b"whole") is True
    assert storage.read("cache/x") == b"whole"


def test_unfinished_writes_are_never_listed(storage: LocalStorage, home: Path) -> None:
    storage.write("checkpoint-5/a", [b"x"])
    (home / TEMPORARY / "a00000001-torn").write_bytes(b"half")
    assert [found.key for found in storage.list()] == ["checkpoint-5/a"]


def test_claim_removes_lower_attempts_temporaries_alone(storage: LocalStorage, home: Path) -> None:
    storage.write("a", [b"x"])
    a_day_ago = time.time() - 25 * 3600
    for name in ("a00000001-f", "a00000002-f", "a00000010-f", "x-young", "x-old", "a00000009-folder/body"):
        (home / TEMPORARY / name).parent.mkdir(exist_ok=True)
        (home / TEMPORARY / name).write_bytes(b"half")
    os.utime(home / TEMPORARY / "x-old", (a_day_ago, a_day_ago))
    storage.claim(10)
    assert left_over(home) == ["a00000010-f", "x-young"]
    storage.claim(11)
    assert left_over(home) == ["x-young"]


def test_a_writer_whose_temporary_was_claimed_away_goes_on_under_its_own_key(
    storage: LocalStorage, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.claim(1)
    real, newer = os.replace, LocalStorage(home)

    def replace_after_claim(source: Path, target: Path) -> None:
        monkeypatch.undo()
        newer.claim(2)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_after_claim)
    storage.write("checkpoint-5/a", [b"x"])
    assert storage.read("checkpoint-5/a") == b"x"


def test_a_home_without_temporaries_can_be_claimed(storage: LocalStorage) -> None:
    storage.claim(1)
    assert storage.list() == []


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user whom permissions bind, whoever runs the tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        if os.getuid() != 0:
            yield folder
            return
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)


def test_a_folder_that_nobody_may_open_disturbs_no_listing(unprivileged: Path) -> None:
    """`lost+found` lies at the top of every disk, and a disk's top is a fine home."""
    storage = LocalStorage(unprivileged)
    storage.write("checkpoint-5/a", [b"x"])
    closed = unprivileged / "lost+found"
    closed.mkdir(mode=0)
    try:
        assert [found.key for found in storage.list("checkpoint-")] == ["checkpoint-5/a"]
        assert storage.list("log/") == []
    finally:
        closed.chmod(0o700)


def test_a_home_that_may_not_be_read_is_no_access_and_not_empty(unprivileged: Path) -> None:
    home = unprivileged / "home"
    storage = LocalStorage(home)
    storage.write("run.json", [b"x"])
    home.chmod(0)
    try:
        for look in (
            lambda: storage.read("run.json"),
            lambda: storage.list("log/"),
            lambda: storage.digest("run.json"),
        ):
            with pytest.raises(AccessDenied):
                look()
        with pytest.raises(AccessDenied):
            storage.put_if_absent("log/00000001.json", b"x")
    finally:
        home.chmod(0o700)


def test_room_is_told_for_a_home_that_does_not_exist_yet(storage: LocalStorage) -> None:
    free = storage.free_bytes()
    assert free is not None
    assert free > 0


_RACER = """
import os, sys
from pathlib import Path
from dreambooth_resume.storage.local import LocalStorage
if sys.argv[3] == "refused":
    def refuse(*_): raise PermissionError(1, "no links here")
    os.link = refuse
storage = LocalStorage(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(",".join(str(n) for n in range(30) if storage.put_if_absent(f"log/{n}.json", sys.argv[2].encode())), flush=True)
"""


def test_of_sixteen_processes_with_and_without_links_exactly_one_creates_each_key(home: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(home), f"{name}", "refused" if name % 2 else "there"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        for name in range(16)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        threads = [threading.Thread(target=_say_go, args=(racer,)) for racer in racers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        answers = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    won = {int(number): name for name, answer in enumerate(answers) for number in answer.split(",") if number}
    assert sum(len(answer.split(",")) for answer in answers if answer) == 30
    storage = LocalStorage(home)
    assert {number: int(storage.read(f"log/{number}.json")) for number in range(30)} == won


def _say_go(racer: subprocess.Popen[str]) -> None:
    assert racer.stdin is not None
    racer.stdin.write("\n")
    racer.stdin.flush()


def test_a_home_that_was_moved_away_is_not_made_anew_in_its_old_place(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "home")
    storage.put_if_absent("log/00000001.json", b"1")
    (tmp_path / "home").rename(tmp_path / "moved")
    with pytest.raises(StorageUnavailable, match="no longer there"):
        storage.put_if_absent("log/00000002.json", b"2")
    with pytest.raises(StorageUnavailable, match="no longer there"):
        storage.write("status/0001.json", [b"{}"], durable=False)
    assert not (tmp_path / "home").exists()
    (tmp_path / "moved").rename(tmp_path / "home")
    assert storage.put_if_absent("log/00000002.json", b"2")


@pytest.fixture
def unmounted(tmp_path: Path) -> tuple[LocalStorage, Path]:
    """A home whose disk has gone from over a bare folder, and where the disk is now."""
    storage = LocalStorage(tmp_path / "home")
    storage.put_if_absent("run.json", b"{}")
    storage.put_if_absent("log/00000001.json", b"1")
    storage.write("checkpoint-1/weights", [b"w"])
    (tmp_path / "home").rename(tmp_path / "disk")
    (tmp_path / "home").mkdir()
    return storage, tmp_path / "disk"


CALLS: dict[str, Callable[[LocalStorage], object]] = {
    "read": lambda storage: storage.read("log/00000001.json"),
    "read of what never was": lambda storage: storage.read("log/00000002.json"),
    "download": lambda storage: storage.download("checkpoint-1/weights", hashlib.sha256),
    "digest": lambda storage: storage.digest("checkpoint-1/weights"),
    "list": lambda storage: storage.list("log/"),
    "folders": lambda storage: storage.folders("log/"),
    "write": lambda storage: storage.write("checkpoint-2/weights", [b"w"]),
    "put_if_absent": lambda storage: storage.put_if_absent("log/00000002.json", b"2"),
    "delete": lambda storage: storage.delete("checkpoint-1/weights"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_bare_folder_where_a_disk_was_is_no_empty_home(call: str, unmounted: tuple[LocalStorage, Path]) -> None:
    storage, disk = unmounted
    with pytest.raises(StorageUnavailable, match=r"no longer there\. Was it moved, or its disk unmounted"):
        CALLS[call](storage)
    assert list(storage.root.iterdir()) == []
    storage.root.rmdir()
    disk.rename(storage.root)
    assert storage.put_if_absent("log/00000002.json", b"2")
    assert [found.key for found in storage.list("log/")] == ["log/00000001.json", "log/00000002.json"]


def test_an_old_run_in_the_folder_below_a_mount_is_not_taken_for_the_home(
    unmounted: tuple[LocalStorage, Path],
) -> None:
    storage, _ = unmounted
    (storage.root / "run.json").write_bytes(b"another run's")
    with pytest.raises(StorageUnavailable, match="no longer there"):
        storage.put_if_absent("log/00000002.json", b"2")


def test_a_disk_that_comes_back_as_another_device_is_known_by_what_it_holds(
    unmounted: tuple[LocalStorage, Path], tmp_path: Path
) -> None:
    storage, disk = unmounted
    storage.root.rmdir()
    shutil.copytree(disk, tmp_path / "home")
    assert storage.put_if_absent("log/00000002.json", b"2")


def test_a_disk_that_goes_between_the_look_and_the_link_has_committed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path / "home")
    storage.put_if_absent("log/00000001.json", b"1")
    real_link = os.link

    def link_after_the_disk_has_gone(source: Path, target: Path) -> None:
        (tmp_path / "home").rename(tmp_path / "disk")
        (tmp_path / "home" / "log").mkdir(parents=True)
        real_link(tmp_path / "disk" / source.relative_to(storage.root), target)

    monkeypatch.setattr(os, "link", link_after_the_disk_has_gone)
    with pytest.raises(OutcomeUnknown, match="no longer there"):
        storage.put_if_absent("log/00000002.json", b"2")


@pytest.mark.parametrize("key", ["/outside/body", "../outside/body", "a/../../outside/body"])
def test_a_key_that_leads_out_of_the_home_is_refused(key: str, storage: LocalStorage, home: Path) -> None:
    outside = home.parent / "outside" / "body"
    outside.parent.mkdir()
    outside.write_bytes(b"a secret")
    storage.write("a/b", [b"x"])
    key = key.replace("/outside", str(outside.parent)) if key.startswith("/") else key
    for use in (
        storage.read, storage.digest, storage.delete, storage.list, storage.folders,
        lambda key: storage.download(key, hashlib.sha256),
        lambda key: storage.write(key, [b"x"]),
        lambda key: storage.put_if_absent(key, b"x"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match="leads out of the home"):
            use(key)
    assert outside.read_bytes() == b"a secret"
