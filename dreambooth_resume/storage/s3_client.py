"""One client a process, and one way to ask an S3 service anything."""

from __future__ import annotations

import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dreambooth_resume.errors import StorageUnavailable
from dreambooth_resume.storage.s3_address import S3Address, S3Settings
from dreambooth_resume.storage.s3_errors import Action, answer_of, is_transient, sdk_errors, translate

_logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_TRIES_MAX = 30
_CONNECTIONS_MAX = 24
# Answers of stores that don't know a checksum header. Any other code says something about this one request.
_KNOWS_NO_CHECKSUMS = {"InvalidRequest", "InvalidArgument", "MissingContentLength", "NotImplemented"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Elapsed time and waiting; tests pass their own."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class _Clients:
    """One client for each kind of settings. Clients are made to be used by many threads, but not over a fork."""

    made: dict[tuple[S3Settings, bool], Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, settings: S3Settings, *, signs_bodies: bool) -> Any:
        with self.lock:
            if (settings, signs_bodies) not in self.made:
                self.made[settings, signs_bodies] = _make_client(settings, signs_bodies=signs_bodies)
            return self.made[settings, signs_bodies]

    def forget(self) -> None:
        """In a forked child: the sockets are the parent's, and its lock may be held by a thread that isn't here."""
        self.made, self.lock = {}, threading.Lock()


_clients = _Clients()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_clients.forget)


def _make_client(settings: S3Settings, *, signs_bodies: bool) -> Any:
    # 0.2 s, and only who has a home in a bucket needs it.
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import NoCredentialsError

    session = botocore.session.get_session()
    if session.get_config_variable("metadata_service_num_attempts") == 1:
        # A machine that has just booted may need a moment before it tells its role; "no credentials" ends a run (77).
        session.set_config_variable("metadata_service_num_attempts", 3)
    styles = {True: "path", False: "virtual", None: "auto"}
    config = Config(
        connect_timeout=settings.connect_seconds,
        read_timeout=settings.read_seconds,
        # The SDK would repeat a conditional write whose answer was lost, and report our own success as a refusal.
        retries={"total_max_attempts": 1},
        max_pool_connections=_CONNECTIONS_MAX,
        # The default sends checksums in trailers over TLS, which stores a few years old answer with 411.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": styles[settings.path_style],
            # The SDK hashes each body once more to sign it, unless it is told not to.
            **({} if signs_bodies else {"payload_signing_enabled": False}),
        },
    )
    aws = boto3.session.Session(botocore_session=session, region_name=settings.region)
    if aws.get_credentials() is None:
        raise NoCredentialsError
    return aws.client("s3", endpoint_url=settings.endpoint_url, config=config)


class Deadline:
    """When an operation is given up. It grows with the size of the body, once that is known."""

    def __init__(self, clock: Clock, settings: S3Settings) -> None:
        self._clock = clock
        self._slowest_bytes_per_second = settings.slowest_bytes_per_second
        self._at_monotonic_s = clock.monotonic() + settings.operation_seconds

    def extend_for(self, size_bytes: int) -> None:
        self._at_monotonic_s += size_bytes / self._slowest_bytes_per_second

    def is_past(self, *, after_seconds: float = 0.0) -> bool:
        """Whether it will have come in so many seconds."""
        return self._clock.monotonic() + after_seconds >= self._at_monotonic_s


class S3Requests:
    """Asks about one home: repeats what may be repeated, until a deadline, and says in our errors what went wrong."""

    def __init__(self, address: S3Address, settings: S3Settings, clock: Clock) -> None:
        self.address = address
        self.settings = settings
        self.clock = clock
        self.sends_checksums = True

    def deadline(self, size_bytes: int = 0) -> Deadline:
        """When to give up an operation, that begins now, on a body of this size."""
        deadline = Deadline(self.clock, self.settings)
        deadline.extend_for(size_bytes)
        return deadline

    def name(self, key: str) -> dict[str, str]:
        """The parameters that name a key of the home in its bucket."""
        return {"Bucket": self.address.bucket, "Key": self.address.full(key)}

    def client(self, *, signs_bodies: bool = True) -> Any:
        """The SDK's client, for `attempt`."""
        return _clients.get(self.settings, signs_bodies=signs_bodies)

    def ask(
        self,
        operation: str,
        key: str,
        params: Mapping[str, Any],
        *,
        deadline: Deadline | None = None,
        repeat: bool = True,
    ) -> dict[str, Any]:
        """The answer of one S3 operation on `key` (of the home; for lists, a prefix).

        Raises what `translate` makes of the trouble, whose `__cause__` is the SDK's own error. With `repeat`, passing
        trouble is first asked again, after growing waits with full jitter.
        """
        body = params.get("Body")
        # A part goes out with its SHA-256 in a header that is signed, as the SDK itself does it over TLS.
        signs_bodies = not (operation == "upload_part" and "ChecksumSHA256" in params)

        def once() -> dict[str, Any]:
            if (rewind := getattr(body, "seek", None)) is not None:
                rewind(0)
            answer: dict[str, Any] = getattr(self.client(signs_bodies=signs_bodies), operation)(**params)
            return answer

        return self.attempt(once, operation, key, deadline=deadline, repeat=repeat)

    def attempt(
        self,
        once: Callable[[], Result],
        operation: str,
        key: str,
        *,
        deadline: Deadline | None = None,
        repeat: bool = True,
    ) -> Result:
        """What `once` returns; asked again, and its errors translated, as `ask` does."""
        deadline = deadline or self.deadline()
        action = Action(operation=operation, key=key, address=self.address, settings=self.settings)
        for number in itertools.count(1):
            try:
                return once()
            except sdk_errors() as error:
                translated = translate(error, action)
                pause = random.uniform(0, min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** (number - 1)))
                is_last = number >= _TRIES_MAX or deadline.is_past(after_seconds=pause)
                if not repeat or is_last or not is_transient(error):
                    raise translated from error
                _logger.debug("%s Asking again in %.1f s.", translated, pause)
            self.clock.sleep(pause)
        raise AssertionError("itertools.count ended")

    def ask_with_checksum(
        self,
        operation: str,
        key: str,
        params: Mapping[str, Any],
        checksum: Mapping[str, Any],
        *,
        deadline: Deadline | None = None,
        repeat: bool = True,
    ) -> dict[str, Any]:
        """As `ask`, with the checksum's parameters; without them for good once the store has said that it knows none.

        That answer is a refusal, so nothing was written, and asking again without them is safe for any operation.
        """
        if self.sends_checksums:
            try:
                return self.ask(operation, key, {**params, **checksum}, deadline=deadline, repeat=repeat)
            except StorageUnavailable as error:
                if not _knows_no_checksums(error):
                    raise
                refusal = error
        answer = self.ask(operation, key, params, deadline=deadline, repeat=repeat)
        if self.sends_checksums:
            self.sends_checksums = False
            _logger.info("%s takes no checksums (%s): what is written is read back instead.", self.address, refusal)
        return answer


def _knows_no_checksums(error: StorageUnavailable) -> bool:
    answer = answer_of(error.__cause__)
    return answer.status == 411 or (answer.status in (400, 501) and answer.code in _KNOWS_NO_CHECKSUMS)
