import itertools
import json
import re

import pytest
from helpers.html_page import Page
from helpers.sample_search import DENSE, make_job, make_recipe, make_result, make_results
from helpers.tiny import config_of, slimmed

from autoslim.core.constraints import CostLimits, budget_of_limits
from autoslim.core.recipe import Step
from autoslim.core.result import ParetoFront, TrialState
from autoslim.core.speed import SpeedReport, Timing
from autoslim.export.artifact import write_config
from autoslim.report import render_front
from autoslim.report.label import Box, Labels, stack_in_rows
from autoslim.report.mark import colour, shape
from autoslim.report.scale import Scale, span, tick_labels


def render(results=None, **chosen):
    return render_front(make_job(), DENSE, make_results() if results is None else results, chosen)


def test_every_measured_trial_is_a_point_and_every_trial_a_row():
    page = Page(render())
    assert sorted(int(point["data-trial"]) for point in page.of_class("point")) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert sorted(int(a["data-trial"]) for tag, a in page.elements if tag == "tr" and "data-trial" in a) == list(range(12))


def test_a_chain_has_a_look_of_its_own():
    results = [make_result(0), make_result(1).replace(recipe=make_recipe(1, "vit_slim+life_regression"))]
    page = Page(render(results))
    assert len({(point["class"].split()[1], point["d"]) for point in page.of_class("point")}) == 2
    assert any("vit_slim+life_regression" in (point["aria-label"]) for point in page.of_class("point"))
    assert any("vit_slim+life_regression" in text for texts in page.texts.values() for text in texts)


def test_a_chain_on_the_front_is_drawn_and_listed_by_its_name():
    results = make_results()
    number = ParetoFront.of(results).results[0].number
    results[number] = results[number].replace(recipe=make_recipe(number, "width+merge"))
    page = Page(render(results))
    (point,) = [point for point in page.of_class("point") if point["data-trial"] == str(number)]
    assert point["aria-label"].startswith(f"trial {number}, width+merge, ")
    assert "behind" not in point["class"].split()
    assert "width+merge (1)" in page.texts["span"]
    assert page.texts["td"].count("width+merge") == 1


def test_methods_differ_in_colour_and_in_shape():
    page = Page(render())
    looks = {(point["data-method"], point["class"].split()[1], point["d"]) for point in page.of_class("point")}
    assert len(looks) == len({c for _, c, _ in looks}) == len({d for _, _, d in looks}) == 4
    assert len({(colour(index), shape(index)) for index in range(56)}) == 56


def test_budgets_dense_model_and_chosen_models_are_labelled():
    text = render(**{"50%": 3, "70%": 1, "3G": 1})
    page = Page(text)
    assert [line for line in page.texts["text"] if line in ("50%", "3G", "70%")] == ["50%", "3G", "70%"]
    assert {"dense 94.10 %", "50%: trial 3", "70%, 3G: trial 1"} <= set(page.texts["text"])
    assert len(page.of_class("ring")) == 2


def test_why_a_model_was_taken_stands_there_with_the_fronts_knee_and_its_neighbours():
    results = make_results()
    front = ParetoFront.of(results).results
    assert len(front) >= 3
    page = Page(render(results, **{"50%": front[1].number}))
    said = [text for text in page.texts["p"] if text.startswith(("50%", "The front bends"))]
    assert f"50%: trial {front[1].number} (" in said[0]
    assert f"next cheaper on the front: trial {front[0].number} (" in said[0]
    assert f"next costlier on the front: trial {front[2].number} (" in said[0]
    assert said[1].startswith("The front bends most at trial ")
    assert len(page.of_class("why")) == 2
    assert Page(render()).of_class("why") == []


def test_front_is_drawn_in_steps_from_the_cheapest_to_the_dense_model():
    (line,) = Page(render()).of_class("front")
    places = [tuple(map(float, place.split(","))) for place in line["d"][1:].split("L")]
    assert len(places) == 2 * len(ParetoFront.of(make_results()).results)
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in itertools.pairwise(places))
    assert places == sorted(places, key=lambda place: (place[0], -place[1]))


def test_trials_that_cannot_be_shown_are_counted():
    caption = " ".join(Page(render()).texts["p"])
    assert "12 trials: 1 running, 8 complete, 1 stopped, 1 failed, 1 infeasible." in caption
    assert "1 repeated an earlier recipe and is not shown." in caption


def test_tooltip_tells_the_whole_recipe_and_result():
    tooltip = json.loads(re.search(r'id="tooltips">(.*?)</script>', render(), re.DOTALL)[1])["4"]
    values = dict(tooltip["values"])
    assert tooltip["title"] == "Trial 4: vit_slim"
    assert (values["Top-1"], values["FLOPs"], values["Seconds"]) == (f"{100 * make_result(4).accuracy:.2f} %", "3.181 G", "65.5")
    assert (values["rate"], values["layers"], values["ranking"]) == ("0.38", "[3, 6, 9]", "attention")


def test_page_asks_nothing_of_a_network_and_runs_only_its_own_script():
    text = render()
    assert not re.search(r"(?:src|href|action)\s*=|@import|url\(|https?://|fetch\(|XMLHttp|WebSocket", text)
    (policy,) = [a["content"] for tag, a in Page(text).elements if tag == "meta" and "http-equiv" in a]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def test_hostile_names_stay_text():
    step = Step(method=HOSTILE, knobs={HOSTILE: HOSTILE, "list": [HOSTILE]})
    result = make_result(0, recipe=make_recipe(0).replace(steps=(step,)), origin=HOSTILE)
    failed = make_result(1, TrialState.FAILED, error=HOSTILE, error_class=HOSTILE)
    job = make_job()
    job = job.replace(
        id=HOSTILE,
        model=job.model.replace(name=HOSTILE),
        dataset=job.dataset.replace(source=HOSTILE),
        budgets=(job.budgets[0].replace(label=HOSTILE),),
    )
    tame, wild = Page(render([make_result(0), make_result(1)])), Page(render_front(job, DENSE, [result, failed], {HOSTILE: 0}))
    assert {tag for tag, _ in wild.elements} == {tag for tag, _ in tame.elements} | {"ul", "li", "b", "circle", "g"}
    assert sum(tag == "script" for tag, _ in wild.elements) == 2
    assert not [name for _, attributes in wild.elements for name in attributes if name.startswith("on")]


def test_password_in_the_data_set_is_not_shown():
    job = make_job()
    job = job.replace(dataset=job.dataset.replace(source="s3://me:secret@bucket/x"))
    assert "secret" not in render_front(job, DENSE, [], {})


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_any_number_of_trials_is_drawn_inside_the_picture(count):
    page = Page(render([make_result(number) for number in range(min(count, 160))] * (count // 160 or 1)))
    points = page.of_class("point")
    for point in points:
        x, y = map(float, re.search(r"translate\((.*?),(.*?)\)", point["transform"]).groups())
        assert 66 <= x <= 1100
        assert 14 <= y <= 546
    assert bool(points) == bool(count)


def test_search_whose_dense_model_is_not_measured_is_drawn():
    page = Page(render_front(make_job(), None, [], {}))
    assert "No trial has finished yet." in page.texts["text"]
    assert [label for label in page.texts["text"] if label in ("50%", "3G")] == ["3G"]


def test_one_collapsed_trial_does_not_press_the_others_together():
    results = [make_result(number) for number in range(20)]
    page = Page(render([*results, make_result(20, accuracy=0.02)]))
    places = {point["data-trial"]: float(point["transform"].split(",")[1].split(")")[0]) for point in page.of_class("point")}
    assert places["20"] == 540.0
    assert max(places.values()) - min(places.values()) > 300
    assert "1 far below the others is drawn on the lower edge." in " ".join(page.texts["p"])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.1e9, 4.7e9), (0.941, 0.9432), (1.0, 1.0001), (950.0, 1050.0)])
def test_ticks_are_round_and_told_apart(low, high):
    ticks = Scale(low=low, high=high, start=0, end=100).ticks(8)
    labels = tick_labels(ticks)
    assert 4 <= len(ticks) <= 10
    assert len(set(labels)) == len(labels)
    assert all(low - 1e-9 <= tick <= high + 1e-6 * abs(high) for tick in ticks)


def test_span_of_one_value_has_a_width():
    assert span([3.0], at_least=1.0) == (2.5, 3.5)
    assert span([], at_least=1.0, high=1.0) == (0.0, 1.0)


def test_labels_of_near_budgets_go_into_rows_of_their_own():
    rows = stack_in_rows([(100.0, "50%"), (104.0, "2.3G"), (400.0, "70%"), (1099.0, "a long label")], right=1100.0)
    assert [row for _, row in rows] == [0, 1, 0, 0]
    assert rows[-1][0] < 1060


def test_labels_avoid_each_other_and_the_edge():
    labels = Labels(Box(left=0, top=0, right=400, bottom=400))
    texts = [labels.place("70%: trial 12", 380.0, 20.0, classes="note") for _ in range(6)]
    places = [tuple(float(v) for v in re.search(r'x="(.*?)" y="(.*?)">', text).groups()) for text in texts]
    assert len(set(places)) == 6
    boxes = [Box(left=x, top=y - 11, right=x + 87, bottom=y + 4) for x, y in places]
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlap(b) > 1]
    assert min(box.left for box in boxes) >= 0
    assert max(box.right for box in boxes) <= 401


def test_measured_speed_of_handed_over_models_stands_on_the_page_and_slow_ones_are_named(tmp_path):
    config = config_of("vit_slim", *slimmed("vit_slim", "deit"))
    timings = tuple(
        Timing(
            mode="eager",
            device="cpu",
            batch=batch,
            dense_ms=8.0,
            slimmed_ms=8.0 / speedup,
            speedup=speedup,
            low=0.9,
            high=2.1,
            rounds=9,
        )
        for batch, speedup in ((1, 0.97), (64, 1.93))
    )
    folder = tmp_path / "models" / "50%"
    folder.mkdir(parents=True)
    write_config(folder, config.replace(speed=SpeedReport(hardware="a processor", threads=2, timings=timings)))
    text = render_front(make_job(output=str(tmp_path)), DENSE, make_results(), {"50%": 3, "70%": 1})
    page = Page(text)
    assert "1.93 (0.90-2.10) unreliable" in page.texts["td"]
    assert "<b>Not faster than the dense model at batch 1:</b> 50% (eager, cpu)." in text
    assert "a processor, 2 threads" in text
    assert "Speed of the models" not in render(**{"50%": 3})


def with_latencies():
    """Slower where there are more FLOPs, but for trial 3."""
    return [
        r if r.flops is None else r.replace(latency_ms=r.flops / 1e9 + (9.0 if r.number == 3 else 0.0)) for r in make_results()
    ]


def test_accuracy_is_drawn_over_latency_too_where_trials_have_one():
    job = make_job(limits=CostLimits(latency_ms=4.0, batch=8))
    results = with_latencies()
    page = Page(render_front(job, DENSE.replace(latency_ms=6.0), results, {"50%": 3}))
    charts = [attributes for tag, attributes in page.elements if tag == "svg" and "data-cost" in attributes]
    assert [chart["data-cost"] for chart in charts] == ["FLOPs", "latency"]
    points = page.of_class("point")
    drawn = [result for result in results if result.flops is not None and result.duplicate_of is None]
    assert len(points) == 2 * len(drawn)
    over_latency = {int(point["data-trial"]): float(point["data-x"]) for point in points[len(drawn) :]}
    assert over_latency == {result.number: result.latency_ms for result in drawn}
    told = " ".join(" ".join(texts) for texts in page.texts.values())
    for words in (
        "Predicted latency of a batch of 8, eager (ms)",
        "limit 4 ms",
        "accuracy over latency",
        "6 ms for a batch of 8",
    ):
        assert words in told


def test_without_latencies_the_page_has_one_chart_and_no_column_for_them():
    page = Page(render())
    assert [attributes["data-cost"] for tag, attributes in page.elements if tag == "svg" and "data-cost" in attributes] == [
        "FLOPs"
    ]
    assert page.of_class("costs") == []
    assert "Latency" not in page.texts["button"]


def test_limits_alone_are_no_line_among_the_flops():
    limits = CostLimits(latency_ms=4.0)
    page = Page(render_front(make_job(budgets=(budget_of_limits(limits),), limits=limits), DENSE, make_results(), {}))
    assert page.of_class("budget") == []
