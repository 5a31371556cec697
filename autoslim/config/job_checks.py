"""What a field of `JobSpec` may be depends on fields before it: the checks of one field against those."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationInfo

from autoslim.config.dense_models import entries_of
from autoslim.config.issues import short_repr
from autoslim.core.job import SCRATCH

FEATURES = "features"
T = TypeVar("T")


def objective_of_a_trained_model(objective: str, info: ValidationInfo) -> str:
    if objective != FEATURES:
        return objective
    models = entries_of(info.data.get("model", ""))
    if SCRATCH in entries_of(info.data.get("weights", "")):
        raise ValueError("is 'features' with random weights, which have no features to agree with; allowed: trained weights")
    if len(models) > 1:
        raise ValueError(
            f"is 'features' with {len(models)} models, whose features differ; allowed: one model, which the slimmed ones agree with"
        )
    if (teacher := info.data.get("teacher")) is not None:
        raise ValueError(f"is 'features' with the teacher {short_repr(teacher)}; allowed: no teacher but the model itself")
    return objective


def probe_of_features(probe: str | None, info: ValidationInfo) -> str | None:
    if probe is not None and info.data.get("objective", FEATURES) != FEATURES:
        raise ValueError(f"is {short_repr(probe)} with objective 'labels'; allowed with objective 'features' only")
    return probe


def token_labels_of_classes(token_labels: str | None, info: ValidationInfo) -> str | None:
    if token_labels is not None and info.data.get("objective") == FEATURES:
        raise ValueError(
            f"is {short_repr(token_labels)}, but there are no classes that patches could have; allowed with objective 'labels' only"
        )
    return token_labels


def adapt_to_labels(adapt: bool | None, info: ValidationInfo) -> bool | None:
    if adapt is False and info.data.get("token_labels") is not None:
        raise ValueError("is false, but only the training of the dense model reads token_labels; allowed without them only")
    if adapt and info.data.get("objective") == FEATURES:
        raise ValueError("is true, but there are no labels to train the dense model on; allowed with objective 'labels' only")
    return adapt


def class_query_of_a_classifier(class_query: bool, info: ValidationInfo) -> bool:
    if class_query and info.data.get("objective") == FEATURES:
        raise ValueError("is true, but patches are features, which the last block computes; allowed with objective 'labels' only")
    return class_query


def mode_of_a_latency(mode: str | None, info: ValidationInfo) -> str | None:
    if mode is not None and info.data.get("latency", "") is None:
        raise ValueError(f"is {short_repr(mode)}, but no latency is limited; allowed with a latency only")
    return mode


def latency_of_one_model(latency: str | None, info: ValidationInfo) -> str | None:
    models = entries_of(info.data.get("model", ""))
    if latency is not None and len(models) > 1:
        raise ValueError(
            f"is {short_repr(latency)} with {len(models)} models; allowed: a latency with one model, or budgets in FLOPs"
        )
    return latency


def goal_of_one_model(value: T, info: ValidationInfo) -> T:
    models = entries_of(info.data.get("model", ""))
    if value is not None and len(models) > 1:
        raise ValueError(
            f"is {value} with {len(models)} models, of which none is the dense one; allowed: one model, or budgets in FLOPs"
        )
    return value


def min_accuracy_without_drop(least: str | None, info: ValidationInfo) -> str | None:
    drop = info.data.get("max_drop")
    if least is not None and drop is not None:
        raise ValueError(f"is {short_repr(least)} beside max_drop {drop:g}; allowed: one of them")
    return goal_of_one_model(least, info)


LIMITS = ("latency", "params", "max_drop", "min_accuracy")
"""The fields that ask for a model without a budget in FLOPs."""


def at_least_one_limit(flops: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    if not flops and all(info.data.get(name, "") is None for name in LIMITS):
        raise ValueError(f"is needed, unless {', '.join(LIMITS[:-1])} or {LIMITS[-1]} is given")
    if not flops and len(entries_of(info.data.get("model", ""))) > 1:
        raise ValueError("is needed with several models: without a budget in FLOPs they have no limit in common")
    return flops


def cost_with_a_price(most: float | None, info: ValidationInfo) -> float | None:
    if most is not None and not info.data.get("price_per_hour", 1.0):
        raise ValueError(f"is {most:g} without a price; allowed with price_per_hour above 0 only")
    return most


def bound_of_a_latency(bound: str, info: ValidationInfo) -> str:
    if bound == "mean" and info.data.get("latency") is not None:
        raise ValueError("is 'mean', but a latency holds for every image; allowed with a latency: max")
    return bound
