"""From what the user typed to a storage."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import cast

from dreambooth_resume.errors import BadInput
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3_address import S3Settings

# Scheme -> "module:Class", constructed with the whole address and the settings. A new store is one file and one line
# here.
_SCHEME_WITH_ONE_SLASH = re.compile(r"[a-z][a-z0-9]+:/[^/]")

STORES: dict[str, str] = {"s3": "dreambooth_resume.storage.s3:S3Storage"}


def open_storage(address: str, s3: S3Settings | None = None) -> Storage:
    """The storage behind a folder or an address with a scheme; `s3` says how an S3 service is reached.

    Raises BadInput for a scheme nobody knows.
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        if _SCHEME_WITH_ONE_SLASH.match(address):
            raise BadInput("has one slash too few", where=address, fix=address.replace(":/", "://", 1))
        return LocalStorage(Path(address))
    if scheme not in STORES:
        known = ", ".join(["a folder", *(f"{name}://…" for name in STORES)])
        raise BadInput(f"no storage for {scheme}:// in this version", where=address, fix=f"use {known}")
    module, _, name = STORES[scheme].partition(":")
    return cast(Storage, getattr(import_module(module), name)(address, s3))
