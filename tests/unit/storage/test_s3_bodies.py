"""Bodies in and out: stored is what was meant, large ones in parts, and checksums are believed where they may be."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from dreambooth_resume.errors import AccessDenied, StorageUnavailable
from dreambooth_resume.runs.home import CHECKPOINT_FILES, checkpoint_folder
from dreambooth_resume.storage.base import StoredDigest
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_transfer import PartsStream
from tests.fakes.fault_proxy import FaultProxy, What, shared_proxy
from tests.fakes.s3_server import BUCKET, S3Server

pytestmark = pytest.mark.quick

OpenS3 = Callable[..., S3Storage]
KEY = "checkpoint-5/weights"
BODY = random.Random(0).randbytes(200_000)
IN_PARTS: dict[str, Any] = {"in_parts_above_bytes": 6 * 2**20, "part_bytes": 5 * 2**20}
LARGE = random.Random(1).randbytes(12 * 2**20 + 7)


def digest_of(body: bytes) -> StoredDigest:
    return StoredDigest(size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


@pytest.fixture
def raw(s3_server: S3Server) -> Any:
    """The SDK's own client."""
    return boto3.client("s3", endpoint_url=s3_server.url)


@pytest.fixture(params=["ignored", "kept", "verified"])
def by_checksums(request: pytest.FixtureRequest, s3_server: S3Server) -> Iterator[FaultProxy]:
    proxy = shared_proxy(s3_server.port, request.param)
    yield proxy
    proxy.clear()


@pytest.fixture
def verifying(s3_server: S3Server) -> Iterator[FaultProxy]:
    proxy = shared_proxy(s3_server.port, "verified")
    yield proxy
    proxy.clear()


def unfinished(raw: Any) -> list[str]:
    return [upload["Key"] for upload in raw.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


def test_a_stream_of_parts_reads_as_their_whole() -> None:
    chance = random.Random(2)
    for _ in range(200):
        parts = [chance.randbytes(chance.choice([0, 1, 2, 5, 30])) for _ in range(chance.randrange(6))]
        whole, stream = b"".join(parts), PartsStream(parts)
        assert len(stream) == len(whole)
        pieces, size = [], chance.randrange(1, 12)
        while piece := stream.read(size):
            pieces.append(piece)
        assert b"".join(pieces) == whole
        assert {len(piece) for piece in pieces[:-1]} <= {size}
        start, size = chance.randrange(0, 40), chance.randrange(0, 40)
        assert stream.window(start, size).read() == whole[start : start + size]
        stream.seek(start)
        assert (stream.read(), stream.sha256()) == (whole[start:], hashlib.sha256(whole).digest())


def test_a_stream_that_is_late_ends() -> None:
    with pytest.raises(TimeoutError):
        PartsStream([b"x"], is_late=lambda: True).read(1)


def test_a_large_body_is_written_in_parts_and_appears_at_once(proxy: FaultProxy, open_s3: OpenS3, raw: Any) -> None:
    s3 = open_s3(proxy, **IN_PARTS)
    s3.write(KEY, [LARGE[:1000], memoryview(LARGE)[1000:7_000_000], LARGE[7_000_000:]])
    assert sorted(request.query["partNumber"] for request in proxy.requests("PUT")) == [["1"], ["2"], ["3"]]
    assert [found.size_bytes for found in s3.list()] == [len(LARGE)]
    assert s3.read(KEY) == LARGE
    assert s3.digest(KEY) == open_s3(proxy).digest(KEY) == digest_of(LARGE)
    assert unfinished(raw) == []


@pytest.mark.parametrize("what", [What.RESET, What.DROP_ANSWER, What.ANSWER, What.CUT_UPLOAD])
def test_parts_are_sent_again(proxy: FaultProxy, open_s3: OpenS3, raw: Any, what: What) -> None:
    s3 = open_s3(proxy, **IN_PARTS)
    proxy.add(what, verb="PUT", at=2)
    proxy.add(what, verb="POST", at=1)
    proxy.add(what, verb="POST", at=2)
    s3.write(KEY, [LARGE])
    assert s3.digest(KEY) == digest_of(LARGE)
    for key in unfinished(raw):  # of the first POST, whose answer was lost: the next attempt's
        s3.claim(2)
        assert key.endswith(KEY)
    assert unfinished(raw) == []


def test_a_large_write_that_fails_leaves_no_upload_and_no_key(proxy: FaultProxy, open_s3: OpenS3, raw: Any) -> None:
    s3 = open_s3(proxy, **IN_PARTS)
    proxy.add(What.ANSWER, verb="PUT", at=2, times=None, status=403, code="AccessDenied")
    with pytest.raises(AccessDenied, match="s3:PutObject"):
        s3.write(KEY, [LARGE])
    assert s3.list() == []
    assert unfinished(raw) == []


def test_a_completion_whose_answer_was_lost_is_found_done(proxy: FaultProxy, open_s3: OpenS3) -> None:
    s3 = open_s3(proxy, **IN_PARTS)
    proxy.add(What.DROP_ANSWER, verb="POST", at=2)
    # S3 forgets an upload with its completion; moto doesn't.
    proxy.add(What.ANSWER, verb="POST", at=2, status=404, code="NoSuchUpload")
    s3.write(KEY, [LARGE])
    assert len(proxy.requests("POST")) == 3
    assert s3.read(KEY) == LARGE


def test_a_write_whose_upload_a_newer_attempt_removed_fails_and_shows_nothing(
    proxy: FaultProxy, open_s3: OpenS3
) -> None:
    s3 = open_s3(proxy, **IN_PARTS)
    proxy.add(What.ANSWER, verb="POST", at=2, times=None, status=404, code="NoSuchUpload")
    with pytest.raises(StorageUnavailable, match="newer attempt"):
        s3.write(KEY, [LARGE])
    assert s3.list() == []


def test_claim_removes_unfinished_uploads_of_lower_attempts_alone(s3: S3Storage, home: str, raw: Any) -> None:
    prefix = home.removeprefix(f"s3://{BUCKET}/")
    files = {attempt: f"{checkpoint_folder(5, attempt)}/{CHECKPOINT_FILES[0]}" for attempt in (1, 2, 3, 10)}
    lower = [f"{prefix}/{files[1]}", f"{prefix}/{files[2]}"]
    others = [
        f"{prefix}/{files[3]}",
        f"{prefix}/{files[10]}",
        f"{prefix}2/{files[1]}",
        f"{prefix}/cache/a.safetensors",
        f"{prefix}/checkpoint-5/more/{CHECKPOINT_FILES[0]}",
        f"{prefix}/checkpoint-x/{CHECKPOINT_FILES[0]}",
    ]
    uploads = {key: raw.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"] for key in [*lower, *others]}
    s3.write(files[1], [b"whole"])
    assert [found.key for found in s3.list()] == [files[1]]
    s3.claim(3)
    assert sorted(unfinished(raw)) == sorted(others)
    assert s3.read(files[1]) == b"whole"
    for key in others:
        raw.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=uploads[key])


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (501, "NotImplemented")])
def test_claim_says_so_and_goes_on_where_uploads_may_not_be_listed(
    s3: S3Storage, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, status: int, code: str
) -> None:
    proxy.add(What.ANSWER, verb="LIST", times=None, status=status, code=code)
    with caplog.at_level(logging.WARNING):
        s3.claim(2)
    assert "Unfinished uploads" in caplog.text


def test_claim_that_can_not_be_answered_fails(s3: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(What.RESET, verb="LIST", times=None)
    with pytest.raises(StorageUnavailable):
        s3.claim(2)


@pytest.mark.parametrize("body", [b"", b"small", BODY, LARGE], ids=["empty", "small", "one", "parts"])
def test_digest_is_of_what_is_stored_whatever_the_service_does_with_checksums(
    by_checksums: FaultProxy, open_s3: OpenS3, body: bytes
) -> None:
    s3 = open_s3(by_checksums, **IN_PARTS)
    s3.write(KEY, [body])
    assert s3.holds(KEY, [body], sha256=digest_of(body).sha256)
    # Only where the service has verified what was sent, there is no need to read it back.
    assert (by_checksums.requests("GET") == []) == (by_checksums.checksums == "verified")
    assert s3.digest(KEY) == digest_of(body)
    assert [found.key for found in s3.list()] == [KEY]


@pytest.mark.parametrize("body", [BODY, LARGE], ids=["one", "parts"])
def test_damage_on_the_way_in_is_refused_by_the_service_or_told_by_the_digest(
    by_checksums: FaultProxy, open_s3: OpenS3, body: bytes
) -> None:
    """A checksum that is kept without a look at the body says what was meant, and not what is there."""
    s3 = open_s3(by_checksums, **IN_PARTS)
    by_checksums.add(What.CORRUPT_UPLOAD, verb="PUT", key="*/checkpoint-*")
    s3.write(KEY, [body])
    is_whole = s3.holds(KEY, [body], sha256=digest_of(body).sha256)
    assert is_whole == (s3.digest(KEY) == digest_of(body)) == (by_checksums.checksums == "verified")
    # What is stored so is handed out so: the caller has a SHA-256 and sets the checkpoint aside.
    assert hashlib.sha256(s3.read(KEY)).hexdigest() == s3.digest(KEY).sha256


def test_damage_on_the_way_out_is_asked_for_again_where_the_service_keeps_checksums(
    verifying: FaultProxy, open_s3: OpenS3
) -> None:
    s3 = open_s3(verifying)
    s3.write("log/00000001.json", [BODY])
    verifying.add(What.CORRUPT_DOWNLOAD, verb="GET")
    assert s3.read("log/00000001.json") == BODY


def test_another_machine_reads_back_what_was_written_in_parts(verifying: FaultProxy, open_s3: OpenS3) -> None:
    open_s3(verifying, **IN_PARTS).write(KEY, [LARGE])
    assert open_s3(verifying).digest(KEY) == digest_of(LARGE)
    assert len(verifying.requests("GET")) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(411, "MissingContentLength"), (400, "InvalidArgument"), (501, "NotImplemented")]
)
def test_a_service_that_knows_no_checksums_is_sent_none_any_more(
    s3: S3Storage, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, status: int, code: str
) -> None:
    proxy.add(What.ANSWER, verb="PUT", status=status, code=code)
    with caplog.at_level(logging.INFO):
        for number in range(3):
            assert s3.put_if_absent(f"log/{number}.json", BODY)
            s3.write(f"checkpoint-{number}/a", [BODY])
    sent = ["x-amz-checksum-sha256" in request.headers for request in proxy.requests("PUT")]
    assert sent == [True] + [False] * 6
    assert caplog.text.count("takes no checksums") == 1
    assert s3.digest("checkpoint-1/a") == digest_of(BODY)


def test_every_put_has_its_checksum(s3: S3Storage, proxy: FaultProxy) -> None:
    s3.write("status/0001.json", [b"x"], durable=False)
    s3.write(KEY, [BODY])
    s3.put_if_absent("log/00000001.json", b"x")
    assert all("x-amz-checksum-sha256" in request.headers for request in proxy.requests("PUT"))
    assert not any("x-amz-trailer" in request.headers for request in proxy.requests())


def test_a_part_that_has_its_checksum_is_not_hashed_again_to_be_signed(proxy: FaultProxy, open_s3: OpenS3) -> None:
    open_s3(proxy, **IN_PARTS).write(KEY, [LARGE])
    open_s3(proxy).write("status/0001.json", [BODY])
    *parts, other = proxy.requests("PUT")
    assert len(parts) == 3
    for part in parts:
        assert part.headers["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"
        assert "x-amz-checksum-sha256" in part.headers["Authorization"], "the checksum itself is signed"
    assert other.headers["X-Amz-Content-SHA256"] == digest_of(BODY).sha256


def test_a_part_for_a_service_that_takes_no_checksums_is_signed_whole(proxy: FaultProxy, open_s3: OpenS3) -> None:
    proxy.add(What.ANSWER, verb="POST", status=400, code="InvalidArgument")
    open_s3(proxy, **IN_PARTS).write(KEY, [LARGE])
    assert {len(part.headers["X-Amz-Content-SHA256"]) for part in proxy.requests("PUT")} == {64}


def test_what_is_written_is_encrypted_as_asked(proxy: FaultProxy, open_s3: OpenS3) -> None:
    s3 = open_s3(proxy, sse="aws:kms", kms_key_id="a-key", **IN_PARTS)
    s3.write(KEY, [LARGE])
    s3.write("status/0001.json", [b"x"])
    s3.put_if_absent("log/00000001.json", b"x")
    began = [request for request in proxy.requests("POST") if "uploads" in request.query]
    puts = [request for request in proxy.requests("PUT") if "partNumber" not in request.query]
    assert len(began + puts) == 3
    for request in began + puts:
        assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "a-key"
