"""What was asked for and what was found: a row for each budget and for the goal, and why each model was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from autoslim.core.accuracy_drop import AccuracyDrop
from autoslim.core.accuracy_goal import AccuracyGoal
from autoslim.core.budget import Budget, format_flops
from autoslim.core.constraints import budget_of_limits
from autoslim.core.score import Score
from autoslim.core.selection import NO_TRIAL, best_within_budgets, cheapest_above
from autoslim.report.answers import read_answers
from autoslim.report.front_parts import describe_dense, explain_choice
from autoslim.report.search_report.content import DeliveredModel, SearchContent
from autoslim.report.search_report.markup import paragraph
from autoslim.report.text_table import Column, draw_text_table, numbers
from autoslim.training.comparison import compare_answers


def draw_budgets(content: SearchContent) -> str:
    job, score = content.stored.job, content.score
    limits = f" Besides: {job.limits.flags}." if job.limits.given else ""
    models = {model.label: model for model in content.models}
    rows = [_budget_row(content, budget, models.get(budget.label)) for budget in job.budgets]
    if job.goal is not None:
        rows.append(_goal_row(content, job.goal, models.get(job.goal.label)))
    validation, test = content.validation_images, next((model.config.images.get("test") for model in content.models), None)
    columns = (
        Column("Budget"),
        Column("Model", "wide"),
        *numbers("Allowed", "FLOPs", "Of the budget", "Parameters"),
        *numbers(f"Validation {score.title}{score.interval_unit(validation)}", f"Test {score.title}{score.interval_unit(test)}"),
        *numbers(f"Dense, test {score.title}{score.interval_unit(test)}"),
    )
    asked = "The model of each budget" + ("" if job.goal is None else " and of the goal")
    table = draw_text_table(f"{asked}; FLOPs are multiply-accumulates per image", columns, rows)
    gone = "".join(
        f'<p class="failed">The model for {escape(label)} cannot be read: {escape(reason)}.</p>'
        for label, reason in content.unreadable.items()
    )
    lost = _lost(content, models)
    return "\n".join(
        [paragraph(describe_dense(content.view) + limits), table, gone, explain_choice(content.view), lost, _note(content)]
    )


def _budget_row(content: SearchContent, budget: Budget, model: DeliveredModel | None) -> list[str]:
    base = content.stored.base
    known = base is not None or budget.flops is not None
    allowed = format_flops(budget.flops_of(0 if base is None else base.dense_flops)) if known else ""
    if model is None:
        is_limits = budget == budget_of_limits(content.stored.job.limits)
        return [budget.label, _missing(content, budget.label), "" if is_limits else allowed, *[""] * 6]
    config = model.config
    return _model_row(model, allowed, f"{config.flops.held / config.flops.budget:.1%}", content.score)


def _goal_row(content: SearchContent, goal: AccuracyGoal, model: DeliveredModel | None) -> list[str]:
    """The goal allows a score; it has no budget of which a part could be used."""
    allowed = f"{content.score.title} {goal.words(content.score)}"
    if model is None:
        return [goal.label, _missed(content, goal), allowed, *[""] * 6]
    return _model_row(model, allowed, "", content.score)


def _model_row(model: DeliveredModel, allowed: str, of_budget: str, score: Score) -> list[str]:
    config = model.config
    validation, test = config.images.get("validation"), config.images.get("test")
    return [
        model.label,
        f"trial {model.trial}: {config.recipe.title}",
        allowed,
        format_flops(config.flops.held),
        of_budget,
        f"{config.params / 1e6:.4g} M",
        score.with_interval(config.score_on("validation"), validation),
        score.with_interval(config.score_on("test"), test),
        score.with_interval(config.dense_score_on("test"), test),
    ]


def _missing(content: SearchContent, label: str) -> str:
    early = _no_model_yet(content, label)
    if early:
        return early
    return f"none: {NO_TRIAL}" if not _any_within(content, label) else "none was delivered"


def _missed(content: SearchContent, goal: AccuracyGoal) -> str:
    base, early = content.stored.base, _no_model_yet(content, goal.label)
    if early or base is None:
        return early or "none: the dense model was not measured"
    # Late: `autoslim slim` has no search, and needs no Optuna.
    from autoslim.search.floor_explanation import why_missed

    job, results = content.stored.job, content.view.results
    if cheapest_above(results, goal.floor(base.dense_accuracy), job.limits) is not None:
        return "none was delivered"
    return f"none: {why_missed(results, goal, base, job.limits, score=content.score)}"


def _no_model_yet(content: SearchContent, label: str) -> str:
    """Empty where the search has ended without a model for the label."""
    if label in content.unreadable:
        return f"trial {content.stored.chosen[label]}, whose folder cannot be read"
    return "" if content.stored.state.ended else "none yet: models are chosen at the end of the search"


def _any_within(content: SearchContent, label: str) -> bool:
    """Whether a complete trial keeps to the budget, so that the search was stopped before its end."""
    base, job = content.stored.base, content.stored.job
    if base is None:
        return False
    budgets = {budget.label: budget.flops_of(base.dense_flops) for budget in job.budgets}
    return label in best_within_budgets(content.view.results, budgets, job.limits)


def _lost(content: SearchContent, models: Mapping[str, DeliveredModel]) -> str:
    """What the goal's model loses on the test images, with its paired interval; nothing without such a model or its answers."""
    goal, base = content.stored.job.goal, content.stored.base
    model = None if goal is None else models.get(goal.label)
    if goal is None or base is None or model is None or not model.config.classes:
        return ""
    answers = read_answers(model.folder)
    if answers is None:
        return ""
    compared = compare_answers(model.config.classes, answers.label_N, answers.dense_N, answers.slimmed_N)
    allowed = base.dense_accuracy - goal.floor(base.dense_accuracy).least
    lost = AccuracyDrop(split="test", images=compared.images, drop=compared.difference, allowed=allowed)
    return paragraph(f"{goal.label}: {lost.describe()}.")


def _note(content: SearchContent) -> str:
    score = content.score
    if not content.models:
        return paragraph("The test images were not used: they are evaluated once, after a model was chosen.")
    return paragraph(
        f"Models are chosen by their {score.name} on the validation images, which flatters the chosen ones. The test images were used "
        "once, after the choice, on the delivered files, read back by a new process in float32."
    )
