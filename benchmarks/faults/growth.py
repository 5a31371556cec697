"""What the soak takes for growth, and the table of its jobs."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from faults.rows import all_trained

NO_FAULT = "none"
"""In place of the name of a fault."""

PROCESSES = ("api", "supervisor")
"""Those whose memory and files are measured each, besides the sum over all processes of the service."""

_MIB = 2**20

BOUNDS = {
    "api_bytes": 0.2 * _MIB,
    "supervisor_bytes": 0.2 * _MIB,
    "service_bytes": 0.3 * _MIB,
    "api_files": 0.05,
    "supervisor_files": 0.05,
    "service_files": 0.1,
    "processes": 0.02,
    "root_bytes": 0.2 * _MIB,
    "database_bytes": 0.1 * _MIB,
    "ray_bytes": 0.2 * _MIB,
    "cache_bytes": 0.05 * _MIB,
}
"""What is measured after each round, and by how much it may rise with each job.

Files and processes stay exactly the same from round to round: the bounds are one file in twenty jobs, and one process in fifty. Memory is
what the system counts for a process (RSS), which varies by some 1 MB from round to round with what its allocator keeps, and the database
varies as much with its log. Over `_JOBS` jobs in rounds of three a slope is then uncertain by 0.07 MB a job, a third of the bounds of
memory, and over the eighty of a whole soak by 0.01 MB; the database is judged over twice as many. What is summed over all processes varies
by what each of them does. A folder of a job that is left is 4 MB and one of its Ray's 2 to 3 MB, so that the bounds are one in some fifteen
jobs. The cache is filled by the first job and stays the same.
"""

KEPT = ("mlflow_bytes",)
"""Measured, too, and allowed to grow: MLflow keeps the runs of deleted jobs until it is told to delete them."""

_JOBS = 20
_ROUNDS = 6
"""At least as many jobs, and measurements, give a slope."""

_DRAWN = 3
"""Times. A fault that was drawn as often, and has mostly come after its job's end, was not played; of fewer that may be chance."""


@dataclasses.dataclass(frozen=True)
class Growth:
    """Of one size: medians of the first and of the last fifth of what is judged, and how much larger it is with each job."""

    early: float
    late: float
    slope: float


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, Growth]:
    """Of each size that can be judged. Rounds until the retention is full count for nothing, nor does the first fifth of the others."""
    found = {}
    for name in (*BOUNDS, *KEPT):
        life = [row for row in longest_life(rows, name) if row["number"] >= row["settings"]["keep"] + row["settings"]["at_once"]]
        judged = life[len(life) // 5 :]
        # What is measured is the same in all rows of a round.
        points = list({row["round"]: (row["number"], row[name]) for row in judged}.values())
        if len(judged) < _JOBS or len(points) < _ROUNDS:
            continue
        fifth, values = len(points) // 5, [value for _, value in points]
        found[name] = Growth(statistics.median(values[:fifth]), statistics.median(values[-fifth:]), _slope(points))
    return found


def _slope(points: Sequence[tuple[int, float]]) -> float:
    """Theil and Sen's: the median of the slopes between any two points, which a few large values and a single step hardly change."""
    return statistics.median(
        (later - value) / (after - number) for (number, value), (after, later) in itertools.combinations(points, 2)
    )


def unjudged(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The sizes of which there are too few jobs."""
    found = growth(rows)
    return [name for name in BOUNDS if name not in found]


def longest_life(rows: Sequence[dict[str, Any]], name: str) -> Sequence[dict[str, Any]]:
    """All jobs; for what began with a process or with a call, those in a row that have the same beginning, as many as there are."""
    since = f"{name.partition('_')[0]}_since"
    if not rows or since not in rows[0]:
        return rows
    return max((list(life) for _, life in itertools.groupby(rows, key=lambda row: row[since])), key=len)


def _median(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def problems(rows: Sequence[dict[str, Any]], jobs: int, *, complete: bool = True) -> list[str]:
    """What must not be; of a `complete` soak also what could not be judged."""
    found = [
        f"job {row['number']} ({row['fault']}): {row['state']}, lost {row['lost']}, doubled {row['doubled']}"
        for row in rows
        if row["state"] != "SUCCEEDED" or row["lost"] or row["doubled"]
    ]
    found += [
        f"job {row['number']} ({row['fault']}): trials: {row['trials']}, asked for: {row['asked']}"
        for row in rows
        if not all_trained(row)
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
        f"{name} grows by {_shown(name, grown.slope)} a job, from {_shown(name, grown.early)} to {_shown(name, grown.late)}; "
        f"allowed: {_shown(name, BOUNDS[name])} a job"
        for name, grown in growth(rows).items()
        if name in BOUNDS and grown.slope > BOUNDS[name]
    ]
    if complete:
        found += [
            f"{name} was not judged: too few jobs of one process, or after the retention was full" for name in unjudged(rows)
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
        "| size | at first | at last | a job | allowed | most |",
        "|---|---|---|---|---|---|",
    ]
    for name, grown in growth(rows).items():
        allowed = _shown(name, BOUNDS[name]) if name in BOUNDS else "any"
        cells = [_shown(name, size) for size in (grown.early, grown.late, grown.slope)]
        lines.append(f"| {' | '.join([name, *cells, allowed, _shown(name, max(row[name] for row in rows))])} |")
    lines += [f"| {name} | not judged: too few jobs of one process, or in all | | | | |" for name in unjudged(rows)]
    lines += ["", "| fault | times |", "|---|---|", *(f"| {name} | {n} |" for name, n in happened.most_common())]
    return "\n".join([*lines, "", f"Measured: {', '.join(_measured(rows))}"])


def _measured(rows: Sequence[dict[str, Any]]) -> list[str]:
    """When, of what and how."""
    return sorted(
        {f"{row['at']} at {row['commit']} with {' '.join(f'{k}={v}' for k, v in row['settings'].items())}" for row in rows}
    )


def _phases(rows: Sequence[dict[str, Any]]) -> str:
    """What a job waits for, by its states."""
    alone = [row for row in rows if row["fault"] == NO_FAULT]
    if not alone:
        return "none"
    states = {state: None for row in alone for state in row["phases"]}
    parts = {state: statistics.median(row["phases"].get(state, 0.0) for row in alone) for state in states}
    return f"{_median(alone, 'seconds'):.0f} ({', '.join(f'{state} {seconds:.0f}' for state, seconds in parts.items())})"


def _shown(name: str, value: float) -> str:
    return f"{value / 1e6:.2f} MB" if name.endswith("_bytes") else f"{value:.4g}"
