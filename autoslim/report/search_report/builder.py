"""The page of a report: its sections one below the other, with a table of contents."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from html import escape

from autoslim.errors import AutoslimError, first_line
from autoslim.report.document import render_document
from autoslim.report.front_parts import title_of_search
from autoslim.report.resource import read_resource
from autoslim.report.search_report import (
    accuracy,
    blocks,
    budgets,
    cost,
    counting,
    failures,
    front,
    knobs,
    methods,
    patches,
    progress,
    repeat,
    speed,
)
from autoslim.report.search_report.content import SearchContent

_log = logging.getLogger(__name__)

Draw = Callable[[SearchContent], str]

SECTIONS: tuple[tuple[str, str, Draw], ...] = (
    ("budgets", "Budgets and their models", budgets.draw_budgets),
    ("front", "The front", front.draw_section),
    ("methods", "Methods and chains", methods.draw_methods),
    ("accuracy", "Dense against slimmed", accuracy.draw_accuracy),
    ("patches", "Patches of real images", patches.draw_patches),
    ("blocks", "Tokens and widths of each block", blocks.draw_blocks),
    ("speed", "Speed", speed.draw_speed),
    ("progress", "Progress over epochs", progress.draw_progress),
    ("knobs", "Which settings mattered", knobs.draw_knobs),
    ("failures", "What failed and why", failures.draw_failures),
    ("cost", "Cost", cost.draw_cost),
    ("counting", "How FLOPs are counted", counting.draw_counting),
    ("repeat", "Repeat it", repeat.draw_repeat),
)
"""Name of the anchor, title, and what draws it: markup with h3 below."""

_ERRORS = (
    AutoslimError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a section that meets data it does not expect may raise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderedReport:
    """`failed` maps the title of each section that could not be drawn to the reason, which stands in its place, too."""

    html: str
    failed: dict[str, str]


def render_report(content: SearchContent) -> RenderedReport:
    """One self-contained page. A section that cannot be drawn is logged with its traceback and costs no other."""
    title, failed, drawn = title_of_search(content.stored.job), {}, []
    for name, heading, draw in SECTIONS:
        try:
            markup = draw(content)
        except _ERRORS as error:
            _log.warning("section %r of the report of job %s could not be drawn", heading, content.stored.job.id, exc_info=error)
            failed[heading] = first_line(error)
            markup = (
                f'<p class="failed">This section could not be drawn: {escape(failed[heading])}. The log has the traceback.</p>'
            )
        drawn.append(
            f'<section id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{heading}</h2>\n{markup}\n</section>'
        )
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in SECTIONS)
    body = f"""<header>
<h1>{escape(title)}</h1>
<p>{escape(_state(content))}</p>
</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{"".join(drawn)}
</main>"""
    # The script belongs to the chart and its table.
    script = "" if "front" in failed else read_resource("front.js")
    style = read_resource("front.css") + read_resource("report.css")
    return RenderedReport(
        html=render_document(title=title, style=style, script=script, body=body, images=True),
        failed=failed,
    )


def _state(content: SearchContent) -> str:
    stored = content.stored
    begun = stored.created_at[:16].replace("T", " ")
    attempts = "" if stored.attempt < 2 else f", in {stored.attempt} attempts"
    error = f" The error: {first_line(AutoslimError(stored.error))}" if stored.error else ""
    return f"A search by autoslim, begun {begun} UTC{attempts}; it is {stored.state.value}.{error}"
