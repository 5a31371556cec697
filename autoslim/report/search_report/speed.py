"""How fast the delivered models are beside the dense one, as measured, and what a limit on the latency was held against."""

from __future__ import annotations

from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.markup import paragraph
from autoslim.report.speed_table import draw_form_speeds, draw_speeds
from autoslim.report.text_table import Column, draw_text_table, numbers


def draw_speed(content: SearchContent) -> str:
    speeds = {model.label: model.config.speed for model in content.models if model.config.speed is not None}
    measured = {label: speed for label, speed in speeds.items() if speed.timings}
    forms = {model.label: model.config.form_speed for model in content.models if model.config.form_speed is not None}
    timed = {label: speed for label, speed in forms.items() if speed.timings}
    parts = [draw_speeds(measured), draw_form_speeds(timed), _latencies(content)]
    left_out = [
        f"{label}: {mode}, because {reason}"
        for label, speed in (*speeds.items(), *forms.items())
        for mode, reason in speed.left_out.items()
    ]
    parts += [paragraph(f"Not measured: {'; '.join(left_out)}.")] if left_out else []
    if measured:
        shares = {model.label: model.config.flops.dense / model.config.flops.fvcore for model in content.models}
        by_flops = ", ".join(f"{label} {shares[label]:.2f}" for label in measured)
        parts.append(paragraph(f"By FLOPs alone they would be so many times as fast: {by_flops}."))
    return "\n".join(filter(None, parts)) or paragraph("No speed was measured.")


def _latencies(content: SearchContent) -> str:
    limits = content.stored.job.limits
    rows = []
    for model in content.models:
        latency = model.config.latency
        if latency is None or limits.latency_ms is None:
            continue
        timed = latency.timed
        values = (limits.latency_ms, latency.predicted_ms, timed.ms, timed.median_ms, timed.dense_ms)
        rows.append([model.label, *(f"{value:.4g}" for value in values), f"{timed.device}, {timed.mode}, {timed.hardware}"])
    if not rows:
        return ""
    columns = (
        Column("Budget"),
        *numbers("Allowed", "Predicted", "Measured, lower quartile", "Measured, median", "Dense, lower quartile"),
        Column("Where", "wide"),
    )
    return draw_text_table(f"Latency of a batch of {limits.batch}, ms; the limit is for the lower quartile", columns, rows)
