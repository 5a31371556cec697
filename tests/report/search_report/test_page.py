"""The page as a whole: well-formed, self-contained, readable by everybody, and bounded in size."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
from helpers.html_page import Page, section
from helpers.sample_search import DENSE, make_job, make_recipe, make_result

from autoslim.core.recipe import Step
from autoslim.core.result import TrialState
from autoslim.report.resource import read_resource
from autoslim.report.search_report import builder, render_report
from autoslim.report.search_report.content import SearchContent
from autoslim.store import JobState, StoredJob, StoredTrial

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
MOMENT = "2026-01-01T00:00:00+00:00"


def trials_of(*results):
    return tuple(StoredTrial(result=r, target="50%", attempt=1, started_at=MOMENT, ended_at=MOMENT) for r in results)


def test_it_has_every_section_once_and_a_link_to_each(report):
    page = Page(report)
    names = [name for name, _, _ in builder.SECTIONS]
    assert [attributes["id"] for attributes in page.all_of("section")] == names
    assert [attributes["href"] for attributes in page.all_of("a")] == [f"#{name}" for name in names]
    assert page.texts["h2"] == [title for _, title, _ in builder.SECTIONS]


def test_it_is_well_formed_and_ids_are_unique(report):
    page = Page(report)
    assert page.mistakes == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert set(labelled) <= set(ids)


def test_headings_go_down_one_level_at_a_time(report):
    levels = [int(tag[1]) for tag, _ in Page(report).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_pictures_have_texts_and_tables_have_heads(report):
    page = Page(report)
    images = page.all_of("img")
    assert images
    assert all((image["alt"] or "").strip() for image in images)
    assert all(image["width"] and image["height"] for image in images)
    assert {head.get("scope") for head in page.all_of("th")} == {"col", "row"}
    assert all(svg.get("aria-hidden") == "true" or svg.get("aria-label") for svg in page.all_of("svg"))
    scrolled = [attributes for attributes in page.of_class("scroll") if attributes.get("role")]
    assert scrolled
    assert all((region["role"], region["tabindex"]) == ("region", "0") and region["aria-label"] for region in scrolled)


def test_it_asks_nothing_of_a_network_and_runs_only_its_own_script(report):
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttp|WebSocket", report)
    sources = re.findall(r"\b(?:src|href|action|srcset|poster)\s*=\s*\"(.{0,12})", report)
    assert sources
    assert all(source.startswith(("#", "data:image/")) for source in sources)
    (policy,) = [meta["content"] or "" for meta in Page(report).all_of("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not [
        name for _, attributes in Page(report).elements for name in attributes if name == "style" or name.startswith("on")
    ]


def test_hostile_names_stay_text(content: SearchContent):
    step = Step(method=HOSTILE, knobs={HOSTILE: HOSTILE, "list": [HOSTILE]})
    results = [
        make_result(0, recipe=make_recipe(0).replace(steps=(step,))),
        make_result(1, TrialState.FAILED, error=HOSTILE, error_class=HOSTILE),
        make_result(2, TrialState.STOPPED, accuracy=0.5, flops=10**9, epochs=1.0, stopped=HOSTILE),
    ]
    (model,) = content.models
    config = model.config.replace(classes=tuple(f"{HOSTILE} {number}" for number in range(10)))
    job = content.stored.job.replace(id=HOSTILE, budgets=(content.stored.job.budgets[0].replace(label=HOSTILE),))
    wild = replace(
        content,
        stored=content.stored.replace(job=job, chosen={HOSTILE: 0}, error=HOSTILE, state=JobState.FAILED),
        trials=trials_of(*results),
        models=(replace(model, label=HOSTILE, config=config),),
        unreadable={HOSTILE: HOSTILE},
        cost=HOSTILE,
    )
    rendered = render_report(wild)
    page = Page(rendered.html)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all((image["src"] or "").startswith("data:") for image in page.all_of("img"))
    assert page.mistakes == []


def test_passwords_are_not_shown(content: SearchContent):
    secret = "s3://me:secret@bucket/x"
    job = content.stored.job
    job = job.replace(dataset=job.dataset.replace(source=secret))
    failed = make_result(1, TrialState.FAILED, error=f"{secret} is gone", error_class="DatasetError")
    wild = replace(content, stored=content.stored.replace(job=job), trials=trials_of(failed))
    assert "secret" not in render_report(wild).html


@pytest.mark.slow
def test_it_stays_below_five_megabytes_with_thousands_of_trials_and_long_errors(content: SearchContent):
    failed = [make_result(number, TrialState.FAILED, error="x" * 5000, error_class="DivergedError") for number in range(900)]
    done = [make_result(number % 40).replace(number=900 + number) for number in range(300)]
    many = tuple(replace(content.models[0], label=f"{number}%") for number in range(9))
    labels = {model.label: 900 for model in many}
    large = replace(
        content, trials=trials_of(*failed, *done), models=many, stored=content.stored.replace(chosen=labels)
    )  # fmt: skip
    rendered = render_report(large)
    assert rendered.failed == {}
    assert len(rendered.html.encode()) < 5_000_000
    assert "Of 1200 trials the 1000 most accurate are shown; front.html has all." in section(rendered.html, "front")


def test_a_section_that_cannot_be_drawn_says_so_and_costs_no_other(content: SearchContent, caplog):
    broken = replace(content, models=(replace(content.models[0], config=content.models[0].config.replace(accuracy={})),))
    rendered = render_report(broken)
    assert list(rendered.failed) == ["Dense against slimmed"]
    assert "This section could not be drawn: KeyError: &#x27;test/slimmed&#x27;" in section(rendered.html, "accuracy")
    assert "Dense against slimmed" in caplog.text
    assert "Traceback" in caplog.text
    assert 'class="trials"' in section(rendered.html, "front")


@pytest.mark.parametrize("state", [JobState.STOPPED, JobState.FAILED, JobState.RUNNING])
def test_a_search_that_has_not_come_to_its_end_has_a_report(content: SearchContent, state: JobState):
    stored = content.stored.replace(state=state, chosen={}, error="the disk is full" if state is JobState.FAILED else None)
    rendered = render_report(replace(content, stored=stored, models=()))
    assert rendered.failed == {}
    assert f"it is {state.value}." in rendered.html
    assert ("The error: the disk is full" in rendered.html) == (state is JobState.FAILED)


def test_a_search_without_a_measured_model_or_a_trial_has_a_report(content: SearchContent):
    stored = StoredJob(
        job=make_job(), uid="u", state=JobState.RUNNING, attempt=1, created_at=MOMENT, updated_at=MOMENT, base=None
    )  # fmt: skip
    empty = replace(content, stored=stored, trials=(), models=(), environment=None, dataset=None, cost="")
    rendered = render_report(empty)
    assert rendered.failed == {}
    assert "The dense model has not been measured yet" in rendered.html
    assert "No trial has begun yet." in section(rendered.html, "methods")


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """WCAG 2.2's, from 1 to 21."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_contrast_in_both_schemes(scheme: str):
    light, dark = re.findall(r":root \{(.*?)\}", read_resource("front.css"), flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))
    assert len(colours) == 15
    for text in ("ink", "soft", "budget", "c0"):
        for ground in ("paper", "panel"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for mark in (*(f"c{number}" for number in range(8)), "front"):
        assert contrast(colours[mark], colours["paper"]) >= 3, mark
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


def test_the_dense_model_is_the_searchs(report: str):
    assert f"top-1 {100 * DENSE.dense_accuracy:.2f} %" in section(report, "budgets")
