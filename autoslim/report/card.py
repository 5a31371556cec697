"""The model card: what the model is, what it costs and how accurate it is, as measured."""

from __future__ import annotations

from autoslim.core.budget import format_flops
from autoslim.core.constraints import format_params
from autoslim.core.figures import format_epochs
from autoslim.core.score import ACCURACY
from autoslim.data.decode import storage_size
from autoslim.export.artifact import SlimConfig
from autoslim.report.card_forms import forms_section
from autoslim.report.card_speed import latency_section, speed_section
from autoslim.report.picture import PAGE, PNG
from autoslim.training.knn import NEIGHBOURS


def render_card(
    config: SlimConfig,
    *,
    job: str | None,
    trial: int | None,
    source: str,
    report: str,
    has_pictures: bool = False,
    reason: str = "",
) -> str:
    """Markdown. `job` and `trial` are None for a model made without a search; `source` is the data set, `report` how it was split and
    what could not be read; `reason` says why a search selected this one; with `has_pictures` the card shows them.
    """
    return f"""# {config.architecture.name}, slimmed to {config.flops.budget_label}

{_cost(config)}
{_granularity(config)}{_spread(config)}{_score_table(config)}

{_choice(config, trial, reason)} Test
scores are those of these files, read back by a new process, in float32.
{_pictures(has_pictures)}
{_loading(config)}

{forms_section(config)}{speed_section(config)}{latency_section(config)}## How it was made

{_maker(config, job, trial)}, seed {config.recipe.seed}, {_epochs(config)}, learning rate
{config.recipe.training.lr:.3g}.

{_steps(config)}

Data: {source}. {report}

{_block_table(config)}

{_counters(config)}

{config.params:,} parameters. Made with {", ".join(f"{name} {version}" for name, version in config.versions.items())}.
"""


def _score_table(config: SlimConfig) -> str:
    height, width = config.shape.image_size
    score, title, images = config.score, config.score.title, config.images
    interval = "; 95 % intervals" if score.is_share else ""
    rows = "\n".join(
        f"| {name} | {score.with_interval(on('test') or 0.0, images['test'])} | "
        f"{score.with_interval(on('validation') or 0.0, images['validation'])} | {format_flops(count)} |"
        for name, on, count in (
            ("dense", config.dense_score_on, config.flops.dense),
            ("slimmed", config.score_on, config.flops.held),
        )
    )
    unit = ", %" if score.is_share else ""
    return f"""Multiply-accumulates per image of {height}x{width} pixels, as papers and fvcore count{interval}.

| model | {title}, test{unit} ({images["test"]:,} images) | {title}, validation{unit} ({images["validation"]:,} images) | FLOPs |
|---|---|---|---|
{rows}{_features(config)}"""


def _features(config: SlimConfig) -> str:
    """What the agreement of a model of features is made of, and k-NN top-1, where a labelled set was given."""
    if config.classes:
        return ""
    text = f"""

The agreement is the mean of two cosines with the dense model's features, each over the {config.images["test"]:,} test images: pooled
{config.accuracy["test/pooled"]:.4f}, patches at their places {config.accuracy["test/patches"]:.4f}. No labels were read."""
    if "probe/slimmed" not in config.accuracy:
        return text
    return f"""{text}

| model | k-NN top-1 of the pooled features, % (95 %; {NEIGHBOURS} neighbours, {config.images["probe"]:,} images of a labelled set) |
|---|---|
| dense | {ACCURACY.with_interval(config.accuracy["probe/dense"], config.images["probe"])} |
| slimmed | {ACCURACY.with_interval(config.accuracy["probe/slimmed"], config.images["probe"])} |"""


def _loading(config: SlimConfig) -> str:
    height, width = config.shape.image_size
    covered = storage_size((height, width), config.preprocessing.crop_pct)
    return f"""## How it is loaded

```python
import autoslim

model = autoslim.load("path/to/this/folder")  # a plain nn.Module in eval mode; no Ray, Optuna or MLflow needed
```

Images: RGB, resized until they just cover {covered[0]}x{covered[1]} px (bicubic, antialiased), centre crop {height}x{width},
scaled to 0..1, mean {list(config.preprocessing.mean)}, std {list(config.preprocessing.std)}. {_outputs(config)}"""


def _outputs(config: SlimConfig) -> str:
    if config.classes:
        return "Classes are in\n`config.json`, in the order of the logits."
    return f"""`model(images)` is
the pooled features (B, {config.shape.dim}); `model.forward_features(images, restore_tokens=True)` all tokens
(B, {config.shape.tokens}, {config.shape.dim}), {config.shape.prefix_tokens} prefix first, dropped or merged ones filled;
`model.forward_intermediates(images)` feature maps."""


def _steps(config: SlimConfig) -> str:
    return "\n".join(
        f"- **{step.method}**: " + ", ".join(f"`{name}` {value}" for name, value in step.knobs.items())
        for step in config.recipe.steps
    )


def _block_table(config: SlimConfig) -> str:
    rows = "\n".join(
        f"| {i} | {b.tokens_kv} | {b.heads} x {b.head_width} | {b.hidden} |" for i, b in enumerate(config.plan.blocks)
    )
    return f"""| block | tokens | heads x width | hidden units |
|---|---|---|---|
{rows}"""


def _counters(config: SlimConfig) -> str:
    flops = config.flops
    return f"""## How the FLOPs were counted

| counter | multiply-accumulates |
|---|---|
| plan, closed form | {flops.predicted:,} |
| fvcore, on this model | {flops.fvcore:,} |
| torch, on this model (without norms) | {flops.torch:,} |
{_counted_graph(config)}{_counted_images(config)}| {"dense model" if _limits_alone(config) else "budget"} | {flops.budget:,} |"""


def _counted_graph(config: SlimConfig) -> str:
    counted = [form.flops for form in config.forms if form.flops is not None]
    if not counted:
        return ""
    why = "the exporter has rewritten a part" if config.classes else "it also restores the tokens to the whole grid"
    differs = "" if counted[0] == config.flops.fvcore else f" (differs from fvcore's: {why})"
    return f"| ONNX graph, from the shapes that ONNX Runtime meets{differs} | {counted[0]:,} |\n"


def _choice(config: SlimConfig, trial: int | None, reason: str) -> str:
    if trial is None:
        return "No other model was made to choose from; the test images were used once, after the training."
    why = f"\n{reason[:1].upper()}{reason[1:]}." if reason else ""
    chosen = f"The slimmed model was chosen by its {config.score.name} on the validation images"
    return f"{chosen}; the test images were used once, after the choice.{why}"


def _maker(config: SlimConfig, job: str | None, trial: int | None) -> str:
    if trial is None:
        return "By `autoslim slim`, without a search"
    # The label, where the search had several dense models.
    start = f", from its dense model `{config.recipe.model}`" if config.recipe.model else ""
    return f"Job `{job}`, trial {trial}{start}"


def _epochs(config: SlimConfig) -> str:
    text = f"{config.recipe.training.epochs:g} epochs in all"
    if config.kept_epoch is None:
        return text
    return f"{text} (kept after {format_epochs(config.kept_epoch)}, best on the validation images)"


def _pictures(has_pictures: bool) -> str:
    if not has_pictures:
        return ""
    return f"""
![Which patches of test images survive to which block, and each block's widths]({PNG})

The same with its numbers: [{PAGE}]({PAGE}).
"""


def _cost(config: SlimConfig) -> str:
    """Of the dense model's FLOPs, of the budget and of every limit."""
    flops, limits = config.flops, config.limits
    text = f"{flops.held / flops.dense:.1%} of the dense model's FLOPs"
    if not _limits_alone(config):
        text += f", within the budget of {format_flops(flops.budget)} of which it uses {flops.held / flops.budget:.2%}"
    text += "."
    if limits.params is not None:
        share, allowed = config.params / limits.params, format_params(limits.params)
        text += f"\n{config.params:,} parameters, {share:.2%} of the limit of {allowed}."
    latency = config.latency
    if limits.latency_ms is not None and latency is not None:
        timed = latency.timed
        text += (
            f"\n{timed.ms:.4g} ms at batch {timed.batch} ({timed.mode}), {timed.ms / limits.latency_ms:.2%} of the "
            f"{limits.latency_ms:g} ms of the limit; the dense model takes {timed.dense_ms:.4g} ms."
        )
    return text


def _limits_alone(config: SlimConfig) -> bool:
    """Whether no FLOPs budget was requested."""
    return config.limits.given and config.flops.budget_label == config.limits.label


def _granularity(config: SlimConfig) -> str:
    """Why a part of the budget is not used, where it is more than rounding."""
    if _limits_alone(config) or any(share > config.flops.held / config.flops.budget for share in _limits_filled(config)):
        return ""
    if config.flops.held >= 0.995 * config.flops.budget or config.flops.bound == "mean":
        return ""
    if config.recipe.budget != config.flops.budget:
        solved = format_flops(config.recipe.budget)
        return f"Its recipe was solved for a budget of {solved}: no trial that uses more of the budget has a higher {config.score.name}.\n"
    return "The next larger model of this recipe, one token or one width unit more in a block, is above the budget.\n"


def _limits_filled(config: SlimConfig) -> list[float]:
    """Which another limit keeps from filling the budget."""
    limits, shares = config.limits, []
    if limits.params is not None:
        shares.append(config.params / limits.params)
    if limits.latency_ms is not None and config.latency is not None:
        shares.append(config.latency.predicted_ms / limits.latency_ms)
    return shares


def _spread(config: SlimConfig) -> str:
    flops = config.flops
    if not flops.varies or flops.mean is None or flops.max is None:
        return ""
    bound = "The budget is for their mean." if flops.bound == "mean" else "The budget holds for every image."
    return (
        f"An image keeps as many tokens as it needs: those of the validation images take {format_flops(flops.mean)} on average and "
        f"{format_flops(flops.max)} at most, and no image can take more than {format_flops(flops.fvcore)}. {bound}\n"
    )


def _counted_images(config: SlimConfig) -> str:
    if not config.flops.varies:
        return ""
    flops = config.flops
    return f"| validation images, on average | {flops.mean:,} |\n| validation images, at most | {flops.max:,} |\n"
