"""A bucket's prefix as a home: S3 and the services that speak its language."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from dreambooth_resume.errors import AccessDenied, BadInput, KeyNotFound, OutcomeUnknown, StorageUnavailable
from dreambooth_resume.storage.access import PermissionMissing
from dreambooth_resume.storage.base import Body, SinkKind, StoredDigest, StoredObject
from dreambooth_resume.storage.compare import Compared
from dreambooth_resume.storage.probe import PROBE_PREFIX
from dreambooth_resume.storage.s3_address import S3Settings, parse_address
from dreambooth_resume.storage.s3_client import Clock, S3Requests
from dreambooth_resume.storage.s3_errors import answer_of, is_transient, was_never_sent
from dreambooth_resume.storage.s3_transfer import (
    Collected,
    InParts,
    PartsStream,
    checksum_of,
    download,
    upload_in_parts,
)

_logger = logging.getLogger(__name__)

# Smaller bodies go out with their head in one packet; larger ones first ask the store whether it wants them.
_IN_ONE_PACKET_BYTES = 64 * 2**10
_PAGES_MAX = 100_000
_IN_PARTS_REMEMBERED = 64
_REFUSES_WRONG_CHECKSUMS = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}
# Uploads carry no owner, so it is read off the key; `runs/home.py` names it, and a test holds the two together.
_ATTEMPTS_KEY = re.compile(r"checkpoint-\d+(?:-a(?P<attempt>\d+))?/[^/]+")


class S3Storage:
    """Keys are objects below `s3://bucket/prefix`; S3 makes each PUT durable and visible as a whole.

    Data PUTs, GETs, LISTs and DELETEs are asked again while trouble passes: none of them does more when it happens
    twice. A conditional PUT is sent once: only its caller, who knows its nonce, can tell a success of its own from a
    refusal.
    """

    # A heartbeat and a look for requests each: about half a cent an hour.
    hint_interval_seconds = 10.0
    requests_at_once = 8

    def __init__(self, address: str, settings: S3Settings | None = None, *, clock: Clock | None = None) -> None:
        self.refuses_a_second_writer = True
        self._requests = S3Requests(parse_address(address), settings or S3Settings(), clock or Clock())
        self._encryption = _encryption(self._requests.settings)
        self._store_verifies: bool | None = None
        self._in_parts: dict[str, InParts] = {}

    def describe(self) -> str:
        return str(self._requests.address)

    def read(self, key: str) -> bytes:
        return b"".join(download(self._requests, key, Collected, check=True).pieces)

    def download(self, key: str, new_sink: Callable[[], SinkKind]) -> SinkKind:
        return download(self._requests, key, new_sink, check=True)

    def write(self, key: str, parts: Sequence[Body], *, durable: bool = True) -> None:  # noqa: ARG002
        body = self._stream(parts)
        self._in_parts.pop(key, None)
        if len(body) > self._requests.settings.in_parts_above_bytes:
            self._remember(key, upload_in_parts(self._requests, key, body, self._encryption))
        else:
            self._put(key, body, {}, repeat=True)

    def put_if_absent(self, key: str, body: bytes) -> bool:
        try:
            self._put(key, self._stream([body]), {"IfNoneMatch": "*"}, repeat=False)
        except StorageUnavailable as error:
            answer = answer_of(error.__cause__)
            if answer.status == 412:
                return False
            if answer.status == 501:
                return self._put_unfenced(key, body, error)
            if was_never_sent(error.__cause__):
                raise
            # Also 409, by which S3 tells that another write of this key was under way.
            raise OutcomeUnknown(f"{error} Whether {key} was created is not known.") from error.__cause__
        return True

    def _put_unfenced(self, key: str, body: bytes, error: StorageUnavailable) -> bool:
        """For services without conditional writes: look, then write. Two machines can both succeed."""
        if not self._requests.settings.unfenced:
            raise BadInput(
                "this service has no conditional writes, so two machines could spoil one run",
                where=self.describe(),
                fix="use one that has (AWS, R2, MinIO, Ceph), or --unfenced if only one machine ever runs at a time",
            ) from error.__cause__
        self.refuses_a_second_writer = False
        try:
            self.read(key)
        except KeyNotFound:
            self._put(key, self._stream([body]), {}, repeat=True)
            return True
        return False

    def digest(self, key: str) -> StoredDigest:
        head = self._head(key)
        stored = _whole_checksum(head)
        if stored is not None and self._verifies():
            return stored
        hashed = download(self._requests, key, _Hashed, check=False)
        return StoredDigest(size_bytes=hashed.size_bytes, sha256=hashed.sha256.hexdigest())

    def holds(self, key: str, parts: Sequence[Body], *, sha256: str) -> bool:
        wanted = StoredDigest(size_bytes=sum(memoryview(part).nbytes for part in parts), sha256=sha256)
        if self._says_so(key, wanted) and self._verifies():
            return True
        return download(self._requests, key, lambda: Compared(parts), check=False).is_same

    def folders(self, prefix: str = "") -> list[str]:
        home = self._requests.address.full("")
        tokens = {"NextContinuationToken": "ContinuationToken"}
        pages = self._pages("list_objects_v2", prefix, tokens, delimiter="/")
        return sorted(
            folder["Prefix"].removeprefix(home) for page in pages for folder in page.get("CommonPrefixes", [])
        )

    def list(self, prefix: str = "") -> list[StoredObject]:
        home = self._requests.address.full("")
        pages = self._pages("list_objects_v2", prefix, {"NextContinuationToken": "ContinuationToken"})
        found = [
            StoredObject(
                key=stored["Key"].removeprefix(home),
                size_bytes=int(stored["Size"]),
                version=str(stored.get("ETag", "")).strip('"'),
                modified_at=stored["LastModified"].timestamp() if "LastModified" in stored else None,
            )
            for page in pages
            for stored in page.get("Contents", [])
            # Consoles and mounts make objects named like folders; no key of ours ends so.
            if not stored["Key"].endswith("/")
        ]
        return sorted(found, key=lambda stored: stored.key)

    def delete(self, key: str) -> None:
        try:
            self._requests.ask("delete_object", key, self._requests.name(key))
        except StorageUnavailable as error:
            if answer_of(error.__cause__).code != "NoSuchKey":
                raise

    def claim(self, attempt: int) -> None:
        try:
            for key, upload_id in self._unfinished():
                match = _ATTEMPTS_KEY.fullmatch(key)
                if match is not None and int(match["attempt"] or 1) < attempt:
                    self._abort(key, upload_id)
        except AccessDenied as error:
            self._leave_unfinished(error)
        except StorageUnavailable as error:
            if answer_of(error.__cause__).status not in (405, 501):
                raise
            self._leave_unfinished(error)

    def clock_ahead_seconds(self) -> float | None:
        """By how much this machine's clock is ahead of the store's, to half a second; None if it tells no date."""
        answer = self._requests.ask(
            "list_objects_v2",
            PROBE_PREFIX,
            {
                "Bucket": self._requests.address.bucket,
                "Prefix": self._requests.address.full(PROBE_PREFIX),
                "MaxKeys": 1,
            },
        )
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            # It is cut to whole seconds.
            return time.time() - parsedate_to_datetime(date).timestamp() - 0.5
        except (TypeError, ValueError):
            return None

    def missing_to_tidy(self) -> tuple[PermissionMissing, ...]:
        """The permissions that `claim` would miss. Nothing is made for it: an upload is ended that never was."""
        key = f"{PROBE_PREFIX}{uuid.uuid4().hex}.json"
        never_was = {**self._requests.name(key), "UploadId": uuid.uuid4().hex}
        missing: list[PermissionMissing] = []
        for ask in (
            lambda: list(self._unfinished()),
            lambda: self._requests.ask("abort_multipart_upload", key, never_was, repeat=False),
        ):
            try:
                ask()
            except PermissionMissing as error:
                missing.append(error)
            except (StorageUnavailable, KeyNotFound):
                continue  # there is no such upload: we may end one
        return tuple(missing)

    def free_bytes(self) -> int | None:
        return None

    def _leave_unfinished(self, error: Exception) -> None:
        # They show nowhere and spoil nothing, but they are paid for; a bucket's lifecycle rule clears them as well.
        _logger.warning("Unfinished uploads of earlier attempts, if there are any, stay: %s", error)

    def _stream(self, parts: Sequence[Body]) -> PartsStream:
        size_bytes = sum(memoryview(part).nbytes for part in parts)
        return PartsStream(parts, is_late=self._requests.deadline(size_bytes).is_past)

    def _put(self, key: str, body: PartsStream, condition: Mapping[str, str], *, repeat: bool) -> None:
        sent = body.read() if len(body) <= _IN_ONE_PACKET_BYTES else body
        self._requests.ask_with_checksum(
            "put_object",
            key,
            {**self._requests.name(key), **self._encryption, **condition, "Body": sent},
            {"ChecksumSHA256": checksum_of(body.sha256())},
            deadline=self._requests.deadline(len(body)),
            repeat=repeat,
        )

    def _head(self, key: str) -> dict[str, Any]:
        try:
            return self._requests.ask("head_object", key, {**self._requests.name(key), "ChecksumMode": "ENABLED"})
        except (StorageUnavailable, AccessDenied, BadInput) as error:
            status = answer_of(error.__cause__).status
            if status is None or status >= 500:
                raise
            # A HEAD's answer has no body and so no reason: 404 may be the bucket. The same question as a GET has one.
            self._requests.ask("get_object", key, self._requests.name(key))["Body"].close()
            return {}

    def _says_so(self, key: str, wanted: StoredDigest) -> bool:
        """Whether the checksum that the store keeps is that of `wanted`. False proves nothing: it may be of no use."""
        head = self._head(key)
        if (whole := _whole_checksum(head)) is not None:
            return whole == wanted
        # Written in parts, it is the checksum of the parts' checksums. Those are of what was meant, and we knew them.
        ours = self._in_parts.get(key)
        composite = str(head.get("ChecksumSHA256", "")).partition("-")[0]
        size_bytes = int(head.get("ContentLength", -1))
        return ours is not None and (composite, size_bytes) == (ours.checksum, wanted.size_bytes)

    def _verifies(self) -> bool:
        """Whether the store compares a checksum with the body before it takes both (asked once, with a wrong one)."""
        if self._store_verifies is None:
            self._store_verifies = self._refuses_a_wrong_checksum()
        return self._store_verifies is True

    def _refuses_a_wrong_checksum(self) -> bool | None:
        key = f"{PROBE_PREFIX}{uuid.uuid4().hex}.json"
        params = {**self._requests.name(key), **self._encryption, "Body": b"{}"}
        wrong = {"ChecksumSHA256": checksum_of(hashlib.sha256(b"another body").digest())}
        try:
            self._requests.ask("put_object", key, {**params, **wrong}, repeat=False)
        except AccessDenied:
            return False  # who may not write reads back
        except StorageUnavailable as error:
            answer = answer_of(error.__cause__)
            if answer.status == 400 and answer.code in _REFUSES_WRONG_CHECKSUMS:
                return True
            if is_transient(error.__cause__):
                return None  # to be asked another time
        with contextlib.suppress(AccessDenied, StorageUnavailable):
            self.delete(key)
        return False

    def _remember(self, key: str, written: InParts) -> None:
        self._in_parts[key] = written
        while len(self._in_parts) > _IN_PARTS_REMEMBERED:
            self._in_parts.pop(next(iter(self._in_parts)), None)

    def _unfinished(self) -> Iterator[tuple[str, str]]:
        home = self._requests.address.full("")
        tokens = {"NextKeyMarker": "KeyMarker", "NextUploadIdMarker": "UploadIdMarker"}
        for page in list(self._pages("list_multipart_uploads", "checkpoint-", tokens)):
            for upload in page.get("Uploads", []):
                yield upload["Key"].removeprefix(home), upload["UploadId"]

    def _abort(self, key: str, upload_id: str) -> None:
        try:
            self._requests.ask("abort_multipart_upload", key, {**self._requests.name(key), "UploadId": upload_id})
        except StorageUnavailable as error:
            if answer_of(error.__cause__).code != "NoSuchUpload":
                raise

    def _pages(
        self, operation: str, prefix: str, tokens: Mapping[str, str], *, delimiter: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """The pages of a listing; `tokens` says which fields of one are the parameters of the next."""
        grouped = {"Delimiter": delimiter} if delimiter else {}
        address = self._requests.address
        following: dict[str, str] = {}
        for _ in range(_PAGES_MAX):
            params = {"Bucket": address.bucket, "Prefix": address.full(prefix), **grouped, **following}
            page = self._requests.ask(operation, prefix, params)
            yield page
            if not page.get("IsTruncated"):
                return
            before, following = following, {tokens[name]: page[name] for name in tokens if page.get(name)}
            if following in ({}, before):
                break
        raise StorageUnavailable(f"Could not list {address}/{prefix}: the listing does not end.")


def _whole_checksum(head: Mapping[str, Any]) -> StoredDigest | None:
    """What the checksum that the store keeps says about the whole body, if it is one of the whole."""
    checksum = str(head.get("ChecksumSHA256", ""))
    is_of_parts = "-" in str(head.get("ETag", "-")) or head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT"
    if not checksum or is_of_parts:
        return None
    return StoredDigest(size_bytes=int(head.get("ContentLength", -1)), sha256=base64.b64decode(checksum).hex())


class _Hashed:
    """Hashes a body as it arrives."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def update(self, piece: bytes, /) -> None:
        self.sha256.update(piece)
        self.size_bytes += len(piece)


def _encryption(settings: S3Settings) -> dict[str, str]:
    wanted = {"ServerSideEncryption": settings.sse, "SSEKMSKeyId": settings.kms_key_id}
    return {name: value for name, value in wanted.items() if value is not None}
