"""Where an S3 home lies and how its service is reached. Cheap to import: options are checked with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from dreambooth_resume.errors import BadInput

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """How to reach an S3 service. Credentials are not here: boto3's own chain finds and refreshes them."""

    endpoint_url: str | None = None
    """Address of a service other than AWS: MinIO, R2, Ceph and the like."""
    region: str | None = None
    """None: what boto3 finds in the environment or the profile."""
    path_style: bool | None = None
    """True: endpoint/bucket/key, False: bucket.endpoint/key, None: as boto3 does it for this endpoint."""
    sse: str | None = None
    """Server-side encryption of everything written: `AES256`, `aws:kms` or `aws:kms:dsse`."""
    kms_key_id: str | None = None
    """The key for `aws:kms`; None: the account's own."""
    unfenced: bool = False
    """Go on with a service that has no conditional writes: put-if-absent is then two requests."""
    connect_seconds: float = 3.0
    read_seconds: float = 10.0
    operation_seconds: float = 30.0
    """No try of an operation begins later than this; bodies get what they need at `slowest_bytes_per_second` on top."""
    slowest_bytes_per_second: float = 128 * 1024
    in_parts_above_bytes: int = 64 * 2**20
    """Larger bodies are written in parts, a few at once."""
    part_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        _check_endpoint(self.endpoint_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Address:
    """`s3://bucket/prefix`. `prefix` has no slash at either end; it may be empty."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def full(self, key: str) -> str:
        """The key in the bucket of a key in the home."""
        return f"{self.prefix}/{key}" if self.prefix else key


def parse_address(address: str) -> S3Address:
    """The parts of `s3://bucket/prefix`. Raises BadInput, with the fix, for anything that is no such address."""
    scheme, _, rest = address.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    fix = "s3://BUCKET/NAME, such as s3://my-bucket/runs/dog"
    if scheme != "s3" or not bucket:
        raise BadInput("names no bucket", where=address, fix=fix)
    if not _BUCKET.fullmatch(bucket):
        raise BadInput(f"{bucket!r} can't be a bucket's name", where=address, fix=fix)
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise BadInput("has an empty or a dotted part between two slashes", where=address, fix=fix)
    if not prefix.isprintable():
        raise BadInput("has characters that can't be printed", where=address, fix=fix)
    return S3Address(bucket=bucket, prefix=prefix)


def _check_endpoint(endpoint_url: str | None) -> None:
    if endpoint_url is None:
        return
    parts = urlsplit(endpoint_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        fix = "http://HOST:PORT or https://HOST[:PORT]"
        raise BadInput("is no address of an S3 service", where=f"endpoint {endpoint_url}", fix=fix)
    if parts.username or parts.password:
        # It would be in every message about this endpoint.
        where, fix = f"endpoint {parts.scheme}://…@{parts.hostname}", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise BadInput("credentials don't belong into the endpoint", where=where, fix=fix)
