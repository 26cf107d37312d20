"""May we do here what a run needs? Asked of a home once, so that every missing permission is named at a time."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable

from dreambooth_resume.errors import AccessDenied, KeyNotFound
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.probe import PROBE_PREFIX
from dreambooth_resume.storage.side_by_side import both


class PermissionMissing(AccessDenied):
    """We are known here, but may not do this: `permission` is what the store calls it, `grant` what would allow it."""

    def __init__(self, message: str, *, permission: str, grant: str) -> None:
        super().__init__(message)
        self.permission = permission
        self.grant = grant


class PermissionsMissing(AccessDenied):
    """All that are missing, each with what would allow it."""

    def __init__(self, message: str, *, missing: tuple[PermissionMissing, ...]) -> None:
        super().__init__(message)
        self.missing = missing


def check_access(storage: Storage) -> None:
    """List, write, read and delete one small key, and leave nothing.

    Raises PermissionsMissing that names each missing permission with what would grant it; StorageUnavailable, BadInput
    and an AccessDenied that is about who we are (wrong or expired credentials) as the storage does.
    """
    key, body = f"{PROBE_PREFIX}{uuid.uuid4().hex}.json", b"{}"
    missing: list[PermissionMissing] = []

    def is_allowed(do: Callable[[], object]) -> bool:
        try:
            do()
        except PermissionMissing as error:
            missing.append(error)
            return False
        return True

    listed, written = both(
        storage,
        lambda: is_allowed(lambda: storage.list(PROBE_PREFIX)),
        lambda: is_allowed(lambda: storage.write(key, [body])),
    )
    # Of a key that isn't there, a store says by the same refusal that we may not read, or that we may not list.
    if written or listed:
        with contextlib.suppress(KeyNotFound):
            is_allowed(lambda: storage.read(key))
    is_allowed(lambda: storage.delete(key))
    if missing:
        lines = "\n".join(f"  {error.permission}: {error.grant}" for error in missing)
        raise PermissionsMissing(
            f"{storage.describe()}: these permissions are missing, with what would grant each:\n{lines}",
            missing=tuple(missing),
        )
