"""What each section says, against the data that it is made from."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.html_page import Page, plain, rows_of, section
from helpers.sample_search import DENSE, make_job, make_recipe, make_results
from helpers.searched_folder import SHARED, TIMING, SearchedFolder

from autoslim.config import JobSpec, parse_yaml
from autoslim.core.accuracy_goal import AccuracyGoal
from autoslim.core.budget import format_flops
from autoslim.core.duration import format_duration
from autoslim.core.interval import wilson
from autoslim.core.job import DatasetSpec
from autoslim.core.result import BaseFacts, DataFacts, ParetoFront, TrialState
from autoslim.core.score import ACCURACY, DENSE_AGREEMENT
from autoslim.core.selection import best_within
from autoslim.core.speed import SpeedReport
from autoslim.export.artifact import FormReport
from autoslim.report.search_report import read_content, render_report
from autoslim.report.search_report.accuracy import telling
from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.front import limited
from autoslim.report.search_report.methods import draw_methods
from autoslim.report.search_report.progress import hypervolume_steps
from autoslim.report.search_report.repeat import request_of


def test_a_budget_has_its_model_and_a_missing_one_is_said(report: str, content: SearchContent):
    head, *rows = rows_of(section(report, "budgets"), "The model of each budget")
    config, base = content.models[0].config, content.stored.base
    assert base is not None
    assert head[0] == "Budget"
    assert [row[0] for row in rows] == ["50%", "70%", "3G"]
    found = dict(zip(head, rows[0], strict=True))
    assert found["Model"] == "trial 3: merge"
    assert found["Allowed"] == format_flops(base.dense_flops // 2)
    assert found["FLOPs"] == format_flops(config.flops.held)
    assert found["Validation top-1, % (95 %)"] == wilson(0.8, config.images["validation"]).percent()
    assert found["Test top-1, % (95 %)"] == wilson(config.accuracy["test/slimmed"], config.images["test"]).percent()
    # Trials are within both, so that it is not the trials that are missing.
    assert [row[1] for row in rows[1:]] == ["none was delivered"] * 2
    assert "next cheaper on the front" in section(report, "budgets") or "next costlier on the front" in section(report, "budgets")


def test_a_budget_that_no_trial_is_within_is_said(content: SearchContent):
    costly = [trial for trial in content.trials if (trial.result.flops or 0) > 3_000_000_000]
    rendered = render_report(dataclasses.replace(content, models=(), trials=tuple(costly))).html
    rows = rows_of(section(rendered, "budgets"), "The model of each budget")
    assert rows[1][:2] == ["50%", "none: no trial was completed within this budget"]
    assert "The test images were not used" in section(rendered, "budgets")


def test_a_goal_has_a_row_and_what_its_model_loses_an_interval(content: SearchContent):
    (model,), goal = content.models, AccuracyGoal(max_drop=30.0)
    job = content.stored.job.replace(budgets=(), goal=goal)
    named = dataclasses.replace(model, label=goal.label)
    stored = content.stored.replace(job=job, chosen={goal.label: model.trial})
    text = section(render_report(dataclasses.replace(content, stored=stored, models=(named,))).html, "budgets")
    (row,) = rows_of(text, "The model of each budget and of the goal")[1:]
    assert row[:3] == ["drop-30", "trial 3: merge", "top-1 at most 30 points below the dense model"]
    assert f"points lost on {model.config.images['test']} test images (95 %: " in plain(text)
    missed = stored.replace(job=job.replace(goal=AccuracyGoal(least=1.0)), chosen={})
    text = section(render_report(dataclasses.replace(content, stored=missed, models=())).html, "budgets")
    (row,) = rows_of(text, "The model of each budget and of the goal")[1:]
    assert row[1].startswith("none: no complete trial has an accuracy of at least 100%; the nearest, trial ")
    assert "points lost" not in text


def test_every_method_is_compared_within_each_budget(report: str, content: SearchContent):
    head, *rows = rows_of(section(report, "methods"), "Validation top-1 of the best complete trial")
    results = [trial.result for trial in content.trials]
    assert {row[0] for row in rows} == {result.recipe.title for result in results}
    for row in rows:
        found, own = dict(zip(head, row, strict=True)), [result for result in results if result.recipe.title == row[0]]
        assert int(found["Trials"]) == len(own)
        best = best_within(own, DENSE.dense_flops // 2)
        images = content.validation_images
        expected = "none" if best is None else f"{wilson(best.accuracy or 0, images).percent()}, trial {best.number}"
        assert found["Best within 50%, % (95 %)"] == expected
    front = {result.number for result in ParetoFront.of(results).results}
    assert sum(int(dict(zip(head, row, strict=True))["On the front"]) for row in rows) == len(front)
    assert section(report, "methods").count("<strong>") >= 3
    assert f"On {content.validation_images} validation images" in section(report, "methods")


def test_a_chain_on_the_front_has_a_row_behind_the_methods_alone(content: SearchContent):
    number = content.view.front[0].number
    chain = make_recipe(number, "width+merge")
    trials = tuple(
        trial.replace(result=trial.result.replace(recipe=chain)) if trial.result.number == number else trial
        for trial in content.trials
    )
    markup = draw_methods(dataclasses.replace(content, trials=trials))
    head, *_, last = rows_of(markup, "Validation top-1 of the best complete trial")
    found = dict(zip(head, last, strict=True))
    assert (found["Method"], found["Trials"], found["On the front"]) == ("width+merge", "1", "1")


def test_trials_and_the_dense_model_have_their_intervals_where_the_images_are_known(content: SearchContent):
    facts = DENSE.replace(data=DataFacts(content_digest="d", images={"validation": 500}, classes=10))
    text = render_report(dataclasses.replace(content, stored=content.stored.replace(base=facts))).html
    assert f"top-1 {wilson(DENSE.dense_accuracy, 500).percent()} % at" in section(text, "budgets")
    chosen = next(trial.result for trial in content.trials if trial.result.number == 3)
    share = chosen.accuracy or 0.0
    assert f'<td class="number" data-value="{share}">{wilson(share, 500).percent()} %</td>' in section(text, "front")
    assert f"{ACCURACY.spoken(share, 500)} on the validation images" in plain(section(text, "budgets"))
    assert "with intervals at 95 % for its 500 images" in section(text, "front")


def test_the_hypervolume_ends_where_the_whole_front_is(report: str, content: SearchContent):
    steps = hypervolume_steps(content)
    whole = ParetoFront.of(trial.result for trial in content.trials).hypervolume(
        dense_flops=DENSE.front_flops, chance=DENSE.chance
    )
    assert steps[-1].hypervolume == pytest.approx(whole)
    trained = [r for r in make_results() if r.duplicate_of is None]
    assert steps[-1].epochs == sum(result.epochs or 0.0 for result in trained)
    assert all(before.hypervolume <= after.hypervolume + 1e-12 for before, after in itertools.pairwise(steps))
    text = section(report, "progress")
    assert f"{whole:.2%} after {steps[-1].epochs:.4g} epochs" in text
    assert 'role="img"' in text
    *_, last = rows_of(text, "The trials that moved the front")
    assert last[-1] == f"{whole:.2%}"


def test_failures_have_their_reasons_and_what_was_stopped_is_no_failure(report: str):
    text = section(report, "failures")
    rows = {row[0]: row for row in rows_of(text, "Failed trials</span></caption>")[1:]}
    assert rows["8"][2:] == ["failed", "DivergedError: the loss is nan"]
    assert rows["9"][2:] == ["infeasible", "InfeasibleError: needs 9 GB"]
    assert set(rows) == {"8", "9"}
    assert [row[:2] for row in rows_of(text, "Trials that were stopped")[1:]] == [["7", "sit"]]
    assert "(halving), which is no failure" in text


def test_dense_and_slimmed_are_compared_by_class_and_by_image(report: str, content: SearchContent):
    text, config = section(report, "accuracy"), content.models[0].config
    images = config.images["test"]
    wrong = images - round(config.accuracy["test/slimmed"] * images)
    assert (
        f"0 images are right with the slimmed model alone, {wrong} with the dense one alone; {wrong} have different answers"
        in plain(text)
    )
    assert wilson(1.0, images).percent() in text
    head, *rows = rows_of(text, "Classes in which the accuracies differ")
    assert sum(int(row[-1]) for row in rows) == wrong
    assert all(row[3] == wilson(1.0, int(row[1])).percent() for row in rows)
    assert head[2:4] == ["Slimmed, % (95 %)", "Dense, % (95 %)"]
    shown = Page(text).all_of("img")
    assert len(shown) == min(wrong, 12)
    assert all("class class" in (image["alt"] or "") and (image["src"] or "").startswith("data:image/webp") for image in shown)


def test_every_file_has_its_accuracy_and_what_loses_too_much_is_in_bold(report: str, content: SearchContent):
    assert "Exported files" not in section(report, "accuracy")
    (model,), onnx = content.models, FormReport(name="onnx", file="model.onnx", difference=0.0, accuracy=0.9, drop=0.0)
    int8 = onnx.replace(name="onnx-int8", file="model.int8.onnx", accuracy=0.88, drop=2.0)
    judged = dataclasses.replace(model, config=model.config.replace(forms=(onnx, int8)))
    text = section(render_report(dataclasses.replace(content, models=(judged,))).html, "accuracy")
    images = model.config.images["test"]
    assert (
        f"each by its own runtime: {', '.join(f'{form.file} {wilson(form.accuracy, images).percent()} %' for form in (onnx, int8))}."
        in text
    )
    assert "<b>model.int8.onnx loses 2.00 points of top-1 on the test images (allowed: 0.5).</b>" in text
    assert text.count("<b>") == 1


def test_images_that_slimming_lost_come_first():
    changed = [(0, "a", "b", "c"), (1, "a", "a", "b"), (2, "a", "b", "a"), (3, "b", "a", "b")]
    assert [place for place, *_ in telling(changed, 3)] == [2, 3, 1]


def test_a_report_without_images_or_answers_says_why(searched: SearchedFolder, tmp_path: Path):
    copied = tmp_path / "run"
    shutil.copytree(searched.output.root, copied, ignore=shutil.ignore_patterns("cache"))
    output = dataclasses.replace(searched.output, root=copied)
    with searched.store() as store:
        without = read_content(output, store, searched.job.id, cost="")
        assert "cache/ in the output folder does not have the images any more" in render_report(without).html
        (copied / "models" / "50%" / "answers.parquet").unlink()
        (copied / "models" / "50%" / "picture.png").unlink()
        (copied / "environment.json").unlink()
        older = render_report(read_content(output, store, searched.job.id, cost=""))
    assert older.failed == {}
    assert "An earlier version delivered models/50% without its answers" in section(older.html, "accuracy")
    assert "No picture was drawn of this model" in section(older.html, "patches")
    assert "Versions were not recorded" in section(older.html, "repeat")
    assert "there are no device hours" in section(older.html, "cost")


def test_a_model_whose_folder_is_gone_is_named(searched: SearchedFolder, tmp_path: Path):
    output = dataclasses.replace(searched.output, root=tmp_path)
    with searched.store() as store:
        rendered = render_report(read_content(output, store, searched.job.id, cost=""))
    assert rendered.failed == {}
    assert "The model for 50% cannot be read: " in section(rendered.html, "budgets")
    assert "trial 3, whose folder cannot be read" in section(rendered.html, "budgets")


def test_a_model_of_two_budgets_is_shown_once(content: SearchContent):
    (model,) = content.models
    again = dataclasses.replace(model, label="70%")
    rendered = render_report(dataclasses.replace(content, models=(model, again))).html
    for name in ("accuracy", "patches", "blocks"):
        assert section(rendered, name).count("The same model as for 50%, above.") == 1
    assert len(Page(section(rendered, "patches")).all_of("img")) == 1
    longer = model.config.recipe.replace(training=model.config.recipe.training.replace(epochs=99.0))
    tuned = dataclasses.replace(again, config=model.config.replace(recipe=longer))
    assert "The same model as" not in render_report(dataclasses.replace(content, models=(model, tuned))).html


def test_blocks_have_their_tokens_and_widths(report: str, content: SearchContent):
    config = content.models[0].config
    rows = rows_of(section(report, "blocks"), "Blocks of the model for 50%")[1:]
    assert rows == [
        [str(place), str(b.tokens_kv), str(b.tokens_q), str(b.tokens_mlp), f"{b.heads} x {b.head_width}", str(b.hidden)]
        for place, b in enumerate(config.plan.blocks)
    ]
    assert f"first block has {config.shape.tokens} tokens" in section(report, "blocks")


def test_the_picture_of_real_images_is_there_within_its_bound(report: str):
    (picture,) = Page(section(report, "patches")).all_of("img")
    assert (picture["src"] or "").startswith("data:image/webp;base64,")
    assert len(picture["src"] or "") < 300_000 * 4 / 3 + 100
    assert "Test images on their way through the model for 50%" in (picture["alt"] or "")


def test_speed_and_counters_are_the_models(report: str, content: SearchContent):
    flops = content.models[0].config.flops
    (row,) = rows_of(section(report, "speed"), "Milliseconds a batch")[1:]
    assert row == ["50%", "eager, cpu", "1", "8", "4", "250", "2.00 (1.90-2.10)"]
    assert f"50% {flops.dense / flops.fvcore:.2f}" in section(report, "speed")
    counted = dict(rows_of(section(report, "counting"), "Multiply-accumulates of an image")[1:])
    assert counted["plan, closed form"] == counted["fvcore, on the model"] == f"{flops.fvcore:,}"
    assert counted["ONNX graph, from the shapes that ONNX Runtime meets"] == f"{flops.fvcore:,}"
    assert "validation images, at most" not in counted


def test_files_that_were_timed_have_a_table_of_their_own(content: SearchContent):
    assert "Exported file" not in render_report(content).html
    (model,) = content.models
    timed = SpeedReport(
        hardware="a processor", threads=2, timings=(TIMING.replace(mode="onnx-int8"),), left_out={"pt2": "too slow"}
    )
    told = dataclasses.replace(content, models=(dataclasses.replace(model, config=model.config.replace(form_speed=timed)),))
    text = section(render_report(told).html, "speed")
    (row,) = rows_of(text, "Milliseconds a batch, the files run in turns")[1:]
    assert row == ["50%", "onnx-int8, cpu", "1", "8", "4", "250", "2.00 (1.90-2.10)"]
    assert "Not measured: 50%: pt2, because too slow." in plain(text)


def test_cost_says_where_the_time_went(report: str):
    text = section(report, "cost")
    assert "0.1 CPU hours; 0.2 GB" in text
    rows = {row[0]: row[1:] for row in rows_of(text, "Work by kind")[1:]}
    complete = [r for r in make_results() if r.state is TrialState.COMPLETE and r.duplicate_of is None]
    assert rows["trials, complete"] == [
        str(len(complete)),
        f"{3 * len(complete)}",
        format_duration(sum(r.seconds or 0 for r in complete)),
    ]
    assert rows["adapting the dense model"] == ["1", "10", "1m40s"]
    assert rows["shared: vit_slim (layers 2)"] == ["1", "1", "9s"]
    assert rows["handing the models over"] == ["1", "0", "40s"]
    assert "Trials, adapting the dense model, handing the models over: 0.1 CPU hours" in plain(text)
    assert len(rows) >= len(SHARED) + 3


def test_what_every_attempt_does_again_has_one_row(content: SearchContent):
    again = SHARED[-1].replace(key="d", seconds=25.0)
    stored = content.stored.replace(shared=(*content.stored.shared, again))
    text = section(render_report(dataclasses.replace(content, stored=stored)).html, "cost")
    rows = [row for row in rows_of(text, "Work by kind") if row[0] == "handing the models over"]
    assert rows == [["handing the models over", "2", "0", "1m05s"]]


def test_what_is_needed_to_repeat_it_is_what_was_run(report: str, content: SearchContent, searched: SearchedFolder):
    text = plain(section(report, "repeat"))
    asked = yaml.safe_load(request_of(content.stored.job))
    assert asked["flops"] == ["50%", "70%", "3G"]
    assert asked["model"] == "deit_small_patch16_224"
    assert asked["data"] == searched.job.dataset.source
    assert (asked["trials"], "sampler" in asked) == (searched.job.trials, False)
    assert searched.dataset.digest in text
    versions = json.loads(searched.output.environment.read_text())["versions"]
    found = dict(rows_of(section(report, "repeat"), "Versions")[1:])
    assert found == versions
    assert {"python", "autoslim", "torch", "timm", "ray", "optuna", "mlflow", "scikit-learn"} <= set(versions)
    assert "autoslim search job.yaml" in text
    assert "cpu=2,gpu=0" in text


def test_too_few_trials_have_no_importances(report: str):
    assert "8 trials have a score; from 16 on" in section(report, "knobs")
    assert "<table" not in section(report, "knobs")


def test_a_limited_view_keeps_the_front_and_the_chosen_ones(content: SearchContent):
    view = dataclasses.replace(content.view, chosen={"50%": 7})
    kept = {result.number for result in limited(view, 6).results}
    assert len(kept) == 6
    assert {result.number for result in view.front} | {7} <= kept


def test_a_search_for_features_speaks_of_agreement(content: SearchContent):
    (model,) = content.models
    accuracy = {"validation/agreement": 0.94, "test/agreement": 0.93, "test/pooled": 0.95, "test/patches": 0.91}
    accuracy |= {"probe/dense": 0.75, "probe/slimmed": 0.71}
    config = model.config.replace(classes=(), accuracy=accuracy, images={"test": 40, "validation": 30, "probe": 90})
    job = content.stored.job.replace(dataset=DatasetSpec(source="photos", labelled=False))
    base = DENSE.replace(dense_accuracy=DENSE_AGREEMENT, chance=0.0)
    features = dataclasses.replace(
        content, stored=content.stored.replace(job=job, base=base), models=(dataclasses.replace(model, config=config),)
    )
    rendered = render_report(features)
    assert rendered.failed == {}
    text = plain(section(rendered.html, "accuracy"))
    assert "agreement with the dense model is 0.9300" in text
    assert f"slimmed {wilson(0.71, 90).percent()} %, dense {wilson(0.75, 90).percent()} %" in text
    row = rows_of(section(rendered.html, "budgets"), "The model of each budget")[1]
    assert row[-3:] == ["0.9400", "0.9300", "1.0000"]
    for name in ("budgets", "methods", "progress", "knobs", "failures"):
        assert "accura" not in section(rendered.html, name)
        assert "top-1" not in section(rendered.html, name)


def test_several_dense_models_are_named_with_their_methods(content: SearchContent):
    small, tiny = "deit_small_patch16_224", "deit_tiny_patch16_224"
    job = content.stored.job
    base = DENSE.replace(
        starts={small: DENSE, tiny: BaseFacts(dense_flops=1_260_000_000, dense_accuracy=0.902, params=5_700_000, chance=0.1)},
        teacher={tiny: small},
    )
    trials = tuple(
        trial.replace(
            result=trial.result.replace(recipe=trial.result.recipe.replace(model=(small, tiny)[trial.result.number % 2]))
        )
        for trial in content.trials
    )
    stored = content.stored.replace(job=job.replace(more_models=(job.model.replace(name=tiny),)), base=base)
    rendered = render_report(dataclasses.replace(content, stored=stored, trials=trials))
    assert rendered.failed == {}
    assert f"Dense model {tiny}: top-1 90.20 %" in section(rendered.html, "budgets")
    assert f"sit of {tiny}" in [row[0] for row in rows_of(section(rendered.html, "methods"), "Validation top-1")]
    assert yaml.safe_load(request_of(stored.job))["model"] == [small, tiny]


def test_a_job_file_of_a_search_reads_as_the_same_search():
    job = make_job()
    assert parse_yaml(request_of(job), source="job.yaml") == JobSpec.of_job(job)
