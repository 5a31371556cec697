"""The nouns: they go to JSON and back without loss, read strictly, and know what they should."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from helpers.shapes import SHAPE
from hypothesis import given, settings
from hypothesis import strategies as st

from autoslim.core.budget import Budget, format_flops
from autoslim.core.job import DatasetSpec, ModelSpec, Resources, SearchJob
from autoslim.core.plan import BlockPlan, Extra, Plan
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.record import Record
from autoslim.core.result import BaseFacts, EpochReport, Origin, ParetoFront, Phase, TrialResult, TrialState, hypervolume
from autoslim.errors import BudgetError, RequestError

BLOCK = BlockPlan(tokens_kv=25, tokens_q=25, tokens_mlp=25, heads=3, head_width=16, hidden=192)
PLAN = Plan(blocks=(BLOCK, BLOCK), extras=(Extra(name="regressor", place="block 1", matmuls=10, norms=2),))
RECIPE = Recipe(
    steps=(Step(method="vit_slim", knobs={"keep": 0.5, "l1": "paper", "many": [1, 2.5, None, True], "nested": {"a": 1}}),),
    budget=10**9,
    training=TrainingSettings(epochs=2.5),
    seed=3,
)
JOB = SearchJob(
    id="job-1",
    model=ModelSpec(name="deit_tiny_patch16_224", args={"depth": 4}, image_size=(32, 48)),
    dataset=DatasetSpec(source="digits"),
    budgets=(Budget.parse("50%"), Budget.parse("2.3G")),
    resources=Resources(cpu=2.0, gpu=0.5),
    output="/out",
)


def result(
    number: int, flops: int | None, accuracy: float | None, state: TrialState = TrialState.COMPLETE, **changes: Any
) -> TrialResult:
    return TrialResult(number=number, recipe=RECIPE, origin=Origin.SAMPLER, state=state, flops=flops, accuracy=accuracy).replace(
        **changes
    )


RECORDS: list[Record] = [
    SHAPE,
    BLOCK,
    PLAN,
    RECIPE,
    JOB,
    TrainingSettings(),
    Budget.parse("50%"),
    EpochReport(epoch=1.5, phase=Phase.FINETUNE, metrics={"loss": 0.25}),
    BaseFacts(dense_flops=10, dense_accuracy=0.5, params=3, chance=0.1),
    result(1, 10, 0.5, error="x", artifact="trials/x"),
    result(2, 10, 0.5, origin=Origin.REFINEMENT, accuracy_after_pruning=0.25),
    ParetoFront.of([result(1, 10, 0.5), result(2, 20, 0.75)]),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_goes_to_json_and_back(record: Record):
    again = type(record).from_json(record.to_json())
    assert again == record
    assert type(record).from_json(record.to_json(indent=1)) == record
    assert again.digest() == record.digest()
    assert again.to_json() == record.to_json()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_reads_strictly(record: Record):
    kind, data = type(record), record.to_dict()
    with pytest.raises(RequestError, match=f"{kind.__name__} has no field 'flavour'; allowed: "):
        kind.from_dict({**data, "flavour": 1})
    required = [f.name for f in dataclasses.fields(record) if f.default is f.default_factory is dataclasses.MISSING]
    for name in required:
        with pytest.raises(RequestError, match=name):
            kind.from_dict({key: value for key, value in data.items() if key != name})
    for wrong in (None, 3, "text", [data]):
        with pytest.raises(RequestError, match=f"{kind.__name__} must be an object"):
            kind.from_dict(wrong)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_former_names_are_read_where_version_0_1_wrote_them(record: Record):
    former = {"phase": "beat", "accuracy_after_pruning": "accuracy_after_cut"}
    values = {"finetune": "tune", "prune": "cut", "control": "random", "refinement": "final"}
    data = {former.get(name, name): value for name, value in record.to_dict().items()}
    data |= {name: values.get(data[name], data[name]) for name in ("beat", "origin") if name in data}
    assert type(record).from_dict(data) == record


@pytest.mark.parametrize("text", ["", "{", "nonsense", "{'a': 1}"])
def test_what_is_not_json_is_said_to_be(text: str):
    with pytest.raises(RequestError, match="TrainingSettings is not valid JSON"):
        TrainingSettings.from_json(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", "3"),
        ("epochs", None),
        ("epochs", True),
        ("batch_size", 3.5),
        ("batch_size", True),
        ("flip", 1),
        ("augmentation", 3),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_field(field: str, value: Any):
    with pytest.raises(RequestError, match=rf"TrainingSettings\.{field} must be"):
        TrainingSettings.from_dict({field: value})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "image_size"), [32], "must have 2 entries"),
        (("model", "image_size"), [32, "48"], "must be int"),
        (("budgets",), "50%", "must be a list"),
        (("budgets", 0, "share"), "half", "Budget.share must be float"),
        (("model", "args"), [1], "must be an object"),
        (("resources", "cpu"), None, "Resources.cpu must be float"),
    ],
)
def test_nested_mistakes_are_found(path: tuple, value: Any, message: str):
    data = json.loads(JOB.to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RequestError, match=message):
        SearchJob.from_dict(data)


def test_a_state_that_there_is_not_is_answered_with_those_that_there_are():
    with pytest.raises(RequestError, match="allowed: running, complete, stopped, failed, infeasible"):
        TrialResult.from_dict({**result(1, 1, 0.5).to_dict(), "state": "happy"})


def test_whole_numbers_are_read_as_floats_where_a_float_is_meant():
    training = TrainingSettings.from_dict({"epochs": 3})
    assert isinstance(training.epochs, float)
    assert training.digest() == TrainingSettings(epochs=3.0).digest()


def test_the_key_of_a_recipe_changes_with_everything_in_it():
    keys = {RECIPE.key}
    keys.add(RECIPE.replace(seed=4).key)
    keys.add(RECIPE.replace(budget=10**9 + 1).key)
    keys.add(RECIPE.replace(training=RECIPE.training.replace(lr=1e-3)).key)
    keys.add(RECIPE.replace(steps=(RECIPE.steps[0].replace(knobs={**RECIPE.steps[0].knobs, "keep": 0.51}),)).key)
    assert len(keys) == 5


def test_a_recipe_without_a_rest_has_the_key_of_versions_that_knew_of_none():
    assert "rest_share" not in RECIPE.to_dict()["training"]
    rested = RECIPE.replace(training=RECIPE.training.replace(rest_share=0.1))
    assert Recipe.from_json(rested.to_json()) == rested
    assert rested.key != RECIPE.key


def test_the_key_does_not_depend_on_the_order_of_knobs():
    one, other = (Step(method="m", knobs=dict(items)) for items in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)]))
    assert RECIPE.replace(steps=(one,)).key == RECIPE.replace(steps=(other,)).key


def test_a_composed_recipe_is_named_by_its_methods():
    assert RECIPE.replace(steps=(Step(method="vit_slim", knobs={}), Step(method="sit", knobs={}))).method == "vit_slim+sit"


@given(epochs=st.floats(0.01, 1e3), seed=st.integers(0, 2**63), text=st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_recipe_survives_json(epochs: float, seed: int, text: str):
    recipe = RECIPE.replace(training=TrainingSettings(epochs=epochs), seed=seed, steps=(Step(method=text, knobs={text: text}),))
    assert Recipe.from_json(recipe.to_json()) == recipe


GOOD = {
    "2.3G": 2_300_000_000,
    "4.1G": 4_100_000_000,
    "16.9G": 16_900_000_000,
    "850M": 850_000_000,
    "1300000": 1_300_000,
    "1.3 g": 1_300_000_000,
    " 12k ": 12_000,
    ".5T": 500_000_000_000,
    "3.G": 3_000_000_000,
}


@pytest.mark.parametrize("text", GOOD)
def test_an_absolute_budget_is_read_to_the_last_operation(text: str):
    budget = Budget.parse(text)
    assert (budget.flops, budget.share, budget.label) == (GOOD[text], None, text.strip())
    assert budget.resolve(10**15) == GOOD[text]


@pytest.mark.parametrize(("text", "share"), [("50%", 0.5), ("100%", 1.0), ("12.5 %", 0.125), ("0.1%", 0.001)])
def test_a_share_is_of_the_dense_model(text: str, share: float):
    budget = Budget.parse(text)
    assert budget.flops is None
    assert budget.share == pytest.approx(share)
    assert budget.resolve(1_000_000) == int(share * 1_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "%",
        "0",
        "0G",
        "0%",
        "-1G",
        "101%",
        "1,3G",
        "1.3.0G",
        "1.3GB",
        "half",
        "50%%",
        "nan",
        "inf",
        "0.0001",
        "../x",
    ],
)
def test_what_is_no_budget_is_refused_with_its_text(text: str):
    with pytest.raises(RequestError, match="budget "):
        Budget.parse(text)


def test_a_huge_number_is_a_budget_that_the_dense_model_is_within():
    with pytest.raises(BudgetError, match="within it already"):
        Budget.parse("9" * 400).resolve(10**9)


def test_a_budget_above_the_dense_model_is_refused_and_its_own_is_not():
    with pytest.raises(BudgetError, match=r"5G: the dense model has 4\.608G"):
        Budget.parse("5G").resolve(4_608_338_304)
    assert Budget.parse("4608338304").resolve(4_608_338_304) == 4_608_338_304
    assert Budget.parse("100%").resolve(4_608_338_304) == 4_608_338_304


@pytest.mark.parametrize(
    ("flops", "text"), [(4_608_338_304, "4.608G"), (850_000_000, "850M"), (1_234, "1.234K"), (999, "999"), (0, "0")]
)
def test_flops_are_shown_in_four_digits(flops: int, text: str):
    assert format_flops(flops) == text


# Plans.


def test_the_dense_plan_fits_its_shape():
    plan = Plan.dense(SHAPE)
    plan.check(SHAPE)
    assert plan.tokens_out == SHAPE.tokens == 25
    assert plan.with_tokens((25, 9)).blocks[1] == BLOCK.replace(tokens_kv=9, tokens_q=9, tokens_mlp=9)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((BLOCK,), "plan has 1 blocks, the model 2"),
        ((BLOCK, BLOCK.replace(tokens_kv=26, tokens_q=26, tokens_mlp=26)), "block 1: tokens 26/26/26"),
        ((BLOCK.replace(tokens_mlp=9), BLOCK), "block 1: tokens 25/25/25 .* within the 9 that reach the block"),
        ((BLOCK.replace(tokens_q=9), BLOCK), "block 0: tokens 25/9/25"),
        ((BLOCK, BLOCK.replace(tokens_q=0, tokens_mlp=0)), "keep the 1 prefix tokens"),
        ((BLOCK, BLOCK.replace(heads=4)), "block 1: 4 heads"),
        ((BLOCK.replace(head_width=17), BLOCK), "block 0: 3 heads of width 17"),
        ((BLOCK.replace(hidden=193), BLOCK), "193 hidden units exceed the dense 3 x 16 and 192"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(blocks: tuple[BlockPlan, ...], message: str):
    with pytest.raises(RequestError, match=message):
        Plan(blocks=blocks).check(SHAPE)


def test_a_plan_may_drop_between_attention_and_mlp_and_lose_sublayers():
    first = BLOCK.replace(tokens_q=20, tokens_mlp=9, heads=0)
    Plan(blocks=(first, BLOCK.replace(tokens_kv=9, tokens_q=9, tokens_mlp=1, hidden=0))).check(SHAPE)


# The front.


def test_the_front_is_what_no_other_beats_cheapest_first():
    results = [
        result(0, 30, 0.8),
        result(1, 10, 0.5),
        result(2, 20, 0.4),
        result(3, 20, 0.7),
        result(4, 20, 0.7),
        result(5, 10, 0.45),
        result(6, 5, 0.9, TrialState.FAILED),
        result(7, 1, 1.0, duplicate_of=1),
        result(8, None, None, TrialState.RUNNING),
    ]
    assert [r.number for r in ParetoFront.of(results).results] == [1, 3, 0]
    assert ParetoFront.of(reversed(results)) == ParetoFront.of(results)


def dominates(one: TrialResult, other: TrialResult) -> bool:
    """At least as accurate and as cheap as `other`, and better in one of the two."""
    return (
        one.accuracy >= other.accuracy and one.flops <= other.flops and (one.accuracy, one.flops) != (other.accuracy, other.flops)
    )


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=20))
@settings(deadline=None)
def test_nothing_on_the_front_is_dominated_and_all_else_is(points: list[tuple[int, int]]):
    results = [result(number, flops, accuracy / 50) for number, (flops, accuracy) in enumerate(points)]
    front = ParetoFront.of(results).results
    assert not any(dominates(one, other) for one in results for other in front)
    places = {(r.flops, r.accuracy) for r in front}
    assert len(places) == len(front)
    assert all((r.flops, r.accuracy) in places or any(dominates(f, r) for f in front) for r in results)


def test_hypervolume_is_the_area_that_the_front_covers():
    assert hypervolume([], dense_flops=100, chance=0.1) == 0
    assert hypervolume([(0, 1.0)], dense_flops=100, chance=0.1) == pytest.approx(1.0)
    assert hypervolume([(50, 0.55)], dense_flops=100, chance=0.1) == pytest.approx(0.25)
    assert hypervolume([(20, 0.5), (60, 0.8)], dense_flops=100, chance=0.0) == pytest.approx(0.4 * 0.5 + 0.4 * 0.8)
    front = ParetoFront.of([result(0, 20, 0.5), result(1, 60, 0.8)])
    assert front.hypervolume(dense_flops=100, chance=0.0) == pytest.approx(0.52)


def test_points_below_chance_or_above_the_dense_model_cover_nothing():
    assert hypervolume([(50, 0.05)], dense_flops=100, chance=0.1) == 0
    assert hypervolume([(150, 0.9)], dense_flops=100, chance=0.1) == 0
    assert hypervolume([(50, 0.5), (150, 0.9)], dense_flops=100, chance=0.0) == pytest.approx(0.25)


@given(
    points=st.lists(st.tuples(st.integers(1, 99), st.floats(0.0, 1.0)), min_size=1, max_size=10),
    more=st.tuples(st.integers(1, 99), st.floats(0.0, 1.0)),
)
@settings(deadline=None)
def test_another_trial_never_makes_the_hypervolume_smaller(points: list[tuple[int, float]], more: tuple[int, float]):
    def volume(some: list[tuple[int, float]]) -> float:
        front = ParetoFront.of([result(number, *point) for number, point in enumerate(some)])
        return front.hypervolume(dense_flops=100, chance=0.1)

    assert volume([*points, more]) >= volume(points) - 1e-12
    assert 0 <= volume(points) <= 1 + 1e-12
    assert math.isfinite(volume(points))
