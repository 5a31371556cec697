"""`autoslim reproduce`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from autoslim.core.budget import format_flops
from autoslim.core.score import ACCURACY, Score
from autoslim.errors import DifferenceError
from autoslim.progress.display import LineDisplay
from autoslim.slimming.reproduce import Reproduced, reproduce
from workers.search.signals import GracefulShutdown


def show_reproduction(original: Path, output: Path, *, data: str | None, model: str | None, as_json: bool) -> None:
    """Raises DifferenceError after the report, where the weights are not the same to the bit."""
    from autoslim.export.artifact import load_config

    try:
        with GracefulShutdown():
            found = reproduce(original.absolute(), output.absolute(), data=data, model=model, display=LineDisplay())
    except KeyboardInterrupt:
        sys.stderr.write("stopped; finished epochs are kept. Repeat the command to continue\n")
        raise typer.Exit(130) from None
    sys.stdout.write((found.to_json(indent=1) if as_json else render(found, load_config(original).score)) + "\n")
    if not found.same:
        raise DifferenceError(f"{found.folder} is not the same as {found.original} to the bit; the report says by how much")


def render(found: Reproduced, score: Score = ACCURACY) -> str:
    new, old = score.text(found.score, 2), score.text(found.original_score, 2)
    lines = [
        "weights    the same to the bit" if found.same else f"weights    not the same: {_distance(found)}",
        "dense      the same to the bit" if found.dense_same else "dense      other weights than the original was slimmed from",
        f"FLOPs      {format_flops(found.flops)}, the original {format_flops(found.original_flops)}",
        f"test       {score.title} {new}, the original {old}, on {found.images:,} images",
    ]
    if found.difference is not None and not found.same:
        within = found.difference.low <= 0 <= found.difference.high
        apart = ": these images do not tell the models apart" if within else ""
        lines.append(f"difference {found.difference.points()} points, paired at 95 %{apart}")
    lines += [f"version    {name} {versions}" for name, versions in found.versions.items()]
    return "\n".join([*lines, f"files      {found.folder}"])


def _distance(found: Reproduced) -> str:
    if found.largest_difference is None:
        return "the models have other shapes"
    digests = f"SHA-256 {found.weights_digest[:12]}, the original's {found.original_digest[:12]}"
    return f"the largest difference of a weight is {found.largest_difference:.2g} ({digests})"
