"""What was asked for and what was found: a row a budget, and why each model was chosen."""

from __future__ import annotations

from html import escape

from autoslim.core.budget import format_flops
from autoslim.core.constraints import budget_of_limits
from autoslim.core.selection import NO_TRIAL, best_within_budgets
from autoslim.report.front_parts import describe_dense, explain_choice
from autoslim.report.search_report.content import DeliveredModel, SearchContent
from autoslim.report.search_report.markup import paragraph, score_unit, with_interval
from autoslim.report.text_table import Column, draw_text_table, numbers


def draw_budgets(content: SearchContent) -> str:
    job, score = content.stored.job, content.score
    limits = f" Besides: {job.limits.flags}." if job.limits.given else ""
    models = {model.label: model for model in content.models}
    rows = [_row(content, budget.label, models.get(budget.label)) for budget in job.budgets]
    validation, test = content.validation_images, next((model.config.images.get("test") for model in content.models), None)
    columns = (
        Column("Budget"),
        Column("Model", "wide"),
        *numbers("Allowed", "FLOPs", "Of the budget", "Parameters"),
        *numbers(f"Validation {score.title}{score_unit(score, validation)}", f"Test {score.title}{score_unit(score, test)}"),
        *numbers(f"Dense, test {score.title}{score_unit(score, test)}"),
    )
    table = draw_text_table("The model of each budget; FLOPs are multiply-accumulates per image", columns, rows)
    gone = "".join(
        f'<p class="failed">The model for {escape(label)} cannot be read: {escape(reason)}.</p>'
        for label, reason in content.unreadable.items()
    )
    return "\n".join(
        [paragraph(describe_dense(content.view) + limits), table, gone, explain_choice(content.view), _note(content)]
    )


def _row(content: SearchContent, label: str, model: DeliveredModel | None) -> list[str]:
    base, limits, score = content.stored.base, content.stored.job.limits, content.score
    budget = next(budget for budget in content.stored.job.budgets if budget.label == label)
    known = base is not None or budget.flops is not None
    allowed = format_flops(budget.flops_of(0 if base is None else base.dense_flops)) if known else ""
    if model is None:
        return [label, _missing(content, label), "" if budget == budget_of_limits(limits) else allowed, *[""] * 6]
    config = model.config
    validation, test = config.images.get("validation"), config.images.get("test")
    return [
        label,
        f"trial {model.trial}: {config.recipe.title}",
        allowed,
        format_flops(config.flops.held),
        f"{config.flops.held / config.flops.budget:.1%}",
        f"{config.params / 1e6:.4g} M",
        with_interval(score, config.score_on("validation"), validation),
        with_interval(score, config.score_on("test"), test),
        with_interval(score, config.dense_score_on("test"), test),
    ]


def _missing(content: SearchContent, label: str) -> str:
    if label in content.unreadable:
        return f"trial {content.stored.chosen[label]}, whose folder cannot be read"
    if not content.stored.state.ended:
        return "none yet: models are chosen at the end of the search"
    return f"none: {NO_TRIAL}" if not _any_within(content, label) else "none was delivered"


def _any_within(content: SearchContent, label: str) -> bool:
    """Whether a complete trial keeps to the budget, so that the search was stopped before its end."""
    base, job = content.stored.base, content.stored.job
    if base is None:
        return False
    budgets = {budget.label: budget.flops_of(base.dense_flops) for budget in job.budgets}
    return label in best_within_budgets(content.view.results, budgets, job.limits)


def _note(content: SearchContent) -> str:
    score = content.score
    if not content.models:
        return paragraph("The test images were not used: they are evaluated once, after a model was chosen.")
    return paragraph(
        f"Models are chosen by their {score.name} on the validation images, which flatters the chosen ones. The test images were used "
        "once, after the choice, on the delivered files, read back by a new process in float32."
    )
