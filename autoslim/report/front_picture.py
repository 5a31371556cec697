"""The front as one HTML file: the score over FLOPs with every trial, a table of them, the models' speed. It needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from autoslim.core.job import SearchJob
from autoslim.core.result import BaseFacts, TrialResult
from autoslim.report.document import render_document
from autoslim.report.front_parts import describe_dense, draw_front, explain_choice, list_chosen, title_of_search
from autoslim.report.resource import read_resource
from autoslim.report.search_view import SearchView
from autoslim.report.speed_table import draw_speeds, selected_speeds


def render_front(job: SearchJob, base: BaseFacts | None, results: Iterable[TrialResult], chosen: Mapping[str, int]) -> str:
    """`chosen` maps a budget's label to the number of the trial whose model is delivered for it."""
    view = SearchView(job=job, base=base, results=tuple(results), chosen=dict(chosen))
    title, speeds = title_of_search(job), draw_speeds(selected_speeds(job.output, chosen))
    body = f"""<main>
<h1>{escape(title)}</h1>
<p>{escape(describe_dense(view))}</p>
{list_chosen(view)}
{explain_choice(view)}
{draw_front(view)}
{f"<h2>Speed of the selected models</h2>{speeds}" if speeds else ""}
</main>"""
    return render_document(title=title, style=read_resource("front.css"), script=read_resource("front.js"), body=body)
