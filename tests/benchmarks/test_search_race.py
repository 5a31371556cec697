"""The race's table says who was ahead when; a table of trials goes on where it was interrupted."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import search_race
from line_chart import Line, line_chart
from search_race import Result, figure, read, table
from simulation.table import Trials
from trial_table import drawn, rows

from autoslim.core.plan import Plan
from autoslim.core.result import Target
from autoslim.cost import predict
from autoslim.errors import RequestError
from autoslim.methods import METHODS
from autoslim.search import load_space


def result(name: str, seed: int, hypervolumes: tuple[float, ...]) -> Result:
    return Result(
        name=name,
        seed=seed,
        epochs=(10.0, 20.0, 30.0, 40.0),
        hypervolumes=hypervolumes,
        best={"50%": tuple(0.5 + value for value in hypervolumes)},
        trials=9,
        complete=4,
        seconds=1.0,
    )


RESULTS = {
    "random": [result("random", 0, (0.1, 0.2, 0.3, 0.3)), result("random", 1, (0.1, 0.2, 0.3, 0.4))],
    "autoslim": [result("autoslim", 0, (0.2, 0.4, 0.4, 0.4)), result("autoslim", 1, (0.2, 0.4, 0.4, 0.5))],
}


def test_the_table_is_ordered_by_a_quarter_of_the_epochs_and_says_when_randoms_end_was_reached() -> None:
    ours, random = table(RESULTS).splitlines()[2:]
    assert ours.startswith("| autoslim | 0.2000 ± 0.0000 | 0.4500 ± 0.0500 | 20 (50%) | 70.00 / 95.00 |")
    assert random.startswith("| random | 0.1000 ± 0.0000 | 0.3500 ± 0.0500 | 40 (100%) |")


def test_who_never_gets_there_is_said_so() -> None:
    behind = {**RESULTS, "other": [result("other", 0, (0.0, 0.1, 0.1, 0.1))]}
    assert "not reached" in table(behind).splitlines()[-1]


def test_runs_are_kept_and_read_back_by_name_and_seed(tmp_path: Path) -> None:
    for results in RESULTS.values():
        for one in results:
            search_race.file_of(tmp_path, one.name, one.seed).write_text(one.to_json())
    assert read(tmp_path, ["random", "autoslim", "absent"], [0, 1]) == RESULTS


def test_the_figure_names_every_line_and_stays_inside_its_frame() -> None:
    picture = ElementTree.fromstring(figure(RESULTS))
    said = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"random", "autoslim", "epochs spent", "hypervolume"} <= set(said)
    assert "<script" not in figure(RESULTS)


def test_a_flat_line_can_be_drawn() -> None:
    ElementTree.fromstring(line_chart([Line(name="a<b", points=[(0, 0.5), (1, 0.5)])], x="x", y="y"))


@pytest.mark.slow
def test_draws_of_the_table_are_solved_repeatable_and_of_methods_in_turn() -> None:
    trials = Trials.read()
    space, dense = load_space("default"), predict(trials.shape, Plan.dense(trials.shape)).total
    tasks = [drawn(number, space, trials.shape, trials.training) for number in range(33)]
    assert tasks == [drawn(number, space, trials.shape, trials.training) for number in range(33)]
    assert {task.recipe.method for task in tasks[: len(METHODS)]} == set(METHODS)
    for task in tasks:
        assert task.flops == predict(trials.shape, task.plan).total <= task.recipe.budget
        if task.target != Target.FREE:
            assert 0.30 * dense <= task.recipe.budget + 1 <= 0.95 * dense + 1
    repeats = [task for task in tasks if task.repeats is not None]
    assert len(repeats) == 3
    for task in repeats:
        assert task.recipe.replace(seed=0) == tasks[task.repeats or 0].recipe
        assert task.recipe.seed == 1


def test_half_a_line_of_a_killed_process_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text(json.dumps({"number": 0}) + "\n" + '{"number": 1, "acc\n' + json.dumps({"number": 2}))
    assert [row["number"] for row in rows(tmp_path)] == [0, 2]
    assert rows(tmp_path / "nowhere") == []


def test_a_result_of_another_shape_is_refused() -> None:
    with pytest.raises(RequestError):
        Result.from_json('{"name": "random"}')
