"""The model card: what the model is, what it costs and how well it does, in the words of what was measured."""

from __future__ import annotations

from autoslim.artifact import SlimConfig
from autoslim.budget import format_flops


def render_card(config: SlimConfig, *, job: str, trial: int, source: str, report: str) -> str:
    """Markdown. `source` is the data set, `report` how it was split and what could not be read."""
    flops, share = config.flops, config.flops.fvcore / config.flops.dense
    filled = flops.fvcore / flops.budget
    size = config.shape.image_size
    rows = "\n".join(
        f"| {name} | {config.accuracy[f'test/{name}']:.2%} | {config.accuracy[f'validation/{name}']:.2%} | {format_flops(count)} |"
        for name, count in (("dense", flops.dense), ("slimmed", flops.fvcore))
    )
    steps = "\n".join(
        f"- **{step.method}**: " + ", ".join(f"`{name}` {value}" for name, value in step.knobs.items())
        for step in config.recipe.steps
    )
    blocks = "\n".join(
        f"| {i} | {b.tokens_kv} | {b.heads} x {b.head_width} | {b.hidden} |" for i, b in enumerate(config.plan.blocks)
    )
    return f"""# {config.architecture.name}, slimmed to {flops.budget_label}

{share:.1%} of the dense model's FLOPs, within the budget of {format_flops(flops.budget)} and filling {filled:.2%} of it.
{_granularity(config)}Multiply-accumulates per image of {size[0]}x{size[1]} pixels, as papers and fvcore count.

| model | top-1, test ({config.images["test"]} images) | top-1, validation ({config.images["validation"]} images) | FLOPs |
|---|---|---|---|
{rows}

The slimmed model was chosen by the validation images; the test images were looked at once, after the choice. Test
accuracies are those of these files, read back by a new process, in float32.

## How it is loaded

```python
import autoslim

model = autoslim.load("path/to/this/folder")  # a plain nn.Module in eval mode; no Ray, Optuna or MLflow needed
```

Images: RGB, shorter side to {round(size[0] / config.preprocessing.crop_pct)} px (bicubic), centre crop {size[0]}x{size[1]},
scaled to 0..1, mean {list(config.preprocessing.mean)}, std {list(config.preprocessing.std)}. Classes are in
`config.json`, in the order of the logits.

## How it was made

Job `{job}`, trial {trial}, seed {config.recipe.seed}, {config.recipe.training.epochs:g} epochs in all, learning rate
{config.recipe.training.lr:.3g}.

{steps}

Data: {source}. {report}

| block | tokens | heads x width | hidden units |
|---|---|---|---|
{blocks}

## How the FLOPs were counted

| counter | multiply-accumulates |
|---|---|
| plan, closed form | {flops.predicted:,} |
| fvcore, on this model | {flops.fvcore:,} |
| torch, on this model (without norms) | {flops.torch:,} |
| budget | {flops.budget:,} |

{config.params:,} parameters. Made with {", ".join(f"{name} {version}" for name, version in config.versions.items())}.
"""


def _granularity(config: SlimConfig) -> str:
    """What is left of the budget is less than one token or one unit costs; said where it shows."""
    if config.flops.fvcore >= 0.995 * config.flops.budget:
        return ""
    if config.recipe.budget != config.flops.budget:
        return "No trial solved onto this budget was completed; this is the best of the cheaper ones.\n"
    return "The next larger model of this recipe, one token or one width unit more in a block, is above the budget.\n"
