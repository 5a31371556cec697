"""Latency tables: what lies between the points that were measured, and what a plan comes to."""

from __future__ import annotations

import pytest
from helpers.latency_tables import SHAPE, grid_of, make_table
from helpers.tiny import share_of_dense
from hypothesis import given
from hypothesis import strategies as st

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import BlockPlan, Extra, Plan
from autoslim.cost import Calibration, Grid, LatencyTable
from autoslim.errors import RequestError
from autoslim.methods import METHODS, Constraints, solve

PLAN = Plan.dense(SHAPE)


def test_a_grid_says_at_its_points_what_was_measured():
    grid = grid_of(lambda a, b: 10 * a + b, (1.0, 2.0, 5.0), (0.0, 0.5))
    assert [grid(*point) for point in grid.points] == pytest.approx(list(grid.values))
    assert grid(3.5, 0.25) == pytest.approx(35.25)


@given(st.lists(st.floats(0, 100), min_size=12, max_size=12), st.data())
def test_a_rising_grid_never_says_that_what_is_larger_takes_less(values: list[float], data: st.DataObject):
    grid = Grid(axes=((1.0, 2.0, 5.0, 9.0), (0.0, 1.0, 4.0)), values=tuple(values)).non_decreasing()
    low = (data.draw(st.floats(0, 10)), data.draw(st.floats(-1, 5)))
    high = (low[0] + data.draw(st.floats(0, 5)), low[1] + data.draw(st.floats(0, 5)))
    assert grid(*low) <= grid(*high) + 1e-9
    assert min(values) - 1e-9 <= grid(*low) <= max(values) + 1e-9


@pytest.mark.parametrize(
    ("axes", "values"), [(((1.0, 1.0),), (1.0, 2.0)), (((),), ()), (((1.0, 2.0),), (1.0,)), (((1.0,),), (float("nan"),))]
)
def test_a_grid_that_cannot_be_one_is_refused(axes, values):
    with pytest.raises(RequestError, match="grid"):
        Grid(axes=axes, values=values)


def test_a_plan_takes_as_long_as_its_parts():
    dense = 0.5 + SHAPE.depth * (0.01 + 17 * 48 / 1000 + 0.01 + 17 * 192 / 2000)
    assert make_table()(PLAN) == pytest.approx(dense)


def test_each_part_of_a_plan_is_told():
    table = make_table()

    def changed(**changes: int) -> float:
        return table(PLAN.replace(blocks=(*PLAN.blocks[:-1], PLAN.blocks[-1].replace(**changes))))

    last = 0.01 + 17 * 48 / 1000
    assert table(PLAN) - changed(heads=0) == pytest.approx(last)
    assert table(PLAN) - changed(hidden=0) == pytest.approx(0.01 + 17 * 192 / 2000)
    assert table(PLAN) - changed(head_width=8) == pytest.approx(17 * 24 / 1000)
    assert table(PLAN) - changed(tokens_q=9, tokens_mlp=9) == pytest.approx(
        last - (0.02 + 17 * 0.75 * 48 / 1000) + 8 * 192 / 2000
    )
    few = PLAN.blocks[-1].replace(tokens_kv=9, tokens_q=9, tokens_mlp=9)
    dropped = PLAN.replace(blocks=(*PLAN.blocks[:-1], few))
    assert table(PLAN) - table(dropped) == pytest.approx(8 * 48 / 1000 + 8 * 192 / 2000 - 0.002 * 17)
    regressed = dropped.replace(extras=(Extra(name="life regressor", place="block 3", matmuls=1, norms=1),))
    assert table(regressed) - table(dropped) == pytest.approx(0.1 + 0.017 - 0.002 * 17)
    unknown = dropped.replace(extras=(Extra(name="something new", place="block 3", matmuls=10**6, norms=1),))
    assert table(unknown) > table(dropped)


def test_tokens_that_are_dropped_between_attention_and_mlp_take_time():
    table = make_table()
    last = PLAN.blocks[-1]
    dropped = PLAN.replace(blocks=(*PLAN.blocks[:-1], last.replace(tokens_mlp=9)))
    assert table(PLAN) - table(dropped) == pytest.approx((last.tokens_mlp - 9) * 192 / 2000 - 0.002 * last.tokens_q)


def calibrated(*points: tuple[str, float, float]) -> LatencyTable:
    """By recipe, the sum of the parts and what the whole took."""
    found = [Calibration(recipe=recipe, flops=1, parts_ms=parts, measured_ms=ms) for recipe, parts, ms in points]
    return make_table(calibrations=tuple(found))


def test_a_recipe_is_corrected_by_its_own_whole_models():
    table = calibrated(("dense", 4.0, 4.4), ("sit", 2.0, 2.6), ("sit", 1.0, 1.5), ("dps", 2.0, 9.0))
    told = {parts: parts * table.correction("sit", parts) for parts in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)}
    assert told == pytest.approx({0.5: 0.75, 1.0: 1.5, 1.5: 2.05, 2.0: 2.6, 3.0: 3.9, 4.0: 5.2, 8.0: 10.4})
    assert table(PLAN) == pytest.approx(table.parts(PLAN) * 1.1)


def test_a_recipe_that_was_not_measured_is_corrected_by_the_worst():
    table = calibrated(("dense", 4.0, 4.4), ("sit", 2.0, 2.6))
    assert table.correction("vit_slim", 3.0) == pytest.approx(1.3)
    assert make_table().correction("vit_slim", 3.0) == 1.0


def test_a_chain_that_was_not_measured_is_corrected_for_both_methods():
    """By the first method's whole models, and by how much the second one's are above the dense model's."""
    table = calibrated(("dense", 4.0, 4.4), ("width", 2.0, 2.4), ("width", 1.0, 1.3), ("sit", 2.0, 2.6), ("sit", 1.0, 1.5))
    assert table.correction("width+sit", 2.0) == pytest.approx(1.2 * 1.5 / 1.1)
    assert table.correction("width+sit", 1.0) == pytest.approx(1.3 * 1.5 / 1.1)
    # A second method that was never measured counts as the worst.
    assert table.correction("width+dps", 2.0) == pytest.approx(1.2 * 1.5 / 1.1)
    assert make_table().correction("width+sit", 3.0) == 1.0
    told = [parts * table.correction("width+sit", parts) for parts in (0.5, 0.9, 1.0, 1.7, 2.0, 5.0)]
    assert told == sorted(told)


def test_a_model_that_was_measured_again_counts_as_the_slower_of_the_two():
    table = calibrated(("dense", 4.0, 4.4), ("sit", 2.0, 2.6), ("sit", 2.0, 2.9))
    assert 2.0 * table.correction("sit", 2.0) == pytest.approx(2.9)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=5), st.floats(0.05, 12), st.floats(0, 5))
def test_a_larger_sum_of_parts_is_never_said_to_take_less(points: list[tuple[float, float]], parts: float, more: float):
    table = calibrated(("dense", 5.0, 6.0), *(("sit", *point) for point in points))
    assert parts * table.correction("sit", parts) <= (parts + more) * table.correction("sit", parts + more) * (1 + 1e-9)


def test_a_table_goes_to_json_and_back_without_loss():
    table = make_table(calibrations=(Calibration(recipe="dense", flops=1, parts_ms=1.0, measured_ms=1.5),))
    assert LatencyTable.from_json(table.to_json()) == table


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_is_solved_under_a_latency_and_fills_it(method: str):
    table = make_table()
    limit = 0.7 * table(PLAN)
    constraints = Constraints(limits=CostLimits(latency_ms=limit), timer=table)
    solved = solve(METHODS[method], SHAPE, PLAN, {}, share_of_dense(SHAPE, 1.0), constraints=constraints)
    assert 0.9 * limit < table(solved.plan) <= limit


def test_what_lies_outside_the_grid_is_told_as_at_its_end():
    block = BlockPlan(tokens_kv=17, tokens_q=17, tokens_mlp=17, heads=1, head_width=1, hidden=192)
    narrow = PLAN.replace(blocks=(block,) * SHAPE.depth)
    assert make_table()(narrow) < make_table()(PLAN)
