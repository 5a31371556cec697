"""From an error of a store's client to one that says what was wrong, for whom the client's own words are no help."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from autoslim.core.files import is_disk_full
from autoslim.core.urls import hide_password
from autoslim.errors import AutoslimError, StorageError, UnavailableError
from autoslim.storage.uri import Scheme, StorageUri

SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
"""Environment variables whose values appear in no message; some are read by MLflow's clients of the same stores."""

_CREDENTIALS = {
    Scheme.S3: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; `aws sts get-caller-identity` says who you are",
    Scheme.GOOGLE: "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    Scheme.AZURE: "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or `az login`",
    Scheme.HUGGING_FACE: "HF_TOKEN, or `hf auth login`",
    Scheme.FILE: "the permissions of the folder",
}
"""Where credentials come from, on every node that reads or writes there."""

_ENDPOINTS = {
    Scheme.S3: "AWS_ENDPOINT_URL",
    Scheme.GOOGLE: "CLOUD_STORAGE_EMULATOR_ENDPOINT",
    Scheme.AZURE: "AZURE_STORAGE_ACCOUNT_NAME, or AZURE_STORAGE_SERVICE_ENDPOINT",
    Scheme.HUGGING_FACE: "HF_ENDPOINT",
}

_MISSING = re.compile(
    r"no[ _]?such[ _]?(bucket|key|file)|(container|bucket|resource|repo\w*)[ _]?(was )?not[ _]?found|\b404\b", re.IGNORECASE
)
_DENIED = re.compile(
    r"access[ _]?denied|permission[ _]?denied|forbidden|unauthori[sz]ed|unauthenticated|\b40[13]\b|invalid[ _]?access[ _]?key|"
    r"signature[ _]?does[ _]?not[ _]?match|no credentials|anonymous|authenticat|expired[ _]?token|invalid[ _]?token|credential",
    re.IGNORECASE,
)
_UNREACHED = re.compile(
    r"connect|timed? ?out|resolve|unavailable|slow[ _]?down|internal[ _]?(failure|error)|\b50[0234]\b|name resolution|offline",
    re.IGNORECASE,
)


@contextlib.contextmanager
def explained(uri: StorageUri, doing: str) -> Iterator[None]:
    """Errors of the block as what they mean for `uri`; `doing` is what failed, such as `read`.

    Raises:
        UnavailableError: for a store that does not answer: a later try may succeed.
        StorageError: for everything else.
    """
    try:
        yield
    except AutoslimError:
        raise
    # Clients raise what they like: OSErrors with texts, those of their HTTP library, ValueErrors.
    except Exception as error:
        raise _explain(uri, doing, error) from error


def _explain(uri: StorageUri, doing: str, error: Exception) -> AutoslimError:
    text = without_secrets(" ".join(str(error).split()) or type(error).__name__)[:500]
    failed = f"{uri} cannot be {doing}"
    # What a user has called a file says nothing about the error.
    words = " ".join(text.replace(f"'{uri.key}'", "").replace(f"'{uri.bucket}'", "").replace(uri.path, "").split())
    if is_disk_full(error):
        return StorageError(f"{failed}: the disk is full; free some space and run the same command again")
    if isinstance(error, PermissionError) or _DENIED.search(words):
        return StorageError(f"{failed}: permission denied ({text}); credentials come from {_CREDENTIALS[uri.scheme]}")
    if isinstance(error, FileNotFoundError) or _MISSING.search(words):
        return StorageError(f"{failed}: it does not exist ({text}); check the {uri.holder} and the path")
    if isinstance(error, ConnectionError | TimeoutError) or _UNREACHED.search(f"{type(error).__name__} {words}"):
        endpoint = _ENDPOINTS.get(uri.scheme, "the network")
        return UnavailableError(
            f"{failed}: the store does not answer ({text}); check the network and {endpoint}, and run the same command again"
        )
    return StorageError(f"{failed}: {type(error).__name__}: {text}")


def without_secrets(text: str) -> str:
    """`text` with the values of the environment's credentials, and passwords in URLs, shown as `***`."""
    for name in SECRETS:
        # A SAS token may begin with the question mark that joins it to a URL.
        if value := os.environ.get(name, "").lstrip("?"):
            text = text.replace(value, "***")
    return hide_password(text)
