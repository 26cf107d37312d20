"""Uploading a result to the Hugging Face Hub: is there a token that may, and one commit with all files.

No token is kept, logged or put into a message.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import PurePosixPath

from dreambooth_resume.errors import AccessDenied, BadInput
from dreambooth_resume.models.hub import HubUnreachable

logger = logging.getLogger(__name__)

TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_LARGE = ".safetensors"
_MESSAGE = "End of training"


class HubUpload:
    """The Hub with the user's token: the given one, or what the client library finds (HF_TOKEN, `hf auth login`)."""

    def __init__(self, *, token: str | None) -> None:
        self._token = token

    def check(self, *, where: str | None) -> None:
        """Raises BadInput without a token, AccessDenied for one that can't write, HubUnreachable if nobody answers."""
        import httpx2
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HfHubHTTPError

        token = self._token or get_token()
        if not token:
            raise BadInput(
                "uploading needs a token for the Hub, and there is none",
                where=where,
                fix=f"make one with write access at {TOKENS_PAGE}, then: hf auth login (or set HF_TOKEN)",
            )
        try:
            who = HfApi(token=token).whoami()
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            raise _ours(error, doing="asking who the token belongs to") from None
        role = who.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise AccessDenied(
                f"The token for the Hub can only read. Make one with write access at {TOKENS_PAGE}, then: "
                "hf auth login (or set HF_TOKEN)"
            )

    def upload(
        self, repo: str, files: Mapping[str, bytes], *, message: str = _MESSAGE, replaces: str | None = None
    ) -> str:
        """Create the repository if it isn't there, and put these files into it by one commit; its address.

        Files that it has already cost nothing, and if it has all of them there is no new commit. What the Hub then says
        that it has of the large ones is compared. What is there below folders that begin with `replaces` goes in the
        same commit. Raises AccessDenied, BadInput for a name that the Hub refuses,
        HubUnreachable for the rest.
        """
        import httpx2
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.hf_api import RepoFile

        api = HfApi(token=self._token)
        try:
            created = api.create_repo(repo, exist_ok=True)
            operations: list[CommitOperationAdd | CommitOperationDelete]
            operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=body) for name, body in files.items()]
            if replaces is not None:
                operations += [
                    CommitOperationDelete(path_in_repo=old)
                    for old in api.list_repo_files(created.repo_id)
                    if "/" in old and old.startswith(replaces) and old not in files
                ]
            api.create_commit(created.repo_id, operations, commit_message=message)
            there = api.get_paths_info(created.repo_id, [name for name in files if name.endswith(_LARGE)])
        except HFValidationError:
            raise _no_name(repo) from None
        except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
            # The last two: what the library's own storage client raises when its network fails.
            raise _ours(error, doing=f"uploading to {repo}") from None
        digests = {one.path: one.lfs.sha256 for one in there if isinstance(one, RepoFile) and one.lfs is not None}
        for name, body in files.items():
            if name.endswith(_LARGE) and digests.get(name) != hashlib.sha256(body).hexdigest():
                raise HubUnreachable(f"The Hub: {name} of {repo} is not what was uploaded")
        return str(created)


def check_repository_name(repo: str) -> None:
    """Raises BadInput for a name that no repository can have. Nobody is asked."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise _no_name(repo) from None


def repository_name(hub_model_id: str | None, output_dir: str) -> str:
    """As in Diffusers' script: the given one, else the last part of the output folder, under the user's own account."""
    return hub_model_id or PurePosixPath(output_dir.rstrip("/")).name


def _no_name(repo: str) -> BadInput:
    return BadInput(
        f'"{repo}" is no name for a repository on the Hub: NAME or OWNER/NAME, of letters, digits, "-", "_" and "."',
        where="--hub_model_id",
        fix="type --hub_model_id you/dog-lora",
    )


def _ours(error: Exception, *, doing: str) -> AccessDenied | HubUnreachable:
    from huggingface_hub.errors import HfHubHTTPError

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return AccessDenied(
            f"The Hub refuses ({status}) while {doing}. Make a token with write access at {TOKENS_PAGE}, then: "
            "hf auth login (or set HF_TOKEN)"
        )
    # Not the error's own text: a client library may quote a header in it.
    logger.debug("while %s", doing, exc_info=error)
    reason = f"it answers {status}" if status else "it can't be reached"
    return HubUnreachable(f"The Hub: {reason} while {doing}")
