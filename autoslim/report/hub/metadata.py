"""The YAML in front of a model card, as the Hugging Face hub reads it (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

from typing import Any

import timm
import yaml

from autoslim.data.hub import hub_name
from autoslim.export.artifact import SlimConfig

UNKNOWN_LICENSE = "unknown"
"""The hub's own word for it."""


def front_matter(card: str, metadata: dict[str, Any]) -> str:
    """The card with its metadata in front."""
    text = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n\n{card}"


def card_metadata(config: SlimConfig, *, license: str, timm_loads: bool) -> dict[str, Any]:
    """`timm_loads` says whether timm alone reads the repository."""
    task = "image-classification" if config.classes else "image-feature-extraction"
    weights = base_weights(config)
    base = "" if weights is None else weights.hf_hub_id or ""
    methods = [step.method.replace("_", "-") for step in config.recipe.steps]
    data = _hub_data(config)
    return {
        "license": license,
        "library_name": "timm" if timm_loads else "autoslim",
        "pipeline_tag": task,
        "tags": list(dict.fromkeys(["autoslim", "vision-transformer", "model-compression", *methods])),
        **({"datasets": [data]} if data else {}),
        **({"base_model": base} if base else {}),
        "metrics": [_metric(config)],
        "model-index": [{"name": f"{config.architecture.name}-{config.flops.budget_label}", "results": _results(config, task)}],
    }


def base_weights(config: SlimConfig) -> Any:
    """timm's record of the pretrained weights that the model began with; None where it began with others, or none."""
    spec = None if config.made_from is None else config.made_from.model
    if spec is None or spec.weights != "pretrained" or "/" in spec.name or not timm.is_model(spec.name):
        return None
    return timm.get_pretrained_cfg(spec.name)


def license_of(config: SlimConfig) -> str:
    """The license that timm states for the pretrained weights."""
    weights = base_weights(config)
    return (None if weights is None else weights.license) or UNKNOWN_LICENSE


def _results(config: SlimConfig, task: str) -> list[dict[str, Any]]:
    score = config.score_on("test")
    name = _data_name(config)
    measured = [{"type": "flops", "value": config.flops.held, "name": "multiply-accumulates per image"}]
    if score is not None:
        title = "top-1" if config.classes else "agreement with the dense model's features"
        measured.insert(0, {"type": _metric(config), "value": round(score, 6), "name": title})
    return [
        {
            "task": {"type": task},
            "dataset": {"name": name, "type": _hub_data(config) or name, "split": "test"},
            "metrics": [*measured, {"type": "parameters", "value": config.params, "name": "parameters"}],
        }
    ]


def _metric(config: SlimConfig) -> str:
    return "accuracy" if config.classes else "cosine_similarity"


def _hub_data(config: SlimConfig) -> str:
    """The data set's name on the hub; empty for any other, whose name there would be somebody else's."""
    source = "" if config.made_from is None else config.made_from.dataset.source
    return hub_name(source) or ""


def _data_name(config: SlimConfig) -> str:
    """As the configuration has it, which is without a path by now."""
    source = "" if config.made_from is None else config.made_from.dataset.source
    return hub_name(source) or source or "images"
