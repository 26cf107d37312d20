"""The Hugging Face Hub, as far as base models need it: list a repository at a commit, fetch chosen files of it.

The client library finds the token (`HF_TOKEN`, or `hf auth login`); none passes through here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack, DbrError

logger = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_FULL_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubUnreachable(ComeBack):
    """The Hub did not answer, and what is needed from it isn't on this machine."""

    anchor = "the-hub-does-not-answer"


class Hub(Protocol):
    """Where Hub ids lead. Errors: BadInput (no such thing), AccessDenied (gated, private), HubUnreachable."""

    def list_files(self, repo: str, *, revision: str | None, flag: str) -> tuple[str, tuple[str, ...]]:
        """The commit that `revision` (None: the main branch) stands for, and the names of all files in it."""
        ...

    def download(self, repo: str, *, commit: str, names: Sequence[str]) -> Path:
        """A local folder that holds these files of that commit; only what is missing is transferred."""
        ...

    def cached_folder(self, repo: str, *, revision: str | None) -> tuple[str, Path] | None:
        """Commit and folder of what was downloaded before, perhaps in part. Never touches the network."""
        ...


class HuggingFaceHub:
    """The real one. `cache_dir` None means where the client library keeps its cache; `endpoint` None the public Hub."""

    def __init__(self, *, cache_dir: str | None = None, endpoint: str | None = None) -> None:
        self._cache_dir = cache_dir
        self._endpoint = endpoint

    def list_files(self, repo: str, *, revision: str | None, flag: str) -> tuple[str, tuple[str, ...]]:
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            info = HfApi(endpoint=self._endpoint).model_info(repo, revision=revision, timeout=_TIMEOUT_S)
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            _raise_ours(error, repo=repo, revision=revision, flag=flag)
        if info.sha is None or info.siblings is None:
            raise HubUnreachable(f"the Hub's answer about {repo} names no commit or no files; try again later")
        self._remember(repo, revision=revision, commit=info.sha)
        return info.sha, tuple(sorted(sibling.rfilename for sibling in info.siblings))

    def download(self, repo: str, *, commit: str, names: Sequence[str]) -> Path:
        import httpx2
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        cached = self.cached_folder(repo, revision=commit)
        if cached is not None and all((cached[1] / name).is_file() for name in names):
            return cached[1]
        logger.info("fetching %d files of %s at %s from the Hub", len(names), repo, commit[:12])
        try:
            folder = snapshot_download(
                repo,
                revision=commit,
                allow_patterns=list(names),
                cache_dir=self._cache_dir,
                endpoint=self._endpoint,
            )
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            _raise_ours(error, repo=repo, revision=commit, flag="--pretrained_model_name_or_path")
        missing = [name for name in names if not (Path(folder) / name).is_file()]
        if missing:
            raise HubUnreachable(f"the Hub did not deliver {', '.join(missing)} of {repo}; try again later")
        return Path(folder)

    def cached_folder(self, repo: str, *, revision: str | None) -> tuple[str, Path] | None:
        folder = self._cache_of(repo)
        commit = revision or "main"
        if not is_full_commit(commit):
            try:
                commit = (folder / "refs" / commit).read_text(encoding="utf-8").strip()
            except OSError:
                return None  # never looked up on this machine
        snapshot = folder / "snapshots" / commit
        return (commit, snapshot) if snapshot.is_dir() else None

    def _cache_of(self, repo: str) -> Path:
        from huggingface_hub.constants import HF_HUB_CACHE

        cache = Path(self._cache_dir).expanduser() if self._cache_dir is not None else Path(HF_HUB_CACHE)
        return cache / ("models--" + repo.replace("/", "--"))

    def _remember(self, repo: str, *, revision: str | None, commit: str) -> None:
        """Note what a branch stands for, where the client library does: it can't, since it is only told commits."""
        if is_full_commit(revision):
            return
        reference = self._cache_of(repo) / "refs" / (revision or "main")
        try:
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit, encoding="utf-8")
        except OSError as error:
            logger.debug("can't note the commit of %s in %s: %s", repo, reference, error)  # a shared, read-only cache


class OfflineHub(HuggingFaceHub):
    """What was downloaded to this machine before, and nothing else: the network is not touched."""

    def list_files(self, repo: str, *, revision: str | None, flag: str) -> tuple[str, tuple[str, ...]]:  # noqa: ARG002
        raise HubUnreachable(f"{repo} is looked for on this machine alone")

    def download(self, repo: str, *, commit: str, names: Sequence[str]) -> Path:
        cached = self.cached_folder(repo, revision=commit)
        if cached is None or not all((cached[1] / name).is_file() for name in names):
            raise HubUnreachable(f"{repo} isn't complete in this machine's cache")
        return cached[1]


def is_full_commit(revision: str | None) -> bool:
    """Whether this names one commit for ever, so that what was downloaded for it can't be out of date."""
    return revision is not None and _FULL_COMMIT.fullmatch(revision) is not None


def _raise_ours(error: Exception, *, repo: str, revision: str | None, flag: str) -> NoReturn:
    raise as_ours(error, repo=repo, revision=revision, flag=flag) from error


def as_ours(error: Exception, *, repo: str, revision: str | None, flag: str) -> DbrError:
    """What an error of the client library, or of what lies under it, means."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return AccessDenied(
            f"{repo} is gated. Accept its terms at https://huggingface.co/{repo}, then: hf auth login (or set HF_TOKEN)"
        )
    if isinstance(error, RepositoryNotFoundError):
        # The Hub gives the same answer for "no such model" and for "private, and you are not logged in".
        return BadInput(
            f"the Hub has no model {repo} that you may see, and there is no folder of that name",
            where=flag,
            fix="correct the name; for a private model: hf auth login (or set HF_TOKEN)",
        )
    if isinstance(error, RevisionNotFoundError):
        return BadInput(
            f"{repo} has no revision {revision}",
            where="--revision",
            fix="give a branch, tag or commit, or leave it out",
        )
    if status in (401, 403):
        return AccessDenied(f"the Hub refuses access to {repo} ({status}). Try: hf auth login (or set HF_TOKEN)")
    reason = str(error).partition(". ")[0]  # behind it, the library's own advice
    return HubUnreachable(
        f"the Hub can't be asked for {repo} ({reason}), and it isn't complete in this machine's cache; "
        "start the same command again when the network is back"
    )
