"""Where MLflow keeps what it is told of a job: its database, and the files of its runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from autoslim.core.urls import sqlite_file, sqlite_url
from autoslim.storage import StorageUri
from autoslim.storage.uri import Scheme


def default_tracking_uri(output: str | os.PathLike[str]) -> str:
    """MLflow's database of a job whose `tracking_uri` is None."""
    url = sqlite_url(Path(output) / "mlflow.db")
    # Of a URL that begins with `sqlite:///`, MLflow makes the folder itself, without unquoting its name.
    return url.replace("sqlite:", "sqlite+pysqlite:", 1) if "%" in url else url


def artifacts_beside(uri: str, output: str, *, output_uri: str | None = None) -> str | None:
    """Without a server the client decides where files go, and MLflow's default is the current directory. With an output in a store they go
    there: other machines do not see the folder `output`."""
    if re.match(r"https?:|databricks|file:|uc:", uri):
        return None
    database = sqlite_file(uri)
    if database is None and output_uri is not None:
        return _as_mlflow_writes(StorageUri.parse(output_uri) / "mlartifacts")
    folder = Path(output).absolute() if database is None else database.parent
    return (folder / "mlartifacts").as_uri()


def _as_mlflow_writes(place: StorageUri) -> str:
    """MLflow has its own clients (boto3, google-cloud-storage, azure-storage-blob), and for Azure a form with the account in it."""
    if place.scheme is not Scheme.AZURE:
        return str(place)
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_ACCOUNT")
    return f"wasbs://{place.bucket}@{account}.blob.core.windows.net/{place.key}"
