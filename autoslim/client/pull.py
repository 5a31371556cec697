"""A job's files into a folder: what the service lists is data, so that every path is confined and every byte checked.

Everything is gathered beside the folder and moved into place at once, when it is complete. What an interrupted pull has gathered is gone
on with.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from autoslim.client.download import Download, digest_of
from autoslim.client.errors import PullError
from autoslim.client.replies import Artifact
from autoslim.core.files import move_folder

SUMS = "SHA256SUMS"
_MOST_FILES = 10_000
_SPARE = 50 * 2**20
"""Bytes that stay free on the disk."""


class Pull:
    """`budget` takes one model's folder instead of everything. `progress` is told the bytes that have come, of how many."""

    def __init__(
        self,
        job_id: str,
        artifacts: Iterable[Artifact],
        folder: Path,
        *,
        budget: str | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.folder = folder.absolute()
        self._job_id, self._progress, self._done = job_id, progress, 0
        self._files = _chosen(job_id, list(artifacts), budget)
        self._total = sum(artifact.bytes for artifact in self._files.values())
        # The job is part of the name, so that what was gathered of another one is not gone on with.
        self._partial = self.folder.with_name(f".{self.folder.name}.{job_id[-12:]}.partial")

    def begin(self) -> bool:
        """Whether anything is to be done: False when the folder holds these very files.

        Raises:
            PullError: when it holds something else, or the disk is too full.
        """
        if self.folder.exists():
            if not self.folder.is_dir() or (any(self.folder.iterdir()) and not self._is_there()):
                raise PullError(f"{self.folder} exists and holds something else; name another folder, or remove it")
            if any(self.folder.iterdir()):
                return False
        self._partial.mkdir(parents=True, exist_ok=True)
        here = sum(file.stat().st_size for file in self._partial.rglob("*") if file.is_file())
        need = max(self._total - here, 0)
        if (free := shutil.disk_usage(self._partial).free) < need + _SPARE:
            raise PullError(f"{self.folder} needs {need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free on its disk")
        return True

    def downloads(self) -> Iterable[Download]:
        """Those that are not complete yet."""
        for name, artifact in self._files.items():
            download = Download(self._job_id, artifact, self._partial / name, grown=self._grow)
            if download.complete:
                self._grow(artifact.bytes)
            else:
                yield download

    def settle(self) -> Path:
        """Checks every SHA256SUMS that came along, and moves the folder into place."""
        for file in list(self._partial.rglob("*")):
            # What an earlier listing had and this one has not.
            if file.is_file() and file.relative_to(self._partial).as_posix() not in self._files:
                file.unlink()
        for sums in self._partial.rglob(SUMS):
            check_sums(sums)
        # Whatever has been put into the folder meanwhile is not replaced.
        move_folder(self._partial, self.folder, replace=False)
        return self.folder

    def _grow(self, size: int) -> None:
        self._done += size
        self._progress(self._done, self._total)

    def _is_there(self) -> bool:
        return all(Download(self._job_id, artifact, self.folder / name).complete for name, artifact in self._files.items())


def check_sums(sums: Path) -> None:
    """Raises PullError naming the first file that is not the one that `sums` was made of."""
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        file = sums.parent / _confined(name.removeprefix("*"))
        if not file.is_file():
            raise PullError(f"{sums.parent.name}/{name} stands in {SUMS} and is not there")
        if digest_of(file) != digest:
            raise PullError(f"{sums.parent.name}/{name} is not what {SUMS} says")


def labels(artifacts: Iterable[Artifact]) -> list[str]:
    """The budgets that have a model."""
    parts = [PurePosixPath(artifact.name).parts for artifact in artifacts]
    return list(dict.fromkeys(part[1] for part in parts if len(part) > 2 and part[0] == "models"))


def _chosen(job_id: str, artifacts: list[Artifact], budget: str | None) -> dict[str, Artifact]:
    if len(artifacts) > _MOST_FILES:
        raise PullError(f"job {job_id} lists {len(artifacts)} files; allowed: {_MOST_FILES}")
    found = {_confined(artifact.name): artifact for artifact in artifacts}
    if budget is not None:
        start = f"models/{budget}/"
        found = {name.removeprefix(start): artifact for name, artifact in found.items() if name.startswith(start)}
        if not found:
            raise PullError(f"job {job_id} has no model for {budget!r}; there are: {', '.join(labels(artifacts)) or 'none'}")
    if not found:
        raise PullError(f"job {job_id} has no files yet")
    folders = {str(parent) for name in found for parent in PurePosixPath(name).parents}
    if both := sorted(folders & set(found)):
        raise PullError(f"job {job_id} lists {both[0]!r} as a file and as a folder; nothing was written")
    return found


def _confined(name: str) -> str:
    """`name` if it is a plain relative path.

    Raises:
        PullError: for what would lie outside the folder, or could not be told from another name.
    """
    path = PurePosixPath(name)
    plain = name and path.as_posix() == name and "\\" not in name and all(32 <= ord(sign) != 127 for sign in name)
    if not plain or not path.parts or path.is_absolute() or ".." in path.parts or len(name.encode()) > 1000:
        raise PullError(f"the service names a file {name[:200]!r}, which would not lie inside the folder; nothing was written")
    return name
