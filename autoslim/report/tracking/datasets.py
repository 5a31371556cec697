"""The images of a search as MLflow's datasets, one for each split, made from what the store knows of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import PurePath
from typing import Any

from autoslim.core.job import DatasetSpec
from autoslim.core.result import DataFacts
from autoslim.core.urls import hide_password
from autoslim.data.hub import hub_name
from autoslim.data.sources import BUILTIN
from autoslim.store import StoredJob


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedSplit:
    """A split as MLflow logs it: `context` is its name, `source` the JSON of MLflow's dataset source of the type `source_type`.

    The data set has one digest. Of inputs with the same name and digest MLflow logs the first alone, so that `digest` has the split, too.
    """

    name: str
    digest: str
    source_type: str
    source: str
    profile: str
    context: str


def logged_splits(job: StoredJob) -> tuple[LoggedSplit, ...]:
    """Empty until the images are prepared and the dense model is measured."""
    facts = None if job.base is None else job.base.data
    return () if facts is None else tuple(_split(job.job.dataset, facts, split) for split in facts.images)


def _split(spec: DatasetSpec, facts: DataFacts, split: str) -> LoggedSplit:
    source_type, source = _source(spec)
    return LoggedSplit(
        name=_name(spec.source)[:500],
        digest=f"{facts.content_digest}-{split}",
        source_type=source_type,
        source=json.dumps(source),
        profile=json.dumps({"num_rows": facts.images[split], "num_classes": facts.classes}),
        context=split,
    )


def _name(source: str) -> str:
    """`owner/name` of the hub, the name of a built-in set, or of a file or folder without what it ends with."""
    return hub_name(source) or PurePath(hide_password(source)).stem or "images"


def _source(spec: DatasetSpec) -> tuple[str, dict[str, Any]]:
    """The type and the fields of the source, as `mlflow.data.get_source` reads them."""
    if (name := hub_name(spec.source)) is not None:
        return "hugging_face", {"path": name, "config_name": spec.config}
    if spec.source in BUILTIN:
        return "code", {"tags": {"mlflow.source.name": "autoslim", "data": spec.source}}
    return "local", {"uri": hide_password(spec.source)}
