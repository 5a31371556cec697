"""All runs of `methods_table.py`: in which order, in how many processes, and for how long.

What is dropped first where the time does not suffice is last: 70 %, where all methods are near each other. Baselines have one seed.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from methods_rows import BASELINES, DENSE
from methods_runs import Run, Settings, estimated_minutes, read, run_in_own_process

BUDGETS = ("70%", "50%", "35%", "25%", "15%")
FIRST, LAST = "50%", "70%"

Begin = Callable[[Run, Path, Path, Settings], None]
"""Carries out a run with the data's folder, that of the output, and the settings."""


def planned(
    names: tuple[str, ...], budgets: tuple[str, ...], seeds: tuple[int, ...], baseline_seeds: tuple[int, ...] | None = None
) -> list[Run]:
    """In the order in which they run: seed by seed, 50 % before the other budgets; then 70 % of all seeds. The dense model has no budget.

    Baselines have the seeds `baseline_seeds`, or all of them.
    """
    order = sorted(budgets, key=lambda budget: (budget != FIRST, budgets.index(budget)))
    passes = [(seed, budget) for seed in seeds for budget in order if budget != LAST]
    passes += [(seed, LAST) for seed in seeds if LAST in budgets]
    runs: list[Run] = []
    for seed, budget in passes:
        for name in names:
            if name in BASELINES and baseline_seeds is not None and seed not in baseline_seeds:
                continue
            run = Run(name=name, budget="100%" if name == DENSE else budget, seed=seed)
            if run not in runs:
                runs.append(run)
    return runs


def carry_out(
    runs: list[Run],
    data: Path,
    output: Path,
    settings: Settings,
    processes: int,
    *,
    ends: float = math.inf,
    begin: Begin = run_in_own_process,
) -> int:
    """Returns how many are left: none begins that is not expected to end before `ends`, in seconds of the monotonic clock.

    A run that fails, or whose process is killed, is recorded as failed and does not stop the others.
    """

    def carry_out_one(run: Run) -> bool:
        if time.monotonic() + 60 * estimated_minutes(run, settings) > ends:
            return False
        begin(run, data, output, settings)
        return True

    left = 0
    with ThreadPoolExecutor(processes) as pool:
        futures = {pool.submit(carry_out_one, run): run for run in runs}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                if not future.result():
                    left += 1
                    continue
                print(f"[{number}/{len(runs)}] {result_line(output, futures[future])}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return left


def result_line(output: Path, run: Run) -> str:
    facts = read(output, run)
    assert facts is not None
    if facts.error:
        return f"{run.folder}: {'cannot be reached' if facts.infeasible else 'failed'}: {facts.error}"
    return f"{run.folder}: test {facts.test:.2%}, {facts.share:.1%} of the FLOPs, {facts.minutes:.1f} minutes"


def same_settings(output: Path, settings: Settings) -> None:
    """Exits where the folder has runs of other settings, which must not be mixed into one table."""
    path = output / "settings.json"
    if not path.is_file():
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(settings.to_json(indent=1))
    elif (found := Settings.from_json(path.read_text())) != settings:
        raise SystemExit(f"{output} holds runs of other settings ({found.to_json()}); name another --output")
