"""How the service is reached: one client a process, TLS, listings with pages, nothing loaded before it is needed."""

from __future__ import annotations

import datetime
import ipaddress
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.home import LOG_PREFIX, log_key
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings, parse_address
from dreambooth_resume.storage.s3_client import Clock, S3Requests
from dreambooth_resume.storage.urls import open_storage
from tests.fakes.fault_proxy import FaultProxy, What
from tests.fakes.s3_server import BUCKET, ENVIRONMENT, S3Server
from tests.fakes.toy_run import begin

pytestmark = pytest.mark.quick

OpenS3 = Callable[..., S3Storage]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for loopback, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_an_old_ceph_over_tls_is_a_home(
    s3_server: S3Server, home: str, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers 411 to checksums in trailers, which is how the SDK sends them over TLS unless it is told otherwise."""
    monkeypatch.setenv("AWS_CA_BUNDLE", certificate[0])
    with FaultProxy(s3_server.port, certificate=certificate, refuses_trailers=True) as proxy:
        plain = boto3.client("s3", endpoint_url=proxy.url, config=Config(retries={"total_max_attempts": 1}))
        with pytest.raises(ClientError, match="MissingContentLength"):
            plain.put_object(Bucket=BUCKET, Key="plain", Body=b"x" * 100_000)
        s3 = S3Storage(home, S3Settings(endpoint_url=proxy.url, in_parts_above_bytes=6 * 2**20, part_bytes=5 * 2**20))
        bodies = {"run.json": b"{}", "one": b"x" * 100_000, "parts": b"y" * (7 * 2**20)}
        for key, body in bodies.items():
            s3.write(key, [body])
        # And to one that takes no checksums at all, none goes in a trailer instead.
        proxy.add(What.ANSWER, verb="PUT", status=411, code="MissingContentLength")
        for key, body in bodies.items():
            s3.write(key, [body])
        assert s3.put_if_absent(log_key(1), b"entry")
        assert not s3.put_if_absent(log_key(1), b"another")
        assert {key: s3.read(key) for key in bodies} == bodies


def test_a_certificate_that_nobody_vouches_for_is_bad_input_with_the_fix(
    s3_server: S3Server, home: str, certificate: tuple[str, str]
) -> None:
    with FaultProxy(s3_server.port, certificate=certificate) as proxy:
        with pytest.raises(BadInput, match="certificate") as raised:
            S3Storage(home, S3Settings(endpoint_url=proxy.url)).list()
        assert "AWS_CA_BUNDLE" in str(raised.value.fix)


def test_a_listing_of_many_pages_is_whole_and_sorted(s3: S3Storage, proxy: FaultProxy) -> None:
    keys = sorted([f"log/{number:08d}.json" for number in range(1, 25)] + ["run.json", "checkpoint-5/a", "log-x"])
    for key in keys:
        s3.write(key, [b"x"])
    proxy.clear()
    # Every page may need a second try.
    proxy.add(What.ANSWER, verb="LIST", every=2)
    assert [found.key for found in s3.list()] == keys
    assert [found.key for found in s3.list(LOG_PREFIX)] == [key for key in keys if key.startswith("log/")]
    assert len(proxy.requests("LIST")) > 8


def test_folders_that_consoles_make_and_neighbours_are_not_listed(
    s3: S3Storage, home: str, s3_server: S3Server
) -> None:
    raw = boto3.client("s3", endpoint_url=s3_server.url)
    prefix = home.removeprefix(f"s3://{BUCKET}/")
    for key in (f"{prefix}/", f"{prefix}/log/", f"{prefix}2/run.json", f"{prefix}.json"):
        raw.put_object(Bucket=BUCKET, Key=key, Body=b"")
    s3.write("log/00000001.json", [b"x"])
    assert [found.key for found in s3.list()] == ["log/00000001.json"]
    assert [found.key for found in s3.list("log/")] == ["log/00000001.json"]


@pytest.mark.parametrize("key", ["samples/5-a3/a photo, of ü & ?.png", "notes/%41+b.json", "logs/<x>=#1"])
def test_keys_of_any_characters_are_kept(s3: S3Storage, key: str) -> None:
    s3.write(key, [b"x"])
    assert [found.key for found in s3.list(key[:6])] == [key]
    assert s3.read(key) == b"x"
    s3.delete(key)
    assert s3.list() == []


def test_a_bucket_of_its_own_is_a_home(s3_server: S3Server) -> None:
    s3_server.make_bucket("whole-bucket")
    s3 = S3Storage("s3://whole-bucket/", S3Settings(endpoint_url=s3_server.url))
    s3.write("run.json", [b"x"])
    s3.write("checkpoint-5/a", [b"x"])
    assert [found.key for found in s3.list()] == ["checkpoint-5/a", "run.json"]
    s3.claim(2)
    assert s3.describe() == "s3://whole-bucket"


def test_many_threads_use_one_client(s3_server: S3Server, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = boto3.session.Session.client

    def client(session: Any, *given: Any, **named: Any) -> Any:
        made.append(real(session, *given, **named))
        return made[-1]

    monkeypatch.setattr(boto3.session.Session, "client", client)
    settings = S3Settings(endpoint_url=s3_server.url, region="eu-west-1")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: S3Storage(home, settings).write(f"a/{number}", [b"x"]), range(24)))
    assert len(made) == 1
    assert len(S3Storage(home, settings).list("a/")) == 24


def test_a_forked_child_reads_by_connections_of_its_own(proxy: FaultProxy, home: str) -> None:
    """Two processes on one connection would read each other's answers."""
    program = f"""
import os
from dreambooth_resume.storage.s3 import S3Storage
s3 = S3Storage({home!r})
bodies = [bytes([number]) * 100_000 for number in range(2)]
for number, body in enumerate(bodies):
    s3.write(f"body/{{number}}", [body])
mine = int(os.fork() == 0)
same = all(s3.read(f"body/{{mine}}") == bodies[mine] for _ in range(20))
if mine:
    os._exit(0 if same else 1)
_, status = os.wait()
assert same and status == 0
"""
    environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.url}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr


def test_status_of_a_run_in_a_bucket_needs_no_torch(s3_server: S3Server, home: str) -> None:
    begin(S3Storage(home, S3Settings(endpoint_url=s3_server.url))).commit(1)
    program = (
        "import sys\n"
        "import dreambooth_resume.storage.s3\n"
        "assert not {'boto3', 'botocore', 'urllib3'} & sys.modules.keys(), sys.modules.keys()\n"
        "from dreambooth_resume.cli.main import main\n"
        f"assert main(['status', {home!r}]) == 0\n"
        f"assert main(['status', {home + 'x'!r}]) == 2\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & sys.modules.keys()\n"
    )
    environment = {**os.environ, "AWS_ENDPOINT_URL": s3_server.url}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert home in done.stdout


def test_an_s3_address_opens_a_bucket_and_asks_nothing_yet() -> None:
    assert isinstance(open_storage("s3://bucket/dog"), S3Storage)


def test_addresses_have_the_style_that_is_asked_for(s3_server: S3Server) -> None:
    hosts = {}
    for path_style in (True, False):
        settings = S3Settings(endpoint_url="http://storage.example:9000", path_style=path_style)
        requests = S3Requests(parse_address("s3://bucket/dog"), settings, Clock())
        hosts[path_style] = requests.client().generate_presigned_url("get_object", Params=requests.name("run.json"))
    assert hosts[True].startswith("http://storage.example:9000/bucket/dog/run.json")
    assert hosts[False].startswith("http://bucket.storage.example:9000/dog/run.json")


def test_trouble_is_asked_again_with_growing_jittered_waits_until_the_deadline(proxy: FaultProxy, home: str) -> None:
    now, waits = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    proxy.add(What.ANSWER, times=None)
    s3 = S3Storage(home, S3Settings(endpoint_url=proxy.url), clock=Clock(monotonic=lambda: now[0], sleep=sleep))
    with pytest.raises(Exception, match="503"):
        s3.read("run.json")
    assert 24 <= now[0] <= 30
    assert len(set(waits)) == len(waits)
    assert max(waits) <= 5.0
    assert max(waits[:2]) <= 0.2


def test_no_secret_is_in_any_message_or_log(proxy: FaultProxy, home: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="dreambooth_resume")
    s3 = S3Storage(home, S3Settings(endpoint_url=proxy.url), clock=Clock(sleep=lambda _seconds: None))
    proxy.add(What.ANSWER, times=None)
    with pytest.raises(Exception, match="503") as raised:
        s3.write("run.json", [b"x"])
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in f"{raised.value} {caplog.text}"
    assert caplog.text
