"""Files and folders in object stores: `s3://`, `gs://`, `az://`, `hf://` and `file://`, through the file systems of pyarrow.

A user gives a URI where a path is taken (`is_uri`), which `StorageUri.parse` reads and `uri / name` goes on from. `stat`, `list_files` and
`look` say what lies there, `open_file` reads a file, `download_file` and `fetch` bring a file or a folder onto this machine, `local_file`
brings the file that a user has named, and `upload_file` and `upload_folder` put them there. Endpoints and credentials come from the
environment of each node alone.

Every function raises StorageError for what the user can correct, and UnavailableError for a store that does not answer.
"""

from autoslim.storage.download import FETCHED, download_file, fetch, open_file
from autoslim.storage.listing import Listing, RemoteFile, list_files, look, stat
from autoslim.storage.local import local_file
from autoslim.storage.upload import upload_file, upload_folder
from autoslim.storage.uri import FORMS, StorageUri, is_uri

__all__ = [
    "FETCHED",
    "FORMS",
    "Listing",
    "RemoteFile",
    "StorageUri",
    "download_file",
    "fetch",
    "is_uri",
    "list_files",
    "local_file",
    "look",
    "open_file",
    "stat",
    "upload_file",
    "upload_folder",
]
