"""A look at a model on the Hub without fetching it: its names, its configurations, and whether we may have the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dreambooth_resume.models.hub import HubUnreachable, HuggingFaceHub, as_ours

_PATIENCE_SECONDS = 8.0


class LookingHub(HuggingFaceHub):
    """Fetches configurations, a few kB, into `folder`, and makes empty files of the right size in place of the rest.

    What `resolve_source` and a family's `check` say of the model is then what they say of a downloaded one. Nothing
    goes to the client library's cache, and `folder` is the caller's to remove.
    """

    def __init__(self, folder: Path, *, endpoint: str | None = None) -> None:
        super().__init__(endpoint=endpoint)
        self._folder = folder
        self._looked_at = endpoint
        self._sizes: dict[tuple[str, str], int] = {}

    def list_files(self, repo: str, *, revision: str | None, flag: str) -> tuple[str, tuple[str, ...]]:
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            info = HfApi(endpoint=self._looked_at).model_info(
                repo, revision=revision, timeout=_PATIENCE_SECONDS, files_metadata=True
            )
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            raise as_ours(error, repo=repo, revision=revision, flag=flag) from error
        if info.sha is None or info.siblings is None:
            raise HubUnreachable(f"the Hub's answer about {repo} names no commit or no files; try again later")
        self._sizes |= {(repo, one.rfilename): int(one.size or 0) for one in info.siblings}
        return info.sha, tuple(sorted(one.rfilename for one in info.siblings))

    def download(self, repo: str, *, commit: str, names: Sequence[str]) -> Path:
        folder = self._folder / repo.replace("/", "--")
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith("config.json") and name != "model_index.json":
                with path.open("wb") as file:
                    file.truncate(self._sizes.get((repo, name), 0))
            elif not path.is_file():
                path.write_bytes(self._read(repo, name, commit=commit))
        return folder

    def _read(self, repo: str, name: str, *, commit: str) -> bytes:
        """Asked once: the client library would ask again for half a minute."""
        import httpx2
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils._headers import build_hf_headers
        from huggingface_hub.utils._http import get_session, hf_raise_for_status

        url = f"{self._looked_at or constants.ENDPOINT}/{repo}/resolve/{commit}/{name}"
        try:
            answer = get_session().get(
                url, headers=build_hf_headers(), timeout=_PATIENCE_SECONDS, follow_redirects=True
            )
            hf_raise_for_status(answer)
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            raise as_ours(error, repo=repo, revision=commit, flag="--pretrained_model_name_or_path") from error
        return bytes(answer.content)

    def cached_folder(self, repo: str, *, revision: str | None) -> tuple[str, Path] | None:  # noqa: ARG002
        return None
