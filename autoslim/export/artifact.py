"""A slimmed model on disk, `config.json`, `model.safetensors` and a model card; loading runs no code from the folder.

Loading builds the dense model, builds each step of the recipe into it, and loads the weights strictly. Neither Ray nor Optuna nor
MLflow is needed.
"""

from __future__ import annotations

import dataclasses
import platform
from importlib import metadata
from pathlib import Path

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import nn

from autoslim.core.constraints import CostLimits
from autoslim.core.files import write_atomically
from autoslim.core.forms import MAX_FORM_DROP
from autoslim.core.made_from import MadeFrom
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.core.record import OPTIONAL, Record
from autoslim.core.run_folder import RunFolder
from autoslim.core.score import DENSE_AGREEMENT, Score, score_of
from autoslim.core.shape import ViTShape
from autoslim.core.speed import SpeedReport
from autoslim.errors import WeightsError
from autoslim.methods import METHODS
from autoslim.methods.layers.backbone import as_backbone
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.methods.layers.stored_names import stored_state_dict
from autoslim.models import Architecture, Preprocessing
from autoslim.models.tensor_file import write_tensors

FORMAT = 1
_CONFIG_LIMIT = 16 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlopsReport(Record):
    """Multiply-accumulates per image: the plan's closed form, fvcore's and torch's counts of the model, the dense model's, the budget.

    Where tokens vary from image to image, these counts are an upper bound for every image; `mean` and `max` are those of the validation
    images. Where nothing varies, all are equal. `bound` says which of the two the budget limits, as in `Recipe`.
    """

    predicted: int
    fvcore: int
    torch: int
    dense: int
    budget: int
    budget_label: str
    mean: int | None = None
    max: int | None = None
    bound: str = "max"

    @property
    def held(self) -> int:
        """The count that the budget limits."""
        return self.mean if self.bound == "mean" and self.mean is not None else self.fvcore

    @property
    def varies(self) -> bool:
        """Whether the number of tokens, and with it the count, varies from image to image."""
        return self.mean is not None and self.mean != self.fvcore


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormReport(Record):
    """A form of the model besides its weights, such as `onnx`, in `file`; where the export failed, `file` is empty and `reason` says why.

    `difference` is the largest difference of its logits, or features, from the model's, on real images, in a process without
    autoslim; `flops` are counted in the form itself. `accuracy` is its own top-1 share on all test images in that process, `drop` the
    points of top-1 by which the weights are better on them, `allowed_drop` those that it may lose without being marked. `made` says how
    a form that is rounded was made.
    """

    name: str
    file: str = ""
    reason: str = ""
    difference: float | None = None
    flops: int | None = None
    accuracy: float | None = dataclasses.field(default=None, metadata=OPTIONAL)
    drop: float | None = dataclasses.field(default=None, metadata=OPTIONAL)
    allowed_drop: float = dataclasses.field(default=MAX_FORM_DROP, metadata=OPTIONAL)
    made: str = dataclasses.field(default="", metadata=OPTIONAL)

    @property
    def loses_too_much(self) -> bool:
        """Whether it is handed over with a warning."""
        return self.drop is not None and self.drop > self.allowed_drop

    def describe_loss(self) -> str:
        """The predicate of a sentence about the file of a form that loses too much."""
        return f"loses {self.drop:.2f} points of top-1 on the test images (allowed: {self.allowed_drop:g})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedReport(Record):
    """Milliseconds per batch in the mode `mode`: the lower quartile of the rounds (`ms`) and their median.

    `dense_ms` is the lower quartile of the dense model's rounds, measured in turns with the slimmed one's.
    """

    hardware: str
    device: str
    threads: int
    mode: str
    batch: int
    ms: float
    median_ms: float
    dense_ms: float
    rounds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyReport(Record):
    """The predicted and the measured latency. `correction` is the factor from whole models that the prediction contains.

    `dense_ms` is the dense model's latency in the table.
    """

    predicted_ms: float
    correction: float
    dense_ms: float
    timed: TimedReport

    def describe(self) -> str:
        """One line for the terminal."""
        timed = self.timed
        where = f"CPU, {timed.threads} thread{'' if timed.threads == 1 else 's'}" if timed.device == "cpu" else "GPU"
        return (
            f"{timed.ms:.4g} ms at batch {timed.batch} ({timed.mode}; {self.predicted_ms:.4g} ms were predicted, the dense model takes "
            f"{timed.dense_ms:.4g} ms) on {timed.hardware}, {where}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlimConfig(Record):
    """Everything about a slimmed model but its weights. `recipe` has the knobs after `prune`.

    `limits` are those that were requested besides the FLOPs. `accuracy` maps e.g. `test/slimmed` to a top-1 share. Without classes the
    model returns features, and it maps `test/agreement` to their agreement with the dense model's, `test/pooled` and `test/patches` to
    the cosines that this is the mean of, and `probe/slimmed` and `probe/dense` to k-NN top-1 with a labelled set. `images`
    maps a split to its size. `forms` and `speed` were exported and measured with the model, `latency` only where it is limited, and
    `form_speed`, of the exported files by their forms' names beside the dense model in ONNX Runtime, where others than the
    default ones were asked for. `made_from` is null in folders of earlier versions, and for a model that was taken over from another
    search. `kept_epoch` is the one of the recipe's epochs after which the model is kept, the best by validation score; folders of
    earlier versions have the last.
    """

    format: int
    architecture: Architecture
    shape: ViTShape
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    recipe: Recipe
    plan: Plan
    flops: FlopsReport
    params: int
    accuracy: dict[str, float]
    images: dict[str, int]
    versions: dict[str, str]
    limits: CostLimits = dataclasses.field(default_factory=CostLimits)
    forms: tuple[FormReport, ...] = ()
    speed: SpeedReport | None = None
    latency: LatencyReport | None = None
    made_from: MadeFrom | None = dataclasses.field(default=None, metadata=OPTIONAL)
    form_speed: SpeedReport | None = dataclasses.field(default=None, metadata=OPTIONAL)
    kept_epoch: float | None = dataclasses.field(default=None, metadata=OPTIONAL)

    @property
    def form_accuracy(self) -> dict[str, float]:
        """The top-1 share of each exported file on the test images, by its name."""
        return {form.file: form.accuracy for form in self.forms if form.file and form.accuracy is not None}

    @property
    def marked_forms(self) -> tuple[str, ...]:
        """Of each exported file that loses more than it may, its name and what it loses."""
        return tuple(f"{form.file} {form.describe_loss()}" for form in self.forms if form.loses_too_much)

    @property
    def score(self) -> Score:
        """What the model was chosen by."""
        return score_of(labelled=bool(self.classes))

    def score_on(self, split: str) -> float | None:
        """The slimmed model's score on a split; None before it is measured."""
        return self.accuracy.get(score_key(split, classes=self.classes))

    def dense_score_on(self, split: str) -> float | None:
        """The same of the dense model that it was made from."""
        return self.accuracy.get(f"{split}/dense") if self.classes else DENSE_AGREEMENT

    def build(self) -> nn.Module:
        """The slimmed structure with untrained weights; the caller's random state is unchanged."""
        with torch.random.fork_rng(devices=[]):
            model = self.architecture.build()
            for step in self.recipe.steps:
                model = METHODS[step.method].build(model, self.shape, self.plan, step.knobs)
            if self.recipe.class_query:
                model = class_query_last(model, self.shape.prefix_tokens)
        return model


def score_key(split: str, *, classes: tuple[str, ...]) -> str:
    """Where `SlimConfig.accuracy` has the slimmed model's score on a split."""
    return f"{split}/slimmed" if classes else f"{split}/agreement"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that made the model."""
    packages = ("autoslim", "torch", "timm", "fvcore", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def save(folder: Path, model: nn.Module, config: SlimConfig) -> None:
    """Writes `config.json` and `model.safetensors`; the configuration last, so that an interrupted write is never read as a model."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in stored_state_dict(model).items()}
    write_tensors(folder / "model.safetensors", state)
    write_config(folder, config)


def write_config(folder: Path, config: SlimConfig) -> None:
    write_atomically(folder / "config.json", config.to_json(indent=1))


def load_config(folder: str | Path) -> SlimConfig:
    """The configuration in `folder`. Raises WeightsError where there is none that this version reads, RequestError for a wrong field."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        models = RunFolder(Path(folder)).finished_models()
        if models:
            # What a user has at hand is the search's folder.
            raise WeightsError(
                f"{folder} holds a search and no single model; give one of its models: {', '.join(map(str, models))}"
            )
        raise WeightsError(f"{folder} holds no slimmed model: {path} does not exist")
    if path.stat().st_size > _CONFIG_LIMIT:
        raise WeightsError(f"{path} is larger than {_CONFIG_LIMIT} bytes and was not read")
    text = path.read_text()
    if '"format"' not in text:
        raise WeightsError(f"{path} is not a slimmed model's configuration; a dense model in timm's format is loaded with timm")
    config = SlimConfig.from_json(text)
    if config.format > FORMAT:
        raise WeightsError(f"{path} has format {config.format}; this version of autoslim reads up to {FORMAT}")
    unknown = [step.method for step in config.recipe.steps if step.method not in METHODS]
    if unknown:
        raise WeightsError(f"{path} names the method {unknown[0]!r}; known: {', '.join(METHODS)}")
    if not timm.is_model(config.architecture.name):
        # timm would fetch a name such as hf-hub:… from the network.
        raise WeightsError(f"{path} names the architecture {config.architecture.name!r}, which timm does not have")
    config.plan.check(config.shape)
    return config


def load(folder: str | Path) -> nn.Module:
    """The slimmed model, a plain `nn.Module` in eval mode on the CPU; images (B, 3, height, width) in, logits (B, classes) out, or the
    pooled features (B, D) of a model without classes.

    It has timm's `forward_features` and `forward_intermediates`, which restore the image's whole grid of tokens on request
    (`autoslim.methods.layers.backbone`).

    Raises:
        WeightsError: when the folder holds no slimmed model, or weights that do not fit it.
    """
    return as_backbone(load_trained(folder).eval())


def load_trained(folder: str | Path) -> nn.Module:
    """As `load`, but as it was trained, to be trained further: without the methods of a backbone."""
    config = load_config(folder)
    try:
        model = config.build()
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError) as error:
        raise WeightsError(f"the model that {folder} describes cannot be built: {error}") from error
    try:
        model.load_state_dict(safetensors.torch.load_file(Path(folder) / "model.safetensors"), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise WeightsError(f"weights in {folder} cannot be loaded: {error}") from error
    return model
