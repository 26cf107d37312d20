"""A home in a bucket as the tests see it: the options that lead there, and what lies in it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Self

from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from tests.fakes.s3_server import BUCKET


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Home:
    """`storage` goes straight to the server, whatever stands between it and the runs."""

    uri: str
    server_url: str
    storage: S3Storage

    @classmethod
    def new(cls, server_url: str) -> Self:
        uri = f"s3://{BUCKET}/runs/{uuid.uuid4().hex}"
        storage = S3Storage(uri, S3Settings(endpoint_url=server_url))
        return cls(uri=uri, server_url=server_url, storage=storage)

    def options(self, *, through: str | None = None) -> dict[str, object]:
        """What `dbr train` is told about this home; `through` is the address of a proxy."""
        return {"storage_uri": self.uri, "s3_endpoint_url": through or self.server_url}

    def pattern(self, key: str) -> str:
        """A pattern of the proxy for `key`, which may be a pattern itself."""
        return f"*{self.uri.rpartition('/')[2]}/{key}"

    def bodies(self, prefix: str = "") -> dict[str, bytes]:
        """Every key and what lies under it."""
        return {found.key: self.storage.read(found.key) for found in self.storage.list(prefix)}

    def copy(self) -> S3Home:
        """Another home that holds the same."""
        other = S3Home.new(self.server_url)
        for key, body in self.bodies().items():
            other.storage.write(key, [body])
        return other
