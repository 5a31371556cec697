"""The arguments of `timm.create_model` that a tenant may set, with bounds: those of a plain ViT, none that names code or a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autoslim.config.issues import ValidationIssue, short_repr, unknown

Rule = tuple[Callable[[Any], bool], str]
"""A test of a value, and the allowed values as text."""


def _integer(low: int, high: int) -> Rule:
    return lambda value: _is_integer(value) and low <= value <= high, f"{low} to {high}"


def _number(low: float, high: float) -> Rule:
    def in_range(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high

    return in_range, f"{low:g} to {high:g}"


def _one_of(*choices: Any) -> Rule:
    def is_choice(value: Any) -> bool:
        return any(value == choice and type(value) is type(choice) for choice in choices)

    return is_choice, ", ".join("null" if choice is None else str(choice).lower() for choice in choices)


def _patch(value: Any) -> bool:
    sides = value if isinstance(value, list) else [value]
    return len(sides) in (1, 2) and all(_is_integer(side) and 1 <= side <= 64 for side in sides)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_FLAG, _SHARE = _one_of(True, False), _number(0, 1)
RULES: dict[str, Rule] = {
    "patch_size": (_patch, "1 to 64, or two of them"),
    "embed_dim": _integer(8, 4096),
    "depth": _integer(1, 64),
    "num_heads": _integer(1, 64),
    "mlp_ratio": _number(0.125, 16),
    "reg_tokens": _integer(0, 64),
    "init_values": _number(0, 1),
    "qkv_bias": _FLAG,
    "proj_bias": _FLAG,
    "qk_norm": _FLAG,
    "class_token": _FLAG,
    "no_embed_class": _FLAG,
    "pre_norm": _FLAG,
    "final_norm": _FLAG,
    "fc_norm": _one_of(True, False, None),
    "global_pool": _one_of("token", "avg", "max", "avgmax", "map"),
    "act_layer": _one_of("gelu", "gelu_tanh", "quick_gelu", "relu", "silu"),
    "drop_rate": _SHARE,
    "pos_drop_rate": _SHARE,
    "patch_drop_rate": _SHARE,
    "proj_drop_rate": _SHARE,
    "attn_drop_rate": _SHARE,
    "drop_path_rate": _SHARE,
}


def model_argument_issues(arguments: dict[str, Any]) -> list[ValidationIssue]:
    issues = []
    for name, value in arguments.items():
        if name not in RULES:
            issues.append(ValidationIssue(place=("model_args", name), problem=unknown(name, RULES)))
        elif not RULES[name][0](value):
            issues.append(
                ValidationIssue(place=("model_args", name), problem=f"is {short_repr(value)}; allowed: {RULES[name][1]}")
            )
    return issues
