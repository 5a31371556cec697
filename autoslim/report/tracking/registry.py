"""MLflow's model registry: a registered model for all searches of one name, a version for every selected model, an alias for every budget.

Versions are models from code around `model.onnx`: MLflow unpickles nothing, and `mlflow.pyfunc` loads them without autoslim.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from autoslim.core.job import SearchJob
from autoslim.export.artifact import load_config
from autoslim.export.folder import CHECKSUMS
from autoslim.export.onnx_form import FILE
from autoslim.models.weights import file_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "model"
_DIGEST = "autoslim.digest"
_MADE = "autoslim.registered"
"""Tag of the registered models that autoslim has made."""

_DESCRIPTION = "Models of searches by autoslim: an alias for every budget, and the tag `job` says which search a version is of."

# The newest of any numpy and ONNX Runtime that can read the graph will do.
_REQUIREMENTS = ["numpy", "onnxruntime"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VersionCandidate:
    """The complete folder of the model for the budget `label`."""

    label: str
    folder: Path

    @property
    def digest(self) -> str:
        """Of the weights: other measurements make no other model."""
        return file_digest(self.folder / "model.safetensors")[:16]


def find_candidate(folder: Path, label: str) -> VersionCandidate | None:
    """None before the folder is complete, and for a model without an ONNX form."""
    complete = (folder / CHECKSUMS).is_file() and (folder / FILE).is_file()
    return VersionCandidate(label=label, folder=folder) if complete else None


def alias_of(label: str) -> str:
    """`70%` becomes `70pct`, `2.3G` becomes `2-3G`: what MLflow accepts as an alias."""
    return re.sub(r"[^\w-]", "-", label.replace("%", "pct"), flags=re.ASCII)


def register(client: MlflowClient, job: SearchJob, candidate: VersionCandidate, *, run_id: str) -> str:
    """The version that the budget's alias points to; the same folder is registered once, however often this is called.

    Searches of one name share a registered model, whose newest search has the alias of the budget. `JOB-BUDGET` stays with its job.
    """
    name = _registered_name(client, job)
    version = _find(client, name, candidate, run_id) or _create(client, name, job, candidate, run_id)
    alias = alias_of(candidate.label)
    for each in (alias,) if name == job.id else (alias, f"{alias_of(job.id)}-{alias}"):
        client.set_registered_model_alias(name, each, version)
    return version


def _registered_name(client: MlflowClient, job: SearchJob) -> str:
    """The job's name. Where it has none, or where that is a registered model of somebody else's, the id, as in earlier versions."""
    if job.name is None:
        return job.id
    others = [model for model in client.search_registered_models(f"name = '{job.name}'") if _MADE not in model.tags]
    return job.id if others else job.name


def _find(client: MlflowClient, name: str, candidate: VersionCandidate, run_id: str) -> str | None:
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.run_id == run_id and version.tags.get(_DIGEST) == candidate.digest:
            return str(version.version)
    return None


def _create(client: MlflowClient, name: str, job: SearchJob, candidate: VersionCandidate, run_id: str) -> str:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, tags={_MADE: "true"}, description=_DESCRIPTION)
    with tempfile.TemporaryDirectory(prefix="autoslim-model-") as scratch:
        path = Path(scratch) / FOLDER
        _write(path, candidate.folder)
        # A folder of its own, so that no version's files are ever written again.
        place = f"{FOLDER}-{candidate.digest}"
        client.log_artifacts(run_id, str(path), place)
    config = load_config(candidate.folder)
    tags = {
        _DIGEST: candidate.digest,
        "job": job.id,
        "budget": candidate.label,
        "method": config.recipe.method,
        "model": config.architecture.name,
        "flops": str(config.flops.held),
        f"test_{config.score.name}": str(config.score_on("test") or ""),
    }
    source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
    return str(client.create_model_version(name, source, run_id, tags=tags).version)


def _write(path: Path, folder: Path) -> None:
    """MLflow's own folder of a model, on disk; no run and no server is touched."""
    with warnings.catch_warnings():
        # MLflow warns of its own type hints while it is imported, and of ours, which the signature makes up for.
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        import numpy as np
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        config = load_config(folder)
        height, width = config.shape.image_size
        mlflow.pyfunc.save_model(
            path,
            python_model=str(Path(__file__).with_name("served_model.py")),
            # As URLs: MLflow unquotes a path as well.
            artifacts={"onnx": (folder / FILE).absolute().as_uri(), "config": (folder / "config.json").absolute().as_uri()},
            signature=ModelSignature(
                inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, height, width))]),
                outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(config.classes) or config.shape.dim))]),
            ),
            # An image of the mean colour. One of the data's would hand the data over with the model.
            input_example=np.zeros((1, 3, height, width), np.float32),
            pip_requirements=_REQUIREMENTS,
        )
