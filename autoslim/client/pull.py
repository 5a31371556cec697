"""Downloads a job's files into a folder. The service's listing is not trusted: every path is confined and every byte checked.

Files are collected beside the folder, which is renamed into place when all are complete. An interrupted pull is resumed.
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
# Twice what the service lists at most.
_MAX_FILES = 10_000
# Bytes that stay free on the disk, for everything else that writes to it.
_DISK_RESERVE = 50 * 2**20


class Pull:
    """`budget` selects one model's folder. `progress` is called with the bytes that have arrived and the total."""

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
        self._files = _select(job_id, list(artifacts), budget)
        self._total = sum(artifact.bytes for artifact in self._files.values())
        # The job is part of the name, so that another job's interrupted pull is not resumed.
        self._partial = self.folder.with_name(f".{self.folder.name}.{job_id[-12:]}.partial")

    def prepare(self) -> bool:
        """False when the folder has these files already, so that there is nothing to do.

        Raises:
            PullError: when the folder has other content, or the disk is too small.
        """
        if self.folder.exists():
            if not self.folder.is_dir() or (any(self.folder.iterdir()) and not self._is_complete()):
                raise PullError(f"{self.folder} exists with other content; name another folder, or remove it")
            if any(self.folder.iterdir()):
                return False
        self._partial.mkdir(parents=True, exist_ok=True)
        here = sum(file.stat().st_size for file in self._partial.rglob("*") if file.is_file())
        need = max(self._total - here, 0)
        if (free := shutil.disk_usage(self._partial).free) < need + _DISK_RESERVE:
            raise PullError(f"{self.folder} needs {need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free on its disk")
        return True

    def pending(self) -> Iterable[Download]:
        """The files that are not complete yet."""
        for name, artifact in self._files.items():
            download = Download(self._job_id, artifact, self._partial / name, on_bytes=self._add)
            if download.complete:
                self._add(artifact.bytes)
            else:
                yield download

    def commit(self) -> Path:
        """Checks every SHA256SUMS among the files, and renames the folder into place.

        Raises:
            PullError: naming the file that differs.
        """
        for file in list(self._partial.rglob("*")):
            # An earlier listing had it, this one does not.
            if file.is_file() and file.relative_to(self._partial).as_posix() not in self._files:
                file.unlink()
        for sums in self._partial.rglob(SUMS):
            check_sums(sums)
        # Whatever has been put into the folder meanwhile is not replaced.
        move_folder(self._partial, self.folder, replace=False)
        return self.folder

    def _add(self, size: int) -> None:
        self._done += size
        self._progress(self._done, self._total)

    def _is_complete(self) -> bool:
        return all(Download(self._job_id, artifact, self.folder / name).complete for name, artifact in self._files.items())


def check_sums(sums: Path) -> None:
    """Raises PullError naming the first file that is missing or differs from its line in `sums`."""
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        file = sums.parent / _safe_name(name.removeprefix("*"))
        if not file.is_file():
            raise PullError(f"{sums.parent.name}/{name} is in {SUMS} and does not exist")
        if digest_of(file) != digest:
            raise PullError(f"{sums.parent.name}/{name} differs from its checksum in {SUMS}")


def budget_labels(artifacts: Iterable[Artifact]) -> list[str]:
    """The labels of the budgets that have a model."""
    parts = [PurePosixPath(artifact.name).parts for artifact in artifacts]
    return list(dict.fromkeys(part[1] for part in parts if len(part) > 2 and part[0] == "models"))


def _select(job_id: str, artifacts: list[Artifact], budget: str | None) -> dict[str, Artifact]:
    if len(artifacts) > _MAX_FILES:
        raise PullError(f"job {job_id} lists {len(artifacts)} files; allowed: {_MAX_FILES}")
    found = {_safe_name(artifact.name): artifact for artifact in artifacts}
    if budget is not None:
        start = f"models/{budget}/"
        found = {name.removeprefix(start): artifact for name, artifact in found.items() if name.startswith(start)}
        if not found:
            raise PullError(
                f"job {job_id} has no model for {budget!r}; there are: {', '.join(budget_labels(artifacts)) or 'none'}"
            )
    if not found:
        raise PullError(f"job {job_id} has no files yet")
    folders = {str(parent) for name in found for parent in PurePosixPath(name).parents}
    if both := sorted(folders & set(found)):
        raise PullError(f"job {job_id} lists {both[0]!r} as a file and as a folder; nothing was written")
    return found


def _safe_name(name: str) -> str:
    """`name` if it is a plain relative path.

    Raises:
        PullError: for a path that leads outside the folder, or has two spellings.
    """
    path = PurePosixPath(name)
    plain = name and path.as_posix() == name and "\\" not in name and all(32 <= ord(sign) != 127 for sign in name)
    if not plain or not path.parts or path.is_absolute() or ".." in path.parts or len(name.encode()) > 1000:
        raise PullError(f"the service names a file {name[:200]!r}, which is not inside the folder; nothing was written")
    return name
