"""Bodies on their way: read again from where the connection broke, and large ones written in parts."""

from __future__ import annotations

import base64
import bisect
import contextlib
import hashlib
import itertools
import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from dreambooth_resume.errors import DbrError, KeyNotFound, StorageUnavailable
from dreambooth_resume.storage.base import Body, SinkKind
from dreambooth_resume.storage.s3_client import S3Requests
from dreambooth_resume.storage.s3_errors import answer_of, is_wrong_checksum, sdk_errors

_PARTS_AT_ONCE = 4
# What of a piece has come when the connection breaks is asked for again.
_READ_BYTES = 2**17
# A body that contradicts its checksum twice is stored so; the caller, who knows its SHA-256, has to hear of it.
_CHECKED_READS = 2
WRITE_ID = "dbr-write"


class PartsStream:
    """Several buffers as one file to read, without a copy of them. Used by one thread at a time."""

    def __init__(self, parts: Sequence[Body], *, is_late: Callable[[], bool] = lambda: False) -> None:
        self._views = [memoryview(part).cast("B") for part in parts if len(memoryview(part).cast("B"))]
        self._ends = list(itertools.accumulate(len(view) for view in self._views))
        self._at = 0
        self._is_late = is_late

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, size: int = -1) -> bytes:
        if self._is_late():
            # Each piece arrives within the socket's time-out, and yet the whole would take for ever.
            raise TimeoutError("the connection is too slow for a body of this size")
        end = len(self) if size is None or size < 0 else min(self._at + size, len(self))
        pieces = self._slices(self._at, end)
        self._at = max(self._at, end)
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, len(self))[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def window(self, start: int, size: int) -> PartsStream:
        """A stream of its own over a stretch of the same buffers."""
        return PartsStream(self._slices(start, min(start + size, len(self))), is_late=self._is_late)

    def sha256(self) -> bytes:
        digest = hashlib.sha256()
        for view in self._views:
            digest.update(view)
        return digest.digest()

    def _slices(self, start: int, end: int) -> list[memoryview]:
        found: list[memoryview] = []
        index = bisect.bisect_right(self._ends, start)
        while start < end:
            begin = self._ends[index] - len(self._views[index])
            piece = self._views[index][start - begin : end - begin]
            found.append(piece)
            start += len(piece)
            index += 1
        return found


def checksum_of(digest: bytes) -> str:
    """A SHA-256 as S3's headers have it."""
    return base64.b64encode(digest).decode()


class Collected:
    """The pieces of a body."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def update(self, piece: bytes, /) -> None:
        self.pieces.append(piece)


def download(requests: S3Requests, key: str, new_sink: Callable[[], SinkKind], *, check: bool) -> SinkKind:
    """A sink that has taken the whole body of `key`; what broke off goes on where it broke, if it is still the same.

    With `check`, a checksum that the store gives is compared; one that goes on to differ is not held against the store.
    """
    transfer = _Download(requests, key, new_sink, check=check)
    requests.attempt(transfer.go_on, "get_object", key, deadline=transfer.deadline)
    return transfer.sink


class _Download(Generic[SinkKind]):
    def __init__(self, requests: S3Requests, key: str, new_sink: Callable[[], SinkKind], *, check: bool) -> None:
        self.deadline = requests.deadline()
        self._requests = requests
        self._key = key
        self._new_sink = new_sink
        self._checked_reads = _CHECKED_READS if check else 0
        self._allowed_bytes = 0
        self._restart()

    def _restart(self) -> None:
        self.sink = self._new_sink()
        self._size_bytes: int | None = None
        self._arrived_bytes = 0
        self._etag = ""

    def go_on(self) -> None:
        """One request, for what is still missing."""
        response = self._rest() or self._whole()
        try:
            with contextlib.closing(response["Body"]) as body:
                while piece := body.read(_READ_BYTES):
                    self.sink.update(piece)
                    self._arrived_bytes += len(piece)
                    if self.deadline.is_past():
                        raise TimeoutError("the connection is too slow for a body of this size")
        except sdk_errors() as error:
            if is_wrong_checksum(error):
                self._checked_reads -= 1
                self._restart()
            raise
        if self._arrived_bytes != self._size_bytes:
            raise ConnectionError(f"{self._arrived_bytes} of {self._size_bytes} bytes arrived")

    def _whole(self) -> dict[str, Any]:
        self._restart()
        mode = {"ChecksumMode": "ENABLED"} if self._checked_reads > 0 else {}
        response = self._get(mode)
        self._size_bytes, self._etag = int(response["ContentLength"]), str(response.get("ETag", ""))
        # Once for the body, and not at every new beginning: one that breaks each time has to be given up.
        self.deadline.extend_for(max(0, self._size_bytes - self._allowed_bytes))
        self._allowed_bytes = max(self._allowed_bytes, self._size_bytes)
        return response

    def _rest(self) -> dict[str, Any] | None:
        """The body from where it broke off; None if it isn't the same any more, or the store knows no ranges."""
        if not (self._arrived_bytes and self._etag):
            return None
        wanted = f"bytes={self._arrived_bytes}-"
        try:
            response = self._get({"Range": wanted, "IfMatch": self._etag})
        except sdk_errors() as error:
            if answer_of(error).status in (412, 416, 501):
                return None
            raise
        if str(response.get("ContentRange", "")).startswith(f"bytes {self._arrived_bytes}-"):
            return response
        response["Body"].close()
        return None

    def _get(self, params: Mapping[str, str]) -> dict[str, Any]:
        requests = self._requests
        response: dict[str, Any] = requests.client().get_object(**requests.name(self._key), **params)
        return response


@dataclass(frozen=True, slots=True, kw_only=True)
class InParts:
    """What was written in parts: `checksum` is the store's checksum of the parts' checksums, if those were sent."""

    checksum: str | None


def upload_in_parts(requests: S3Requests, key: str, body: PartsStream, params: Mapping[str, str]) -> InParts:
    """Write `body` under `key`; it appears all at once, at the end.

    An unfinished upload is aborted on failure; one whose process dies is left to the next attempt's `claim`.
    """
    return _Upload(requests, key, body).run(params)


class _Upload:
    def __init__(self, requests: S3Requests, key: str, body: PartsStream) -> None:
        self._requests = requests
        self._key = key
        self._body = body
        self._part_bytes = requests.settings.part_bytes
        self._deadline = requests.deadline(len(body))
        self._upload_id = ""
        self._sent: dict[int, dict[str, Any]] = {}
        self._failed: list[BaseException] = []

    def run(self, params: Mapping[str, str]) -> InParts:
        write_id = uuid.uuid4().hex
        created = self._requests.ask_with_checksum(
            "create_multipart_upload",
            self._key,
            {**self._requests.name(self._key), **params, "Metadata": {WRITE_ID: write_id}},
            {"ChecksumAlgorithm": "SHA256"},
            deadline=self._deadline,
        )
        self._upload_id = created["UploadId"]
        try:
            self._send_all()
            self._complete(write_id)
        except BaseException:
            # What can't be aborted shows nowhere and is cleared by the next attempt; the failure itself matters more.
            with contextlib.suppress(DbrError, KeyNotFound):
                self._requests.ask("abort_multipart_upload", self._key, self._named(), repeat=False)
            raise
        digests = [base64.b64decode(part.get("ChecksumSHA256", "")) for _, part in sorted(self._sent.items())]
        checksum = checksum_of(hashlib.sha256(b"".join(digests)).digest()) if all(digests) else None
        return InParts(checksum=checksum)

    def _named(self) -> dict[str, str]:
        return {**self._requests.name(self._key), "UploadId": self._upload_id}

    def _send_all(self) -> None:
        """Send the parts on a few threads. Raises the first trouble, once no thread reads the body any more."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(1, -(-len(self._body) // self._part_bytes) + 1):
            waiting.put(number)
        # Not a pool: its threads would be waited for at the end of the process, which has a deadline of its own.
        threads = [
            threading.Thread(target=self._send_some, args=(waiting,), daemon=True) for _ in range(_PARTS_AT_ONCE)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failed:
            raise self._failed[0]

    def _send_some(self, waiting: queue.SimpleQueue[int]) -> None:
        try:
            while not self._failed:
                self._send(waiting.get_nowait())
        except queue.Empty:
            return
        except BaseException as error:  # noqa: BLE001
            # A thread's root: `_send_all` raises it.
            self._failed.append(error)

    def _send(self, number: int) -> None:
        part = self._body.window((number - 1) * self._part_bytes, self._part_bytes)
        checksum = {"ChecksumSHA256": checksum_of(part.sha256())} if self._requests.sends_checksums else {}
        answer = self._requests.ask_with_checksum(
            "upload_part",
            self._key,
            {**self._named(), "PartNumber": number, "Body": part},
            checksum,
            deadline=self._deadline,
        )
        self._sent[number] = {"PartNumber": number, "ETag": answer["ETag"], **checksum}

    def _complete(self, write_id: str) -> None:
        parts = [part for _, part in sorted(self._sent.items())]
        params = {**self._named(), "MultipartUpload": {"Parts": parts}}
        try:
            self._requests.ask("complete_multipart_upload", self._key, params, deadline=self._deadline)
        except StorageUnavailable as error:
            # The answer to an earlier try of ours may have been lost: then there is no such upload any more.
            if answer_of(error.__cause__).code != "NoSuchUpload" or not self._is_there(write_id):
                raise

    def _is_there(self, write_id: str) -> bool:
        try:
            found = self._requests.ask(
                "head_object", self._key, self._requests.name(self._key), deadline=self._deadline
            )
        except StorageUnavailable:
            return False
        return bool(found.get("Metadata", {}).get(WRITE_ID) == write_id)
