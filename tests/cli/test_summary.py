"""The summary of a search: a table, one line for each budget, the model that the numbers speak for, and where the reasons are."""

from __future__ import annotations

import re
from typing import Any

import pytest

from autoslim.cli.summary import render
from autoslim.core.interval import wilson
from autoslim.export.artifact import SpeedReport, Timing
from autoslim.search import AgainstControl, Explanation, WithinNoise
from workers.progress.cost import SearchCost
from workers.search.finalize import SelectedModel
from workers.search.summary import Summary


def model(label: str, trial: int, flops: int, test: float, dense: float = 0.73) -> SelectedModel:
    return SelectedModel(
        label=label, budget=flops, budget_share=1.0, folder=f"out/models/{label}", trial=trial, method="width", accuracy=test + 0.01,
        flops=flops, params=10**6, test_accuracy=test, dense_test_accuracy=dense,
    )  # fmt: skip


def timing(speedup: float, low: float, high: float, **changes: Any) -> Timing:
    timing = Timing(
        mode="eager",
        device="cpu",
        batch=1,
        dense_ms=8.0,
        slimmed_ms=8.0 / speedup,
        speedup=speedup,
        low=low,
        high=high,
        rounds=50,
    )
    return timing.replace(**changes)


def speeds(*timings: Timing) -> SpeedReport:
    return SpeedReport(hardware="a CPU", threads=1, timings=timings)


def noise(trial: int, best: int, cheaper: int = 3) -> WithinNoise:
    return WithinNoise(
        trial=trial, title="width", accuracy=0.72, flops=5 * 10**8, best=best, interval=wilson(0.73, 5000), images=5000, cheaper=cheaper
    )  # fmt: skip


def summary(**changes: Any) -> Summary:
    reason = Explanation(sentence="trial 7 (width) is the best", budget_share=1.0, next_cheaper=None, next_costlier=None, knee=7)
    found = Summary(
        job="flowers-1", output="out", dense_flops=10**9, dense_accuracy=0.74,
        models=(model("70%", 9, 7 * 10**8, 0.731), model("50%", 7, 5 * 10**8, 0.711)),
        controls={"50%": AgainstControl(chosen=7, control=1, margin=0.01)}, reasons={"50%": reason}, missing=("20%",), shared=(),
        states={"complete": 12}, tracking_uri="http://m", logged=True, images={"validation": 5000, "test": 10_000},
        within_noise=noise(7, 9), speeds={"50%": speeds(timing(1.62, 1.55, 1.7)), "70%": speeds(timing(1.4, 0.9, 2.1))},
        cost=SearchCost(seconds=1.0, device="CPU", device_hours=0.1, bytes=10),
    )  # fmt: skip
    return found.replace(**changes)


def lines_of(found: Summary, start: str) -> list[str]:
    return [line for line in render(found).splitlines() if line.startswith(start)]


def test_every_budget_has_one_line_and_the_reasons_are_in_the_page() -> None:
    found = summary()
    assert Summary.from_json(found.to_json()) == found
    assert lines_of(found, "50%:") == [
        "50%: test 71.10% (70.2% to 72.0%), 1.9 points below the dense model; 1.62 times as fast (eager, CPU, batch 1)"
    ]
    assert len(lines_of(found, "70%:")) == len(lines_of(found, "20%:")) == 1
    assert "trial 7 (width) is the best" not in render(found)
    (reasons,) = lines_of(found, "Reasons")
    assert "out/report.html" in reasons


def test_accuracies_in_the_table_have_their_intervals() -> None:
    head, dense, *_ = [line for line in render(summary()).splitlines() if "of budget" in line or line.startswith("dense")]
    assert head.endswith("validation top-1, % (95 %)  test top-1, % (95 %)")
    assert re.split(r"  +", dense)[-2:] == [wilson(0.74, 5000).percent(), wilson(0.73, 10_000).percent()]


def test_a_difference_within_the_interval_and_an_unreliable_timing_are_called_so() -> None:
    (line,) = lines_of(summary(), "70%:")
    assert "0.1 points above the dense model, within the noise" in line
    assert "1.40 times as fast (eager, CPU, batch 1; unreliable: half of the rounds are from 0.90 to 2.10)" in line


def test_a_model_that_two_budgets_have_is_told_once() -> None:
    twice = summary(models=(model("70%", 7, 5 * 10**8, 0.711), model("50%", 7, 5 * 10**8, 0.711)))
    assert lines_of(twice, "50%:") == ["50%: the same model as 70%"]
    (line,) = lines_of(twice, "70%:")
    assert line.startswith("70%: test 71.10% ")


def test_a_file_that_loses_too_much_has_a_line_of_its_own() -> None:
    marked = {"50%": ("model.int8.onnx loses 1.20 points of top-1 on the test images (allowed: 0.5)",)}
    (line,) = lines_of(summary(marked_forms=marked), "warning: ")
    assert line == "warning: 50%: model.int8.onnx loses 1.20 points of top-1 on the test images (allowed: 0.5)"


@pytest.mark.parametrize(
    ("within", "said"),
    [
        (
            noise(7, 9),
            "The numbers speak for 50%, trial 7 (width): at 500M the cheapest within the noise of the best, trial 9 (73.00%, ",
        ),
        (
            noise(9, 9),
            "The numbers speak for 70%, trial 9 (width): every cheaper trial is measurably less accurate than this best one",
        ),
        (
            noise(9, 9, cheaper=0),
            "The numbers speak for 70%, trial 9 (width): it is the most accurate, and no trial is cheaper",
        ),
    ],
)
def test_the_model_that_the_numbers_speak_for_is_named(within: WithinNoise, said: str) -> None:
    (line,) = lines_of(summary(within_noise=within), "The numbers speak for")
    assert said in line


def test_the_command_that_hands_that_model_over_stands_alone_where_no_budget_has_it() -> None:
    assert lines_of(summary(within_noise=noise(5, 9)), "Pick") == ["Pick       autoslim pick out --flops 500000000"]
    assert lines_of(summary(), "Pick") == []


def test_the_fastest_way_to_run_one_image_is_told_and_a_gpus_before_a_cpus() -> None:
    slow, fast = timing(1.2, 1.2, 1.2), timing(1.8, 1.8, 1.8, mode="onnxruntime")
    batch = timing(3.0, 3.0, 3.0, batch=64, slimmed_ms=0.1)
    (line,) = lines_of(summary(speeds={"50%": speeds(slow, batch, fast)}), "50%:")
    assert line.endswith("1.80 times as fast (onnxruntime, CPU, batch 1)")
    gpu = timing(1.1, 1.1, 1.1, device="cuda", slimmed_ms=9.0)
    (line,) = lines_of(summary(speeds={"50%": speeds(slow, gpu)}), "50%:")
    assert line.endswith("1.10 times as fast (eager, CUDA, batch 1)")
    (line,) = lines_of(summary(speeds={}), "50%:")
    assert "fast" not in line
