"""Ceph's S3 gateway on loopback, over http and TLS: a monitor, one disk in a sparse file, and radosgw."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "openssl", "radosgw", "radosgw-admin")
PACKAGES = "radosgw ceph-mon ceph-osd"
_PATIENCE_SECONDS = 90.0

_CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 2
mon data avail crit = 1
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name.asok
log file = {folder}/log/$name.log
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
osd objectstore = bluestore
bluestore block create = true
bluestore block size = 8589934592
bluestore block wal create = false
bluestore block db create = false
osd memory target = 939524096
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} ssl_endpoint=127.0.0.1:{tls_port} \
ssl_certificate={folder}/tls.pem ssl_private_key={folder}/tls.key
rgw data = {folder}/rgw
# Its default, "secure", is impossible without keys, and it hangs for minutes.
ms mon client mode = crc
rgw init timeout = 40
rgw enable usage log = false
"""


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


@dataclass(slots=True)
class Rgw:
    """A running gateway with one user."""

    folder: Path
    port: int
    tls_port: int
    access_key: str = "dbrtestkey"
    secret_key: str = "dbrtestsecret"
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.pem"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to be let in, over TLS too."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CA_BUNDLE": str(self.certificate),
        }

    def start(self) -> None:
        for name in ("mon", "osd", "log", "run", "rgw"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._make_certificate()
        fsid, mon_port = str(uuid.uuid4()), free_port()
        config = _CONFIG.format(
            fsid=fsid, mon_port=mon_port, folder=self.folder, port=self.port, tls_port=self.tls_port
        )
        (self.folder / "ceph.conf").write_text(config)
        monmap = str(self.folder / "monmap")
        self._do(
            "monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap
        )
        self._do("ceph-mon", *self._config, "-i", "a", "--mkfs", "--monmap", monmap)
        self._run("ceph-mon", "-i", "a")
        self._wait("the monitor", lambda: self._ask("mon", "stat") is not None)
        disk = str(uuid.uuid4())
        self._do("ceph", *self._config, "osd", "new", disk, "0")
        self._do("ceph-osd", *self._config, "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._run("ceph-osd", "-i", "0")
        self._wait("the disk", lambda: "1 up" in (self._ask("osd", "stat") or ""))
        self._do(
            "radosgw-admin", *self._config, "-n", "client.rgw", "user", "create", "--uid=dbr", "--display-name=dbr",
            f"--access-key={self.access_key}", f"--secret-key={self.secret_key}",
        )  # fmt: skip
        self._run("radosgw", "-n", "client.rgw")
        self._wait("the gateway", lambda: is_open(self.port) and is_open(self.tls_port))

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        self._daemons.clear()

    @property
    def _config(self) -> tuple[str, str]:
        return ("-c", str(self.folder / "ceph.conf"))

    def _make_certificate(self) -> None:
        self._do(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(self.folder / "tls.key"),
            "-out", str(self.certificate),
        )  # fmt: skip

    def _do(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-1000:]}{done.stderr[-2000:]}"

    def _run(self, program: str, *words: str) -> None:
        with (self.folder / "log" / f"{program}.out").open("wb") as out:
            daemon = subprocess.Popen(
                [program, *self._config, *words, "-f"], stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        self._daemons.append(daemon)

    def _ask(self, *words: str) -> str | None:
        done = subprocess.run(
            ["ceph", *self._config, "--connect-timeout", "3", *words], capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 else None

    def _wait(self, what: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not is_ready():
            ended = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            assert not ended, f"{ended} ended; see {self.folder}/log"
            assert time.monotonic() < deadline, f"{what} did not come up; see {self.folder}/log"
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running_rgw(folder: Path) -> Iterator[Rgw]:
    rgw = Rgw(folder, port=free_port(), tls_port=free_port())
    try:
        rgw.start()
        yield rgw
    finally:
        rgw.stop()
