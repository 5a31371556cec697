"""`Mirror`: the output of a search whose machines share no file system. It lies in a store, and each machine has a folder to work in.

A folder such as a checkpoint is one object there, `trials/KEY/checkpoint.tar`, so that it is replaced as a whole. What users read is there
file by file, under its own name. Without a store everything here does nothing: the machines share the output folder itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Collection
from pathlib import Path

from autoslim.core.file_lock import file_lock
from autoslim.core.files import previous_folder
from autoslim.core.user_cache import cache_folder
from autoslim.errors import StorageError
from autoslim.storage.archive import pack_folder, unpack_folder
from autoslim.storage.download import download_file
from autoslim.storage.lease import StorageLease
from autoslim.storage.listing import stat
from autoslim.storage.objects import delete_object, delete_objects, objects_below, read_object, write_object
from autoslim.storage.pieces import delete_pieces
from autoslim.storage.upload import upload_file, upload_folder
from autoslim.storage.uri import StorageUri

RUNS = "runs"
"""Folder of the user's cache: what this machine works with of outputs in stores, a folder for each."""

LEASES = ".leases"
"""Below the URI: who does what only one process may do."""


def work_folder(uri: StorageUri) -> Path:
    """Where this machine keeps what it works with of the output at `uri`."""
    return cache_folder() / RUNS / hashlib.sha256(str(uri).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Mirror:
    """`root` is this machine's folder, `uri` where the output lies; None where `root` is the output folder itself.

    Every method raises StorageError where the store cannot be read or written, and UnavailableError where it does not answer.
    """

    root: Path
    uri: StorageUri | None = None

    @classmethod
    def of(cls, uri: str) -> Mirror:
        """On this machine, of the output at `uri`; '' is none, and paths mean the same on every machine."""
        if not uri:
            return NO_MIRROR
        parsed = StorageUri.parse(uri)
        return cls(work_folder(parsed), parsed)

    @property
    def address(self) -> str:
        """What `of` takes on another machine."""
        return "" if self.uri is None else str(self.uri)

    # Paths as another machine understands them

    def name(self, path: Path) -> str:
        """A path in `root` for another machine; without a store the path itself."""
        return str(path) if self.uri is None else path.relative_to(self.root).as_posix()

    def path(self, name: str) -> Path:
        """The path of a `name` on this machine."""
        return Path(name) if self.uri is None else self.root / name

    def fetched(self, name: str) -> Path:
        """The same, and the folder is there. Raises StorageError where the store does not have it, too."""
        folder = self.path(name)
        if not self.fetch(folder):
            raise StorageError(f"{self.uri} has no {name}; was it deleted while the search runs?")
        return folder

    # Folders that machines exchange

    def keep(self, folder: Path) -> None:
        """Puts the folder into the store, in the place of an older one."""
        if self.uri is not None:
            pack_folder(folder, self._archive(folder))

    def keep_once(self, folder: Path) -> None:
        """The same for a folder that never changes."""
        if self.uri is not None and not self.has(folder):
            self.keep(folder)

    def offload(self, folder: Path) -> None:
        """Puts the folder into the store, and deletes it here."""
        if self.uri is not None:
            self.keep(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def has(self, folder: Path) -> bool:
        """Whether the store has the folder; without a store, whether it is here."""
        return folder.is_dir() if self.uri is None else stat(self._archive(folder)) is not None

    def fetch(self, folder: Path) -> bool:
        """Whether the folder, which never changes, is here: brought from the store where it was not. One process of a machine brings it."""
        if self.uri is None or folder.is_dir():
            return True
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(folder.with_name(f".{folder.name}.fetched")):
            return folder.is_dir() or unpack_folder(self._archive(folder), folder)

    def refresh(self, folder: Path) -> None:
        """Makes the folder as the store has it, whatever is here: another machine may have replaced it, or deleted it."""
        if self.uri is None:
            return
        if not unpack_folder(self._archive(folder), folder):
            shutil.rmtree(folder, ignore_errors=True)
        # Of a process that was killed while it replaced the folder.
        shutil.rmtree(previous_folder(folder), ignore_errors=True)

    def delete(self, folder: Path) -> None:
        """Deletes the folder here and in the store, with everything in it."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.uri is not None:
            delete_pieces(self._archive(folder))
            delete_objects(self._place(folder))

    def _archive(self, folder: Path) -> StorageUri:
        return self._place(folder.with_name(f"{folder.name}.tar"))

    def _place(self, path: Path) -> StorageUri:
        assert self.uri is not None
        return self.uri / path.relative_to(self.root).as_posix()

    # Files

    def keep_file(self, path: Path) -> None:
        """Puts the file into the store, under its own name."""
        self.keep_copy(path, path)

    def keep_copy(self, copy: Path, path: Path) -> None:
        """Puts a file that lies elsewhere into the store, under the name of `path`."""
        if self.uri is not None:
            upload_file(copy, self._place(path))

    def fetch_file(self, path: Path) -> bool:
        """Whether the store has the file, which is here then; without a store, whether it is here."""
        if self.uri is None:
            return path.is_file()
        place = self._place(path)
        if stat(place) is None:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        download_file(place, path)
        return True

    def keep_files(self, folder: Path, beginning: str) -> None:
        """`keep_file` of those in a folder whose names begin so."""
        if self.uri is not None:
            for path in folder.glob(f"{beginning}*"):
                self.keep_file(path)

    def fetch_files(self, folder: Path, beginning: str) -> None:
        """`fetch_file` of those in a folder whose names begin so."""
        names = [] if self.uri is None else [info.base_name for info in objects_below(self._place(folder))]
        for name in names:
            if name.startswith(beginning):
                self.fetch_file(folder / name)

    def publish(self, folder: Path, *, last: str) -> None:
        """Puts the files of a folder into the store for users, under their own names. `last` is there only while all others are."""
        if self.uri is not None:
            place = self._place(folder)
            delete_object(place / last)
            delete_objects(place)
            upload_folder(folder, place, last=last)

    def fetch_published(self, folder: Path, *, last: str) -> bool:
        """Whether the store has the folder as `publish` puts it there; it is here then, as a whole."""
        if self.uri is None or stat(self._place(folder) / last) is None:
            return False
        for info in objects_below(self._place(folder), recursive=True):
            self.fetch_file(folder / info.path.removeprefix(f"{self._place(folder).path}/"))
        return True

    def size(self) -> int:
        """The bytes of everything in the store."""
        return 0 if self.uri is None else sum(info.size for info in objects_below(self.uri, recursive=True))

    # Texts

    def write_text(self, name: str, text: str) -> None:
        if self.uri is not None:
            write_object(self.uri / name, text)

    def read_texts(self, folder: str, *, known: Collection[str]) -> dict[str, str]:
        """The objects in a folder of the store by their names, without those whose names are `known`."""
        if self.uri is None:
            return {}
        names = {info.base_name for info in objects_below(self.uri / folder)} - set(known)
        found = {name: read_object(self.uri / folder / name) for name in sorted(names)}
        return {name: content.decode() for name, content in found.items() if content is not None}

    # Work that one process does

    def lease(self, name: str) -> StorageLease:
        """On the work of this name, for all machines."""
        assert self.uri is not None
        return StorageLease(self.uri / LEASES / name)


NO_MIRROR = Mirror(Path("/"))
"""Of a search whose machines share its output folder."""
