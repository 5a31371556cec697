"""`Environment`: with what a search ran, recorded when it begins, because a report may be written on another day."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import PurePath

from autoslim.core.files import write_atomically
from autoslim.core.job import Resources
from autoslim.core.record import Record
from autoslim.core.run_folder import RunFolder
from autoslim.data import PreparedDataset, open_dataset
from autoslim.data.dataset import MANIFEST
from autoslim.data.prepared_folder import prepared_folder
from autoslim.export.artifact import versions

_PACKAGES = ("ray", "optuna", "scikit-learn", "mlflow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment(Record):
    """`dataset` is the folder of the prepared images in the output folder's cache, or the user's, `resources` are those of a trial on its
    cluster."""

    versions: dict[str, str]
    resources: Resources
    dataset: str


def write_environment(output: RunFolder, dataset: PreparedDataset, resources: Resources) -> None:
    """Replaces that of an earlier attempt."""
    named = versions() | {name: metadata.version(name) for name in _PACKAGES}
    environment = Environment(versions=named, resources=resources, dataset=dataset.path.name)
    write_atomically(output.environment, environment.to_json(indent=1) + "\n")


def read_environment(output: RunFolder) -> Environment | None:
    """None for a search of an earlier version, which recorded none."""
    return Environment.from_json(output.environment.read_text()) if output.environment.is_file() else None


def prepared_images(output: RunFolder, environment: Environment | None) -> PreparedDataset | None:
    """The images of the last attempt; None where they are in none of the caches any more."""
    if environment is None:
        return None
    # The name alone: nothing outside the caches is opened, whatever the file says. What comes from an object store is in the user's.
    folders = (cache / PurePath(environment.dataset).name for cache in (output.cache, prepared_folder()))
    return next((open_dataset(folder) for folder in folders if (folder / MANIFEST).is_file()), None)
