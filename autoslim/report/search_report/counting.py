"""How the FLOPs of the report are counted, and that independent counters agree on them."""

from __future__ import annotations

from autoslim.export.artifact import SlimConfig
from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.markup import paragraph
from autoslim.report.text_table import Column, draw_text_table, numbers

_WHAT = (
    "FLOPs are multiply-accumulates per image, as the papers of vision transformers and fvcore count them: a matrix product of (n, k) "
    "and (k, m) has n x k x m. Tools that count multiplications and additions apart say twice as much. Counted are the patch projection, "
    "linear layers, both products of attention, the classifier, LayerNorm at 5 per element, and what a method adds; not softmax, "
    "activations, biases and residual sums."
)
_HOW = (
    "A recipe is solved onto its budget by the plan's closed form, before anything is trained. The trained model is counted by fvcore, "
    "which has to find the same number, and by torch's counter, which sees matrix products alone and may differ by 0.6 %. A trial whose "
    "counters disagree, or whose count is above the budget, fails."
)
_VARYING = (
    "Where the number of tokens differs from image to image, these counts are what no image can exceed; the mean and the maximum are "
    "those of the validation images."
)


def draw_counting(content: SearchContent) -> str:
    parts = [paragraph(_WHAT), paragraph(_HOW)]
    if content.models:
        columns = (Column("Counter"), *numbers(*(model.label for model in content.models)))
        parts.append(draw_text_table("Multiply-accumulates of an image, by budget", columns, _rows(content)))
    if any(model.config.flops.varies for model in content.models):
        parts.append(paragraph(_VARYING))
    return "\n".join(parts)


def _rows(content: SearchContent) -> list[list[str]]:
    configs = [model.config for model in content.models]
    rows: dict[str, list[int | None]] = {
        "plan, closed form": [config.flops.predicted for config in configs],
        "fvcore, on the model": [config.flops.fvcore for config in configs],
        "torch, on the model, without norms": [config.flops.torch for config in configs],
        "ONNX graph, from the shapes that ONNX Runtime meets": [_onnx(config) for config in configs],
        "validation images, on average": [config.flops.mean if config.flops.varies else None for config in configs],
        "validation images, at most": [config.flops.max if config.flops.varies else None for config in configs],
        "allowed": [config.flops.budget for config in configs],
        "dense model": [config.flops.dense for config in configs],
    }
    return [
        [name, *("" if count is None else f"{count:,}" for count in counts)]
        for name, counts in rows.items()
        if any(count is not None for count in counts)
    ]


def _onnx(config: SlimConfig) -> int | None:
    return next((form.flops for form in config.forms if form.flops is not None), None)
