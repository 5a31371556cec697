"""The table of `benchmarks/methods_table.py`: which runs it needs, in which order, and what it says of them."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import methods_table
import numpy as np
import pytest
from helpers.tiny import make_dense, share_of_dense
from methods_archive import read_archive, write_archive
from methods_report import Results, table
from methods_rows import CHAINS, COMPARED, OURS, RESTS, ROWS, VARIANTS, unknown_row
from methods_runs import PRUNED_HITS, TRAINING, Facts, Run, Settings, estimated_minutes, is_done, make_recipe
from methods_schedule import BUDGETS, carry_out, planned, same_settings

from autoslim.core.plan import Plan
from autoslim.methods import METHODS
from autoslim.methods.chain import evaluate_chain
from autoslim.search import load_space

DOCUMENTS = Path(__file__).parents[2] / "docs"
SETTINGS = Settings(images=10_000, epochs=3.0, training=TRAINING)


def write(
    output: Path, run: Run, test: float = 0.0, *, pruned: float | None = None, error: str = "", infeasible: bool = False
) -> None:
    folder = output / "runs" / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    outcome: dict[str, Any] = {"share": 0.5, "pruned": pruned, "test": test, "minutes": 2.0}
    facts = Facts(name=run.name, budget=run.budget, seed=run.seed, error=error, infeasible=infeasible, **outcome)
    (folder / "facts.json").write_text(facts.to_json())
    if not error:
        np.save(folder / "hits.npy", np.arange(1000) < round(1000 * test))
    if pruned is not None:
        np.save(folder / PRUNED_HITS, np.arange(1000) < round(1000 * pruned))


# The rows.


def test_every_method_the_chains_of_the_default_space_and_the_controls_are_rows():
    assert set(METHODS) == set(OURS) <= set(ROWS)
    assert set(CHAINS) == {label for label in load_space("default").units if "+" in label} <= set(ROWS)
    assert {"random_places", "tome", "dense", "random_tokens", "smaller_image"} <= set(ROWS)
    assert {row for pair in COMPARED for row in pair} <= set(ROWS)
    assert unknown_row((*ROWS, *VARIANTS, "vit_slim_refit+merge")) is None
    assert unknown_row(("tome", "width+nothing")) == "width+nothing"


def test_a_rest_stands_between_two_methods():
    assert unknown_row(tuple(f"{row}+{rest}+merge_fixed" for row in ("width", "vit_slim_refit") for rest in RESTS)) is None
    for row in ("rest", "width+rest", "rest+width+merge", "width+rest+rest", "width+rest+nothing"):
        assert unknown_row((row,)) == row


@pytest.mark.parametrize("rest", RESTS)
def test_a_chain_with_a_rest_differs_from_the_one_without_it_by_the_rest_alone(rest: str):
    context: Any = SimpleNamespace(dense=make_dense("vit"))
    at_once, rested = (
        make_recipe(Run(name=name, budget="50%", seed=1), context, SETTINGS) for name in ("width+merge", f"width+{rest}+merge")
    )
    assert at_once.training == TRAINING.replace(epochs=3.0)
    assert rested == at_once.replace(training=at_once.training.replace(rest_share=RESTS[rest]))
    assert rested.method == "width+merge"
    shape = context.dense.shape
    flops = evaluate_chain(METHODS, shape, Plan.dense(shape), rested.steps).flops
    assert 0.9 * rested.budget <= flops <= rested.budget == share_of_dense(shape, 0.5)


@pytest.mark.parametrize("row", VARIANTS)
def test_a_variant_is_no_default(row: str):
    name, knobs = VARIANTS[row]
    if name in METHODS:
        shape = make_dense("vit").shape
        defaults = METHODS[name].repair(shape, {})
        assert any(METHODS[name].repair(shape, knobs).get(knob) != defaults.get(knob) for knob in knobs)


def test_the_documents_have_a_command_for_every_variant_and_name_only_rows_that_there_are():
    text = "\n".join(page.read_text() for page in DOCUMENTS.rglob("*.md"))
    commands = re.findall(r"(?:methods_table|after_pruning)\.py[^`]*?--only ([\w,+]+)", text)
    named = tuple(dict.fromkeys(row for rows in commands for row in rows.split(",")))
    assert unknown_row(named) is None
    assert [row for row, (name, _) in VARIANTS.items() if name in METHODS and row not in named] == []


# The runs.


def test_half_the_flops_and_the_first_seed_come_first_and_the_dense_model_once_a_seed():
    runs = planned(("dense", "tome"), ("70%", "50%", "35%"), (0, 1))
    assert [run.folder for run in runs] == [
        *("dense-100-0", "tome-50-0", "tome-35-0"),
        *("dense-100-1", "tome-50-1", "tome-35-1"),
        # Left where the time does not suffice.
        *("tome-70-0", "tome-70-1"),
    ]
    assert estimated_minutes(runs[0], SETTINGS) > estimated_minutes(runs[1], SETTINGS)


def test_baselines_have_the_first_seed_alone():
    runs = planned(("dense", "tome", "sit"), BUDGETS, (0, 1), (0,))
    assert {run.seed for run in runs if run.name in ("dense", "tome")} == {0}
    assert len(runs) == 1 + len(BUDGETS) + 2 * len(BUDGETS)


def test_what_the_time_drops_is_70_percent():
    """On two idle cores two hours suffice for everything else."""
    minutes = {run: estimated_minutes(run, SETTINGS) / 2 for run in planned(ROWS, BUDGETS, (0, 1), (0,))}
    assert sum(cost for run, cost in minutes.items() if run.budget != "70%") < 100 < sum(minutes.values())


def test_no_run_begins_that_would_end_too_late(tmp_path: Path):
    begun: list[Run] = []

    def begin(run: Run, data: Path, output: Path, settings: Settings) -> None:
        begun.append(run)
        write(output, run, 0.5)

    runs = planned(("tome",), ("70%", "50%", "35%"), (0,))
    # Enough for the run at 35 %, not for one at 50 %.
    ends = time.monotonic() + 60 * (estimated_minutes(runs[0], SETTINGS) + estimated_minutes(runs[1], SETTINGS)) / 2
    assert carry_out(runs, tmp_path, tmp_path, SETTINGS, 1, ends=ends, begin=begin) == 2
    assert [run.budget for run in begun] == ["35%"]
    assert carry_out(runs, tmp_path, tmp_path, SETTINGS, 1, begin=begin) == 0
    assert len(begun) == 4


def test_a_run_that_failed_is_to_be_done_again_unless_its_budget_cannot_be_reached(tmp_path: Path):
    run = Run(name="tome", budget="50%", seed=0)
    assert not is_done(tmp_path, run)
    write(tmp_path, run, error="DivergedError: the loss is nan")
    assert not is_done(tmp_path, run)
    write(tmp_path, run, error="its cheapest form is above the budget", infeasible=True)
    assert is_done(tmp_path, run)
    write(tmp_path, run, 0.5)
    assert is_done(tmp_path, run)


def test_runs_of_other_settings_are_not_mixed(tmp_path: Path):
    same_settings(tmp_path, SETTINGS)
    same_settings(tmp_path, SETTINGS)
    with pytest.raises(SystemExit, match="other settings"):
        same_settings(tmp_path, SETTINGS.replace(epochs=1.0))


def test_the_second_start_has_one_budget_and_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("AUTOSLIM_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["methods_table.py", "--output", str(tmp_path / "out"), "--second-start", "--dry-run"])
    methods_table.main()
    *runs, total = capsys.readouterr().out.splitlines()
    assert {line.split("-")[1] for line in runs} == {"35", "100"}
    assert {line.split("-")[0] for line in runs} == set(ROWS)
    assert total.startswith(f"{len(runs)} runs to do, 0 done; about ")


# The table.


def test_the_table_names_the_best_and_who_is_behind_random_tokens(tmp_path: Path):
    names = ("sit", "vit_slim", "dense", "random_tokens", "tome")
    tests = {"sit": 0.60, "vit_slim": 0.72, "dense": 0.73, "random_tokens": 0.65, "tome": 0.70}
    runs = planned(names, ("50%",), (0, 1))
    for run in runs:
        write(tmp_path, run, tests[run.name] + 0.01 * run.seed)
    text = table(Results(tmp_path, runs), names, ("50%",))
    assert "| vit_slim | 72.50 |" in text and "| dense | 73.50 at 100 % |" in text
    assert (
        "vit_slim, is ahead of every baseline, of which tome is the best: +2.00" in text
        and "Not ahead of random tokens: sit." in text
    )
    assert "**tome**" in text
    assert "| sit | 50.0% |  | 60.50 (60.00, 61.00) | -5.00" in text


@pytest.mark.parametrize(
    ("best", "said"), [(0.703, "level with tome: +0.30"), (0.65, "behind tome: -5.00"), (0.70, "level with tome: +0.00")]
)
def test_a_difference_within_its_interval_is_neither_ahead_nor_behind(best: float, said: str, tmp_path: Path):
    runs = planned(("sit", "tome"), ("50%",), (0,))
    for run in runs:
        write(tmp_path, run, {"sit": best, "tome": 0.70}[run.name])
        # The same number of other images: a difference of two such models has an interval.
        hits = tmp_path / "runs" / run.folder / "hits.npy"
        np.save(hits, np.roll(np.load(hits), 100 if run.name == "sit" else 0))
    text = table(Results(tmp_path, runs), ("sit", "tome"), ("50%",))
    assert f"50%: the best of ours, sit, is {said}" in text
    assert "random tokens" not in text.split("50%: the best of ours")[1]


def test_the_table_of_what_is_there_names_what_failed(tmp_path: Path):
    names = ("sit", "dense", "random_tokens", "tome")
    runs = planned(names, ("70%", "50%"), (0,))
    write(tmp_path, Run(name="tome", budget="50%", seed=0), 0.7)
    write(tmp_path, Run(name="sit", budget="50%", seed=0), error="DivergedError: the loss is nan")
    text = table(Results(tmp_path, runs), names, ("70%", "50%"))
    assert "| tome |  | 70.00 |" in text
    assert "failed: sit at 50%, seed 0: DivergedError: the loss is nan" in text
    assert "no run of the same seed" in text


def test_pairs_of_rows_are_compared_on_the_same_images_and_seeds(tmp_path: Path):
    """Baselines have one seed: a method's other one does not count against them."""
    names = ("merge", "tome")
    runs = planned(names, ("25%",), (0, 1), (0,))
    for run in runs:
        write(tmp_path, run, {"merge": 0.72, "tome": 0.70}[run.name] - 0.1 * run.seed)
    assert "- merge against tome: +2.00 (+1.13 to +2.87)" in table(Results(tmp_path, runs), names, ("25%",))


def test_a_chain_with_a_rest_is_compared_with_the_one_without_it(tmp_path: Path):
    names = ("width+merge", "width+rest+merge")
    runs = planned(names, ("35%", "50%"), (0, 1), (0,))
    for run in runs:
        if run.budget == "35%":
            write(tmp_path, run, {"width+merge": 0.70, "width+rest+merge": 0.72}[run.name])
    text = table(Results(tmp_path, runs), names, ("35%", "50%"))
    assert text.count("- width+rest+merge against width+merge: +2.00 (+1.13 to +2.87)") == 1


def test_pairs_are_compared_straight_after_pruning_too_where_that_is_known(tmp_path: Path):
    names = ("width", "random_units")
    runs = planned(names, ("50%",), (0,), (0,))
    for run, test, pruned in zip(runs, (0.72, 0.70), (0.60, 0.20), strict=True):
        write(tmp_path, run, test, pruned=pruned)
    text = table(Results(tmp_path, runs), names, ("50%",))
    assert "| width | 50.0% | 60.00 | 72.00 (72.00) |" in text
    assert "- width against random_units: +2.00 (+1.13 to +2.87); straight after pruning, on validation images: +40.00 (" in text


def test_what_cannot_be_reached_is_said_once_and_is_no_failure(tmp_path: Path):
    runs = planned(("sit",), ("15%",), (0, 1))
    for run in runs:
        write(tmp_path, run, error="its cheapest form has 31M, above the budget of 28M", infeasible=True)
    text = table(Results(tmp_path, runs), ("sit",), ("15%",))
    assert text.count("- cannot be reached: sit at 15%: its cheapest form has 31M, above the budget of 28M") == 1
    assert "failed" not in text


# The archive.


def test_finished_runs_give_the_same_table_in_another_folder_through_an_archive(tmp_path: Path):
    names = ("width", "random_units", "sit")
    runs = planned(names, ("50%", "15%"), (0,))
    first, second, file = tmp_path / "first", tmp_path / "second", tmp_path / "runs.parquet"
    for run, test in zip(runs[:2], (0.723, 0.701), strict=True):
        write(first, run, test, pruned=test / 2)
    write(first, runs[2], error="DivergedError: the loss is nan")
    write(first, runs[5], error="its cheapest form has 31M", infeasible=True)
    assert write_archive(file, first, SETTINGS) == 3
    # What the folder has already stays.
    write(second, runs[1], 0.5, pruned=0.1)
    assert read_archive(file, second, SETTINGS) == 2
    assert [run for run in runs if is_done(second, run)] == [runs[0], runs[1], runs[5]]
    assert read_archive(file, second, SETTINGS) == 0
    (second / "runs" / runs[1].folder / "facts.json").unlink()
    assert read_archive(file, second, SETTINGS) == 1
    (first / "runs" / runs[2].folder / "facts.json").unlink()
    assert table(Results(second, runs), names, ("50%", "15%")) == table(Results(first, runs), names, ("50%", "15%"))


def test_an_archive_of_other_settings_is_refused(tmp_path: Path):
    file = tmp_path / "runs.parquet"
    write(tmp_path, Run(name="tome", budget="50%", seed=0), 0.7)
    write_archive(file, tmp_path, SETTINGS)
    with pytest.raises(SystemExit, match="runs of other settings"):
        read_archive(file, tmp_path / "other", SETTINGS.replace(epochs=10.0))
    assert not (tmp_path / "other").exists()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Calls the benchmark for `tome` at 50 % with an archive, in a folder of its own."""
    monkeypatch.setenv("AUTOSLIM_DATA", str(tmp_path))

    def call(folder: str, *words: str, archive: str = "runs.parquet") -> None:
        given = ["--output", str(tmp_path / folder), "--only", "tome", "--budgets", "50%", "--archive", str(tmp_path / archive)]
        monkeypatch.setattr(sys, "argv", ["methods_table.py", *given, *words])
        methods_table.main()

    return call


def test_what_an_archive_has_is_not_run_again(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "first", Run(name="tome", budget="50%", seed=0), 0.7)
    command("first")
    command("second", "--dry-run")
    assert "0 runs to do, 1 done" in capsys.readouterr().out
    assert not (tmp_path / "second").exists()
    command("second")
    assert "0 runs in this call" in capsys.readouterr().out
    command("third", "--table")
    assert "| **tome** | 50.0% |  | 70.00 (70.00) |" in capsys.readouterr().out


def test_an_archive_holds_no_path_of_a_machine(command: Any, tmp_path: Path):
    with pytest.raises(SystemExit, match="which another machine does not have"):
        command("runs", "--second-start")


def test_there_is_no_table_of_an_archive_that_is_not_there(command: Any, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command("runs", "--table", archive="other.parquet")
    assert "other.parquet does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command("runs", archive="none/runs.parquet")
    assert "its folder does not exist" in capsys.readouterr().err
