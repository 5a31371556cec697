"""The tables of `methods_table.py`, from the runs that are finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from holdout_accuracy import Hits, format_difference, paired
from methods_rows import BASELINES, COMPARED, DENSE, RANDOM, pairs_with_rest
from methods_runs import PRUNED_HITS, Facts, Run, read


class Results:
    """Results of the finished runs: hits by seed for each name and budget, `pruned` those straight after pruning, where they are known."""

    def __init__(self, output: Path, runs: list[Run]) -> None:
        self.facts: dict[tuple[str, str], list[Facts]] = {}
        self.hits: dict[tuple[str, str], dict[int, Hits]] = {}
        self.pruned: dict[tuple[str, str], dict[int, Hits]] = {}
        self.failed: list[Facts] = []
        for run in runs:
            facts = read(output, run)
            if facts is None:
                continue
            if facts.error:
                self.failed.append(facts)
                continue
            key = (run.name, run.budget)
            self.facts.setdefault(key, []).append(facts)
            folder = output / "runs" / run.folder
            self.hits.setdefault(key, {})[run.seed] = np.load(folder / "hits.npy")
            if (folder / PRUNED_HITS).is_file():
                self.pruned.setdefault(key, {})[run.seed] = np.load(folder / PRUNED_HITS)

    def key(self, name: str, budget: str) -> tuple[str, str] | None:
        """The key of a run, or None where it is not finished. The dense model is the same for every budget."""
        key = (name, "100%" if name == DENSE else budget)
        return key if key in self.facts else None

    def accuracy(self, key: tuple[str, str]) -> float:
        return 100 * float(np.mean([facts.test for facts in self.facts[key]]))

    def pair(self, key: tuple[str, str], other: tuple[str, str]) -> tuple[list[Hits], list[Hits]] | None:
        """The hits of both, for the seeds that both have."""
        return _pair(self.hits[key], self.hits[other])

    def pruned_pair(self, key: tuple[str, str], other: tuple[str, str]) -> tuple[list[Hits], list[Hits]] | None:
        """The same straight after pruning."""
        return _pair(self.pruned.get(key, {}), self.pruned.get(other, {}))

    def at(self, budget: str, *, ours: bool) -> list[tuple[str, str]]:
        """Keys at this budget, of autoslim's methods or of the baselines; the dense model is neither."""
        return [key for key in self.facts if key[1] == budget and (key[0] not in BASELINES) == ours]

    def best(self, budget: str, *, ours: bool) -> tuple[str, str] | None:
        return max(self.at(budget, ours=ours), key=self.accuracy, default=None)


def _pair(hits: dict[int, Hits], others: dict[int, Hits]) -> tuple[list[Hits], list[Hits]] | None:
    seeds = sorted(hits.keys() & others.keys())
    return ([hits[s] for s in seeds], [others[s] for s in seeds]) if seeds else None


def table(results: Results, names: tuple[str, ...], budgets: tuple[str, ...]) -> str:
    """Markdown: an overview of all budgets, a table and a verdict for each budget, and the failed runs."""
    lines = [_overview(results, names, budgets)]
    for budget in budgets:
        lines += ["", f"**{budget} of the FLOPs**", "", _details(results, names, budget), "", verdict(results, budget)]
        lines += _comparisons(results, budget)
    # The budget decides, not the seed.
    unreachable = {(f.name, f.budget): f.error for f in results.failed if f.infeasible}
    lines += [f"- cannot be reached: {name} at {budget}: {error}" for (name, budget), error in unreachable.items()]
    lines += [f"- failed: {f.name} at {f.budget}, seed {f.seed}: {f.error}" for f in results.failed if not f.infeasible]
    return "\n".join(lines)


def _comparisons(results: Results, budget: str) -> list[str]:
    """A line for each pair of rows with a question of its own, over the seeds that both have."""
    lines = []
    for name, other in (*COMPARED, *pairs_with_rest(name for name, own in results.facts if own == budget)):
        key, against = results.key(name, budget), results.key(other, budget)
        if key is not None and against is not None and (difference := _against(results, key, against)):
            pruned = results.pruned_pair(key, against)
            before = f"; straight after pruning, on validation images: {format_difference(*pruned)}" if pruned else ""
            lines.append(f"- {name} against {other}: {difference}{before}")
    return lines


def _overview(results: Results, names: tuple[str, ...], budgets: tuple[str, ...]) -> str:
    lines = ["| test top-1, %, mean of the seeds | " + " | ".join(budgets) + " |", "|---|" + "---|" * len(budgets)]
    for name in names:
        keys = [results.key(name, budget) for budget in budgets]
        cells = [f"{results.accuracy(key):.2f}" if key else "" for key in keys]
        if name == DENSE and keys[0]:
            cells = [f"{results.accuracy(keys[0]):.2f} at 100 %"] + [""] * (len(budgets) - 1)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _details(results: Results, names: tuple[str, ...], budget: str) -> str:
    lines = [
        "| | FLOPs used | straight after pruning, validation top-1, % (by seed) | test top-1, % (by seed) | vs. random tokens "
        "| vs. the best baseline | vs. dense, finetuned | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    best = results.best(budget, ours=False)
    for name in names:
        key = results.key(name, budget)
        if key is None:
            continue
        facts = results.facts[key]
        facts = sorted(facts, key=lambda f: f.seed)
        seeds = ", ".join(f"{100 * f.test:.2f}" for f in facts)
        pruned = ", ".join(f"{100 * f.pruned:.2f}" for f in facts if f.pruned is not None)
        against = [_against(results, key, other) for other in (results.key(RANDOM, budget), best, results.key(DENSE, budget))]
        minutes = np.mean([f.minutes for f in facts])
        label = f"**{name}**" if key == best else name
        share = np.mean([f.share for f in facts])
        cells = [label, f"{share:.1%}", pruned, f"{results.accuracy(key):.2f} ({seeds})", *against, f"{minutes:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against(results: Results, key: tuple[str, str], other: tuple[str, str] | None) -> str:
    pair = results.pair(key, other) if other is not None and other != key else None
    return format_difference(*pair) if pair else ""


def verdict(results: Results, budget: str) -> str:
    """Which is better at `budget`, as far as the interval of the difference tells them apart."""
    ours, theirs = results.best(budget, ours=True), results.best(budget, ours=False)
    if ours is None or theirs is None or (pair := results.pair(ours, theirs)) is None:
        return f"{budget}: ours and the baselines have no run of the same seed yet."
    sign = {
        1: f"ahead of every baseline, of which {theirs[0]} is the best",
        0: f"level with {theirs[0]}",
        -1: f"behind {theirs[0]}",
    }
    against = ""
    if (random := results.key(RANDOM, budget)) is not None:
        pairs = {key[0]: results.pair(key, random) for key in results.at(budget, ours=True)}
        behind = [name for name, each in pairs.items() if each is not None and _told_apart(*each) <= 0]
        against = f" Not ahead of random tokens: {', '.join(behind)}." if behind else " All of ours are ahead of random tokens."
    return f"{budget}: the best of ours, {ours[0]}, is {sign[_told_apart(*pair)]}: {format_difference(*pair)}.{against}"


def _told_apart(hits: list[Hits], others: list[Hits]) -> int:
    """1 and -1 where the first are better and worse by more than half their interval, else 0."""
    gained, half = paired(hits, others)
    return int(gained > half) - int(gained < -half)
