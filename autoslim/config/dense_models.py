"""The dense models of a spec: how the names, the weights and the teacher that a user writes become `ModelSpec`s, and back.

With several models, arguments and the image size hold for all of them. So do the weights `pretrained` and `scratch`; otherwise there is
one entry for each model, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo

from autoslim.config.issues import short_repr
from autoslim.config.job_field import JobField
from autoslim.config.value_types import Text, without_credentials
from autoslim.core.job import PRETRAINED, SCRATCH, WEIGHT_FILES, ModelSpec, SearchJob
from autoslim.storage import is_uri

MOST_MODELS = 8
"""Each is adapted to the data before the first trial, and each needs trials of its own."""

_OF_TIMM = {"local-dir": "", "hf-hub": "hf://", "hf_hub": "hf://"}
"""The sources that `timm.create_model` takes in front of a name, and what they are here."""

_TIMM_SCHEME = re.compile(rf"^({'|'.join(_OF_TIMM)}):(?!//)")

Entries = str | tuple[str, ...]


def entries_of(value: Entries) -> tuple[str, ...]:
    """One text, or several, as several."""
    return (value,) if isinstance(value, str) else value


def _shortest(value: Entries) -> Entries:
    """A list of one text is that text."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _check_names(names: Entries) -> Entries:
    for entry in entries_of(names):
        without_credentials(entry)
    return names


def without_timm_scheme(name: str) -> str:
    """What timm calls `local-dir:PATH` is the path here, and its `hf-hub:OWNER/NAME` the hub's URI."""
    return _TIMM_SCHEME.sub(lambda scheme: _OF_TIMM[scheme[1]], name, count=1)


def _without_timm_schemes(names: Entries) -> Entries:
    return _shortest(tuple(map(without_timm_scheme, entries_of(names))))


def _check_weights(weights: Entries, info: ValidationInfo) -> Entries:
    models, given = entries_of(info.data.get("model", "")), entries_of(_check_names(weights))
    if len(given) not in (1, len(models)):
        raise ValueError(
            f"has {len(given)} entries for {_count(models)}; allowed: one for all, or one for each model, in the order of the models"
        )
    if len(given) < len(models) and given[0] not in (PRETRAINED, SCRATCH):
        raise ValueError(
            f"is {short_repr(given[0])} for {len(models)} models; allowed for all of them: {PRETRAINED}, {SCRATCH}; "
            "else one for each model, in the order of the models"
        )
    return weights


def _count(models: tuple[str, ...]) -> str:
    return "one model" if len(models) == 1 else f"{len(models)} models"


_OneOrMore = Annotated[
    Text | Annotated[tuple[Text, ...], Field(strict=False, min_length=1, max_length=MOST_MODELS)], AfterValidator(_shortest)
]
Models = Annotated[_OneOrMore, AfterValidator(_check_names), AfterValidator(_without_timm_schemes)]
Weights = Annotated[_OneOrMore, AfterValidator(_check_weights)]


def model_specs(spec: Any) -> Iterator[ModelSpec]:
    """The dense models that a `JobSpec` asks for, the first one first."""
    names, weights, first = entries_of(spec.model), entries_of(spec.weights), spec.model_spec
    for name, own in zip(names, weights * len(names) if len(weights) == 1 else weights, strict=True):
        yield first.replace(name=name, weights=_absolute(own))


def _absolute(weights: str) -> str:
    return weights if weights in (PRETRAINED, SCRATCH) or is_uri(weights) else str(Path(weights).absolute())


def _teacher(text: str | None, spec: Any) -> ModelSpec | None:
    if text is None:
        return None
    text = without_timm_scheme(text)
    starts = {start.name: start for start in reversed(list(model_specs(spec)))}
    if text in starts:
        return starts[text]
    if text.endswith(WEIGHT_FILES):
        first: ModelSpec = spec.model_spec
        return first.replace(weights=_absolute(text))
    return ModelSpec(name=text, image_size=spec.model_spec.image_size)


def _read_names(_: Any, job: SearchJob) -> Entries:
    return _shortest(tuple(start.name for start in job.models))


def _read_weights(_: Any, job: SearchJob) -> Entries:
    weights = tuple(start.weights for start in job.models)
    return weights[0] if set(weights) in ({PRETRAINED}, {SCRATCH}) else _shortest(weights)


def _read_teacher(teacher: ModelSpec | None, job: SearchJob) -> str | None:
    if teacher is None:
        return None
    is_file = teacher not in job.models and teacher.weights.endswith(WEIGHT_FILES)
    return teacher.weights if is_file else teacher.name


NAME = JobField("model.name", write=lambda names, _: entries_of(names)[0], read=_read_names)
WEIGHTS = JobField("model.weights", write=lambda weights, _: _absolute(entries_of(weights)[0]), read=_read_weights)
MORE = JobField("more_models", write=lambda _, spec: tuple(model_specs(spec))[1:])
"""The other models depend on all settings that the first one depends on."""
TEACHER = JobField("teacher", write=_teacher, read=_read_teacher)
