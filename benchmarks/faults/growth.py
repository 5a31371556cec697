"""What the soak takes for growth, and the table of its jobs."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

NO_FAULT = "none"
"""In place of the name of a fault."""

PROCESSES = ("api", "supervisor")

MARGINS = {
    "api_bytes": 64 * 2**20,
    "supervisor_bytes": 64 * 2**20,
    "api_files": 10,
    "supervisor_files": 10,
    "processes": 2,
    "root_bytes": 32 * 2**20,
    "database_bytes": 2 * 2**20,
    "ray_bytes": 32 * 2**20,
    "cache_bytes": 32 * 2**20,
}
"""What is measured after each round, and by how much the median of the last fifth may be above that of the second. Memory is what the
system counts for a process (RSS), which varies by what its allocator keeps."""

KEPT = ("mlflow_bytes",)
"""Measured, too, and allowed to grow: MLflow keeps the runs of deleted jobs until it is told to delete them."""

_DRAWN = 3
"""Times. A fault that was drawn as often, and has mostly come after its job's end, was not played; of fewer that may be chance."""


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Of each size the medians of the second and of the last fifth of its jobs; nothing of fewer than ten jobs."""
    found = {}
    for name in (*MARGINS, *KEPT):
        judged = longest_life(rows, name)
        if fifth := len(judged) // 5 if len(judged) >= 10 else 0:
            found[name] = (_median(judged[fifth : 2 * fifth], name), _median(judged[-fifth:], name))
    return found


def longest_life(rows: Sequence[dict[str, Any]], name: str) -> Sequence[dict[str, Any]]:
    """All jobs; for what a process has, those of the process that has served the most in a row."""
    process = name.partition("_")[0]
    if process not in PROCESSES:
        return rows
    return max((list(life) for _, life in itertools.groupby(rows, key=lambda row: row[f"{process}_since"])), key=len, default=[])


def _median(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def problems(rows: Sequence[dict[str, Any]], jobs: int) -> list[str]:
    """What must not be."""
    found = [
        f"job {row['number']} ({row['fault']}): {row['state']}, lost {row['lost']}, doubled {row['doubled']}"
        for row in rows
        if row["state"] != "SUCCEEDED" or row["lost"] or row["doubled"]
    ]
    ids = {row["id"] for row in rows}
    if [row["number"] for row in rows] != list(range(jobs)) or len(ids) < jobs:
        found.append(f"{jobs} jobs were submitted and {len(ids)} are accounted for")
    drawn = Counter(row["fault"] for row in rows if row["fault"] != NO_FAULT)
    missed = Counter(row["fault"] for row in rows if row["missed"])
    found += [
        f"{name} was drawn {count} times and missed {missed[name]} times"
        for name, count in drawn.items()
        if count >= _DRAWN and 2 * missed[name] > count
    ]
    found += [
        f"{name} has grown from {early:.0f} to {late:.0f}; allowed: {MARGINS[name]} more"
        for name, (early, late) in growth(rows).items()
        if name in MARGINS and late - early > MARGINS[name]
    ]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    states = Counter(row["state"] for row in rows)
    happened = Counter(row["fault"] for row in rows if row["fault"] != NO_FAULT and not row["missed"])
    lines = [
        f"{len(rows)} jobs: {', '.join(f'{count} {state}' for state, count in states.items())}; {happened.total()} faults, "
        f"{sum(row['lost'] for row in rows)} lost, {sum(row['doubled'] for row in rows)} doubled, "
        f"{sum(row['attempts'] for row in rows)} attempts, {sum(row['seconds'] for row in rows) / 3600:.1f} h",
        f"seconds of a job without a fault of its own, medians: {_phases(rows)}",
        "",
        "| size | second fifth | last fifth | most |",
        "|---|---|---|---|",
    ]
    grown = growth(rows)
    lines += [
        f"| {name} | {_shown(name, early)} | {_shown(name, late)} | {_shown(name, max(row[name] for row in rows))} |"
        for name, (early, late) in grown.items()
    ]
    lines += [f"| {name} | not judged: too few jobs of one process, or in all | | |" for name in MARGINS if name not in grown]
    return "\n".join([*lines, "", "| fault | times |", "|---|---|", *(f"| {name} | {n} |" for name, n in happened.most_common())])


def _phases(rows: Sequence[dict[str, Any]]) -> str:
    """What a job waits for, by its states."""
    alone = [row for row in rows if row["fault"] == NO_FAULT]
    if not alone:
        return "none"
    states = {state: None for row in alone for state in row["phases"]}
    parts = {state: statistics.median(row["phases"].get(state, 0.0) for row in alone) for state in states}
    return f"{_median(alone, 'seconds'):.0f} ({', '.join(f'{state} {seconds:.0f}' for state, seconds in parts.items())})"


def _shown(name: str, value: float) -> str:
    return f"{value / 1e6:.1f} MB" if name.endswith("_bytes") else f"{value:.0f}"
