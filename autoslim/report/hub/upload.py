"""`push`: a finished model's folder becomes a repository of the Hugging Face hub.

The address (`HF_ENDPOINT`) and the token (`HF_TOKEN`, or the file of `hf auth login`) are huggingface_hub's to find.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.errors import HTTPError as ConnectionFailure  # type: ignore[attr-defined]

from autoslim.core.causes import cause_chain
from autoslim.core.record import Record
from autoslim.errors import AutoslimError, RequestError, UnavailableError, first_line
from autoslim.report.hub.staged import stage

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

_REASONS = {
    401: "refuses the token; log in with `hf auth login`, or set HF_TOKEN to one that is valid",
    403: "does not let this token write to {repo}; use a token with write access, or another --repo",
    404: "has no {repo} that this token may see; check --repo and --revision",
    409: "reports a conflict with {repo}; wait for other commits to end, and repeat the command",
    413: "does not take files as large as these in {repo}",
}
"""What the next step is, by the status of the hub's answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pushed(Record):
    """`license` is the one in the metadata, `timm_loads` whether timm alone reads the repository, `commit` the hub's id of the commit."""

    repo: str
    url: str
    commit: str
    license: str
    timm_loads: bool
    files: tuple[str, ...]


def push(folder: Path, repo: str, *, private: bool, revision: str | None, license: str | None) -> Pushed:
    """Pushes the finished model in `folder` to `repo` (owner/name), which is made where it does not exist.

    Raises:
        WeightsError: `folder` holds no finished model.
        RequestError: the hub refuses the request; or `private` is asked for, and the repository is public.
        UnavailableError: the hub cannot be reached, or refuses the token.
    """
    if not _REPO.fullmatch(repo):
        raise RequestError(f"--repo is {repo!r}; allowed: OWNER/NAME")
    with tempfile.TemporaryDirectory(prefix="autoslim-push-") as scratch:
        staged = stage(folder, Path(scratch), repo=repo, revision=revision, license=license)
        if get_token() is None:
            raise UnavailableError("no token of the hub is found; log in with `hf auth login`, or set HF_TOKEN")
        api = HfApi()
        try:
            commit = _upload(api, repo, staged.folder, private=private, revision=revision, message=f"Add {folder.name}")
        except AutoslimError:
            raise
        except (ConnectionFailure, OSError, ValueError, RuntimeError) as error:
            raise _told(error, repo, api.endpoint) from error
        return Pushed(
            repo=repo,
            url=f"{api.endpoint}/{repo}",
            commit=commit,
            license=staged.license,
            timm_loads=staged.timm_loads,
            files=staged.files,
        )


def _upload(api: HfApi, repo: str, folder: Path, *, private: bool, revision: str | None, message: str) -> str:
    # Without a word of it the owner's own default counts.
    api.create_repo(repo, private=True if private else None, exist_ok=True)
    if private and not api.repo_info(repo).private:
        raise RequestError(f"--private, but {repo} exists and is public; make it private on the hub, or give another --repo")
    if revision is not None:
        api.create_branch(repo, branch=revision, exist_ok=True)
    return str(api.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=message).oid)


def _told(error: Exception, repo: str, endpoint: str) -> AutoslimError:
    """One sentence with the next step."""
    # An upload's own error is the cause of what its thread raises.
    seen = next((link for link in cause_chain(error) if isinstance(link, HfHubHTTPError)), None)
    if seen is None:
        if isinstance(error, ValueError):
            return RequestError(f"the hub at {endpoint} does not take the model: {first_line(error)}")
        return UnavailableError(
            f"the hub at {endpoint} cannot be reached ({first_line(error)}); check the network and HF_ENDPOINT"
        )
    status = seen.response.status_code
    if status in _REASONS:
        kind: type[AutoslimError] = UnavailableError if status == 401 else RequestError
        return kind(f"the hub at {endpoint} {_REASONS[status].format(repo=repo)}")
    said = seen.server_message or first_line(seen)
    if status == 429 or status >= 500:
        return UnavailableError(f"the hub at {endpoint} answers {status} ({said}); repeat the command later")
    return RequestError(f"the hub at {endpoint} refuses {repo} with {status}: {said}")
