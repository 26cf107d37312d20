"""What each answer of a service means, and what the user is told to do about it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from dreambooth_resume.errors import AccessDenied, BadInput, DbrError, KeyNotFound, StorageUnavailable
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.storage.access import check_access
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings, parse_address
from tests.fakes.fault_proxy import FaultProxy, What
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.s3_server import BUCKET, ENVIRONMENT, S3Server

pytestmark = pytest.mark.quick

CALLS: dict[str, Callable[[Storage], object]] = {
    "read": lambda s3: s3.read("log/00000001.json"),
    "digest": lambda s3: s3.digest("log/00000001.json"),
    "holds": lambda s3: s3.holds("log/00000001.json", [b"x"], sha256="0" * 64),
    "list": lambda s3: s3.list("log/"),
    "write": lambda s3: s3.write("status/0001.json", [b"x"]),
    "put_if_absent": lambda s3: s3.put_if_absent("log/00000001.json", b"x"),
    "delete": lambda s3: s3.delete("log/00000001.json"),
}
ANSWERS: list[tuple[int, str, type[DbrError]]] = [
    (403, "AccessDenied", AccessDenied),
    (401, "Unauthorized", AccessDenied),
    (403, "AllAccessDisabled", AccessDenied),
    (403, "InvalidAccessKeyId", AccessDenied),
    (403, "SignatureDoesNotMatch", AccessDenied),
    (400, "ExpiredToken", AccessDenied),
    (400, "InvalidToken", AccessDenied),
    (403, "RequestTimeTooSkewed", AccessDenied),
    (400, "KMS.DisabledException", AccessDenied),
    (404, "NoSuchBucket", BadInput),
    (400, "AuthorizationHeaderMalformed", BadInput),
    (400, "InvalidBucketName", BadInput),
    (400, "KMS.NotFoundException", BadInput),
    (404, "NotFound", StorageUnavailable),
    (404, "NoSuchUpload", StorageUnavailable),
    (400, "SomethingNew", StorageUnavailable),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("status", "code", "kind"), ANSWERS, ids=[code for _, code, _ in ANSWERS])
def test_each_answer_is_our_error_and_never_an_absent_key(
    s3: S3Storage, proxy: FaultProxy, call: str, status: int, code: str, kind: type[DbrError]
) -> None:
    proxy.add(What.ANSWER, times=None, status=status, code=code)
    with pytest.raises(kind) as raised:
        CALLS[call](s3)
    said = f"{raised.value} {getattr(raised.value, 'where', '')}"
    assert s3.describe() in said
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in said
    # An answer that can't change is not asked for again. Where HEAD hides the reason, GET is asked for it, and before
    # that the SDK asks in which region the bucket is.
    assert len(proxy.requests()) <= (3 if call in ("digest", "holds") else 1)


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "RequestTimeTooSkewed", "InternalError"])
def test_a_home_that_refuses_is_no_empty_home(s3: S3Storage, proxy: FaultProxy, code: str) -> None:
    """Taken for one, it would start the run again at step 0."""
    status = {"AccessDenied": 403, "RequestTimeTooSkewed": 403, "InternalError": 500}.get(code, 400)
    proxy.add(What.ANSWER, verb="GET", times=None, status=status, code=code)
    for look in (read_log, read_record):
        with pytest.raises((AccessDenied, StorageUnavailable)):
            look(s3)


def test_a_refused_read_of_an_absent_key_names_the_permission_that_would_tell(s3: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(What.ANSWER, verb="GET", times=None, status=403, code="AccessDenied")
    with pytest.raises(AccessDenied, match="s3:ListBucket") as raised:
        s3.read("log/00000001.json")
    assert f"arn:aws:s3:::{BUCKET}/runs/" in str(raised.value)


def test_a_key_that_is_absent_is_absent_for_head_too(s3: S3Storage, proxy: FaultProxy) -> None:
    with pytest.raises(KeyNotFound):
        s3.digest("checkpoint-5/weights")


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_bucket_is_bad_input_with_the_fix(s3_server: S3Server, call: str) -> None:
    s3 = S3Storage("s3://no-such-bucket/dog", S3Settings(endpoint_url=s3_server.url))
    with pytest.raises(BadInput, match="no bucket no-such-bucket") as raised:
        CALLS[call](s3)
    assert "aws s3 mb s3://no-such-bucket" in str(raised.value.fix)


def test_a_bucket_elsewhere_is_bad_input_with_its_region(s3: S3Storage, proxy: FaultProxy) -> None:
    malformed = {"status": 400, "code": "AuthorizationHeaderMalformed", "details": "<Region>eu-west-3</Region>"}
    proxy.add(What.ANSWER, verb="LIST", times=None, **malformed)
    with pytest.raises(BadInput, match="eu-west-3") as raised:
        s3.list()
    assert raised.value.fix == "AWS_REGION=eu-west-3, or the region in your profile"


@pytest.mark.parametrize(("hours", "word"), [(1, "ahead"), (-24, "behind")])
def test_a_wrong_clock_is_named_with_how_wrong_it_is(s3: S3Storage, proxy: FaultProxy, hours: int, word: str) -> None:
    server = datetime(2026, 3, 1, 12, tzinfo=UTC)
    mine = (server + timedelta(hours=hours)).strftime("%Y%m%dT%H%M%SZ")
    details = f"<RequestTime>{mine}</RequestTime><ServerTime>2026-03-01T12:00:00Z</ServerTime>"
    proxy.add(What.ANSWER, times=None, status=403, code="RequestTimeTooSkewed", details=details)
    with pytest.raises(AccessDenied, match=f"by {abs(hours) * 3600} s.*{word}"):
        s3.read("run.json")


def test_no_credentials_are_named_as_such(home: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    s3 = S3Storage(home, S3Settings(endpoint_url=s3_server.url, region="us-east-2"))
    with pytest.raises(AccessDenied, match="AWS_PROFILE"):
        s3.list()
    # Not remembered: a machine's role may come a moment later.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    assert s3.list() == []


def test_a_profile_that_does_not_exist_is_bad_input(
    home: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(BadInput, match="nobody"):
        S3Storage(home, S3Settings(endpoint_url=s3_server.url, region="us-west-1")).list()


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3:///dog", "s3://a b/dog", "s3://x/dog", "s3://bucket//dog", "s3://bucket/../dog", "s3://bucket/a\nb"],
)
def test_a_malformed_address_is_bad_input_with_an_example(address: str) -> None:
    with pytest.raises(BadInput) as raised:
        S3Storage(address)
    assert "s3://my-bucket/runs/dog" in str(raised.value.fix)


@pytest.mark.parametrize(
    ("address", "name"),
    [("s3://bucket/dog/", "s3://bucket/dog"), ("s3://bucket", "s3://bucket"), ("s3://b.c/", "s3://b.c")],
)
def test_an_address_is_named_without_its_last_slash(address: str, name: str) -> None:
    assert str(parse_address(address)) == name


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "http://", "http://user:pass@host:9000"])
def test_an_endpoint_that_is_none_is_bad_input_and_shows_no_password(endpoint: str) -> None:
    with pytest.raises(BadInput) as raised:
        S3Settings(endpoint_url=endpoint)
    assert "pass@" not in f"{raised.value} {raised.value.where} {raised.value.fix}"


VERBS = {"LIST": "s3:ListBucket", "PUT": "s3:PutObject", "GET": "s3:GetObject", "DELETE": "s3:DeleteObject"}


@pytest.mark.parametrize(
    "refused", [["LIST"], ["PUT"], ["GET"], ["DELETE"], ["GET", "DELETE"], ["PUT", "DELETE"], ["LIST", "PUT", "DELETE"]]
)
def test_missing_permissions_are_named_one_by_one(s3: S3Storage, proxy: FaultProxy, refused: list[str]) -> None:
    for verb in refused:
        proxy.add(What.ANSWER, verb=verb, times=None, status=403, code="AccessDenied")
    with pytest.raises(AccessDenied) as raised:
        check_access(s3)
    named = [line.split(":  ")[0].strip().partition(": ")[0] for line in str(raised.value).splitlines()[1:]]
    assert sorted(named) == sorted(VERBS[verb] for verb in refused)
    assert all('"Effect": "Allow"' in line for line in str(raised.value).splitlines()[1:])


def test_all_permissions_are_enough_and_nothing_is_left(s3: S3Storage) -> None:
    for storage in (s3, MemoryStorage()):
        check_access(storage)
        assert storage.list() == []


def test_wrong_credentials_are_not_taken_for_missing_permissions(s3: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(What.ANSWER, times=None, status=400, code="ExpiredToken")
    with pytest.raises(AccessDenied, match="expired") as raised:
        check_access(s3)
    assert "permissions are missing" not in str(raised.value)
