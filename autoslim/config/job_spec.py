"""`JobSpec`: what a user asks for, without anything that is the operator's to decide (`Placement`)."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from autoslim.config.duration import PATTERN as DURATION
from autoslim.config.duration import parse_duration
from autoslim.config.issues import short_repr
from autoslim.config.placement import Placement
from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits, budget_of_limits, parse_latency, parse_params
from autoslim.core.job import SPEED_MODES, DatasetSpec, ModelSpec, SearchJob
from autoslim.core.recipe import Training

_USUAL = Training()
_BASE_EPOCHS = 10.0

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENTRIES, _CHARACTERS = 64, 256
_LITERAL = {"type": ["boolean", "integer", "number", "string", "null"], "maxLength": _CHARACTERS}
_BUDGET_PATTERN = r"^ *([0-9]+(\.[0-9]*)?|\.[0-9]+) *[KMGTkmgt%]? *$"
_PARAMS_PATTERN = r"^[1-9][0-9]{0,8}(\.[0-9]{1,3})?[KMGkmg]?$"
_LATENCY_PATTERN = r"^[1-9][0-9]{0,5}(\.[0-9]{1,3})?(us|ms|s)(@[1-9][0-9]{0,2})?$"
_MODES_PATTERN = f"^(none|({'|'.join(SPEED_MODES)})(,({'|'.join(SPEED_MODES)}))*)$"


def _no_control(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError(f"is {short_repr(text)}; allowed: no control characters")
    return text


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError(f"is {short_repr(text)}; allowed: 1 to 63 lower-case letters, digits and hyphens, no hyphen at an end")
    return text


def _argument(text: str) -> str:
    if not _ARGUMENT.fullmatch(text):
        raise ValueError(f"has {short_repr(text)}; allowed: names of up to 64 letters, digits and underscores")
    return text


def _argument_value(value: Any) -> Any:
    """A literal, or a list of literals; the bounds keep a spec small."""
    entries = value if isinstance(value, list | tuple) else [value]
    if len(entries) > _ENTRIES or not all(
        entry is None or isinstance(entry, bool | int | float) or (isinstance(entry, str) and len(entry) <= _CHARACTERS)
        for entry in entries
    ):
        raise ValueError(
            f"is {short_repr(value)}; allowed: numbers, true, false, null and texts of up to {_CHARACTERS} characters, "
            f"or a list of up to {_ENTRIES} of them"
        )
    if any(isinstance(entry, float) and not math.isfinite(entry) for entry in entries):
        raise ValueError(f"is {short_repr(value)}; allowed: a finite number")
    return list(value) if isinstance(value, tuple) else value


def _budget(text: str) -> str:
    return Budget.parse(text).label


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _as_list(value: Any) -> Any:
    """One budget may stand without a list around it."""
    return [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def _as_text(value: Any) -> Any:
    """`1300000` and `1.3e6` in YAML are numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if value == int(value) else str(value)


def _params(text: str) -> str:
    return str(parse_params(text))


def _latency(text: str) -> str:
    milliseconds, batch = parse_latency(text)
    latency = CostLimits(latency_ms=milliseconds, batch=batch).latency
    assert latency is not None
    return latency


def _modes(value: Any) -> Any:
    """`none`, and `eager,compiled` as on the command line."""
    if not isinstance(value, str):
        return value
    return [] if value == "none" else value.split(",")


_SOMETHING_SAID: list[JsonValue] = [
    {"required": ["flops"]},
    {"required": ["latency"], "properties": {"latency": {"type": "string"}}},
    {"required": ["params"], "properties": {"params": {"type": ["string", "integer"]}}},
]
"""Something to keep to."""

Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=4096),
    AfterValidator(_no_control),
    Field(json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f]+$"}),
]
Label = Annotated[str, AfterValidator(_label), Field(json_schema_extra={"pattern": f"^{_LABEL.pattern}$"})]
ParamsText = Annotated[
    str,
    BeforeValidator(
        _as_text,
        json_schema_input_type=Annotated[str, Field(pattern=_PARAMS_PATTERN, max_length=24)] | Annotated[int, Field(ge=1)],
    ),
    StringConstraints(max_length=40),
    AfterValidator(_params),
]
LatencyText = Annotated[
    str,
    StringConstraints(max_length=40),
    AfterValidator(_latency),
    Field(json_schema_extra={"pattern": _LATENCY_PATTERN, "maxLength": 24}),
]
BudgetText = Annotated[str, BeforeValidator(_as_text), StringConstraints(max_length=40), AfterValidator(_budget)]
BudgetInput = Annotated[str, Field(pattern=_BUDGET_PATTERN, max_length=40)] | Annotated[int, Field(ge=1)]
ArgumentName = Annotated[str, AfterValidator(_argument), Field(json_schema_extra={"pattern": f"^{_ARGUMENT.pattern}$"})]
ArgumentValue = Annotated[
    Any,
    AfterValidator(_argument_value),
    WithJsonSchema({"anyOf": [_LITERAL, {"type": "array", "items": _LITERAL, "maxItems": _ENTRIES}]}),
]
SpeedMode = Literal["eager", "compiled", "onnxruntime"]


class JobSpec(BaseModel):
    """A request to slim one model to one or more budgets.

    Flags of the command line have the fields' names. The schema of `job.yaml` is this model's JSON Schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        title="autoslim job",
        protected_namespaces=(),
        json_schema_extra={"anyOf": _SOMETHING_SAID},
    )

    schema_version: Literal[1] = Field(default=1, description="Version of this format.")
    name: Label | None = Field(default=None, description="A label to find the job by; need not be unique.")
    model: Text = Field(description="timm name of a ViT or DeiT, or a folder in timm's hub format (with a / in it).")
    weights: Text = Field(
        default="pretrained", description="`pretrained`, `scratch`, or a safetensors or tensors-only torch file."
    )
    model_args: dict[ArgumentName, ArgumentValue] = Field(
        default_factory=dict, max_length=64, description="Arguments of timm.create_model."
    )
    image_size: int | None = Field(default=None, ge=1, description="Square image size in pixels; default the model's own.")
    data: Text = Field(description="Parquet file, folder, or the name of a data set.")
    train_limit: int | None = Field(default=None, ge=1, description="Use only so many training images, stratified.")
    params: ParamsText | None = Field(default=None, description="Most parameters, as 12M; beside the FLOPs, or instead of them.")
    latency: LatencyText | None = Field(
        default=None,
        description="Longest time of a batch, as 5ms@1 (milliseconds at batch 1); beside the FLOPs, or instead of them.",
    )
    latency_mode: SpeedMode | None = Field(
        default=None, description="How a model is run where its latency is limited; default eager."
    )
    flops: Annotated[
        tuple[BudgetText, ...],
        BeforeValidator(
            _as_list, json_schema_input_type=BudgetInput | Annotated[list[BudgetInput], Field(min_length=1, max_length=64)]
        ),
        Field(strict=False),
    ] = Field(
        default=(),
        validate_default=True,
        max_length=64,
        description="Budgets in multiply-accumulates per image, as 2.3G, 850M or 50% of the dense model.",
    )
    space: Text | dict[str, JsonValue] = Field(
        default="default", description="Search space by name or YAML file, or the mapping that such a file holds."
    )
    trials: int | None = Field(
        default=None,
        ge=1,
        description="Recipes that are tried at most; default 24, or 1000 where time, epochs or a plateau end the search.",
    )
    time: Annotated[str, AfterValidator(_duration), Field(pattern=DURATION, max_length=40)] | None = Field(
        default=None, description="Wall time of the trials, as 2h or 90m: no trial begins that would take it further."
    )
    max_epochs: float | None = Field(default=None, gt=0, description="Epochs of all trials together, those of the end included.")
    plateau: int | None = Field(
        default=None, ge=1, description="The search ends when the hypervolume has not grown in so many trials."
    )
    final_share: float = Field(default=0.25, ge=0, le=0.9, description="Share of the compute for tuning the best recipes longer.")
    final_seeds: int = Field(default=1, ge=1, le=100, description="Seeds that each of them is tuned with.")
    price_per_hour: float | None = Field(default=None, ge=0, description="Of one device, a GPU or where there is none a CPU.")
    reuse: Annotated[
        tuple[Text, ...], BeforeValidator(_as_list, json_schema_input_type=Text | list[Text]), Field(strict=False)
    ] = Field(
        default=(),
        max_length=16,
        description="Earlier searches that may answer a budget, and teach the sampler: their folders (with a / in them), their ids in "
        "the same store, or `all` of that store.",
    )
    epochs: float = Field(default=_USUAL.epochs, gt=0, description="Epochs of a trial, the method's own training included.")
    batch_size: int = Field(default=_USUAL.batch_size, ge=1, description="Images a training step.")
    lr: float = Field(default=_USUAL.lr, gt=0, description="Peak learning rate where the space does not search it.")
    augmentation: Literal["none", "light", "strong"] = Field(default="light", description="Of training images.")
    flip: bool | None = Field(default=None, description="Mirror training images; default yes, but not for `digits`.")
    base_epochs: float = Field(
        default=_BASE_EPOCHS, gt=0, description="Epochs of adapting the dense model, where that is needed."
    )
    base_lr: float | None = Field(default=None, gt=0, description="Its peak learning rate; default that of `lr`.")
    sampler: Literal["forest", "tpe", "nsga2", "nsga3", "gp", "random"] = Field(
        default="forest", description="What proposes recipes."
    )
    scheduler: Literal["halving", "median", "none"] = Field(
        default="halving", description="What stops trials early that are behind."
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Of the splits, the recipes and the training.")
    class_query: bool = Field(default=False, description="Compute only the prefix tokens in the last block; same logits.")
    bound: Literal["max", "mean"] = Field(
        default="max",
        description="Where tokens vary from image to image, a budget holds for every image (max) or their mean (mean).",
    )
    speed: Annotated[
        tuple[SpeedMode, ...],
        BeforeValidator(
            _modes,
            json_schema_input_type=Annotated[str, Field(pattern=_MODES_PATTERN)]
            | Annotated[list[SpeedMode], Field(max_length=8)],
        ),
        Field(strict=False),
    ] = Field(
        default=("eager", "compiled", "onnxruntime"),
        max_length=8,
        description="How the speed of what is handed over is measured; `none` for not at all.",
    )
    priority: int = Field(default=5, ge=0, le=9, description="Of queued jobs the one with the highest is begun first.")

    @field_validator("latency_mode")
    @classmethod
    def _mode_of_a_latency(cls, mode: str | None, info: ValidationInfo) -> str | None:
        if mode is not None and info.data.get("latency", "") is None:
            raise ValueError(f"is {short_repr(mode)}, but there is no latency to measure so")
        return mode

    @field_validator("flops")
    @classmethod
    def _something_to_keep_to(cls, flops: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not flops and all(info.data.get(name, "") is None for name in ("latency", "params")):
            raise ValueError("is needed, or latency, or params")
        return flops

    @field_validator("bound")
    @classmethod
    def _bound_of_a_latency(cls, bound: str, info: ValidationInfo) -> str:
        if bound == "mean" and info.data.get("latency") is not None:
            raise ValueError("is 'mean'; beside a latency, which holds for every image, allowed: max")
        return bound

    @property
    def limits(self) -> CostLimits:
        milliseconds, batch = (None, 1) if self.latency is None else parse_latency(self.latency)
        params = None if self.params is None else parse_params(self.params)
        return CostLimits(params=params, latency_ms=milliseconds, batch=batch, mode=self.latency_mode or "eager")

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Without FLOPs, the limits are the budget."""
        return tuple(Budget.parse(text) for text in self.flops) or (budget_of_limits(self.limits),)

    @property
    def most_trials(self) -> int:
        """Where something else ends the search, trials hardly do."""
        return self.trials or (1000 if self.time or self.max_epochs or self.plateau else 24)

    def to_job(self, *, id: str, placement: Placement) -> SearchJob:
        """The search that carries the spec out; nothing is looked up yet."""
        # Mirrored digits are other digits; of a user's own images only the user knows.
        flip = self.flip if self.flip is not None else self.data != "digits"
        training = Training(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, augmentation=self.augmentation, flip=flip)
        return SearchJob(
            id=id,
            model=ModelSpec(
                name=self.model,
                weights=self.weights if self.weights in ("pretrained", "scratch") else str(Path(self.weights).absolute()),
                args=dict(self.model_args),
                image_size=None if self.image_size is None else (self.image_size, self.image_size),
            ),
            dataset=DatasetSpec(source=self.data, train_limit=self.train_limit),
            budgets=self.budgets,
            limits=self.limits,
            space=self.space if isinstance(self.space, str) else json.dumps(self.space, sort_keys=True),
            trials=self.most_trials,
            max_seconds=None if self.time is None else parse_duration(self.time),
            max_epochs=self.max_epochs,
            plateau=self.plateau,
            final_share=self.final_share,
            final_seeds=self.final_seeds,
            price_per_hour=self.price_per_hour,
            reuse=tuple(str(Path(source).absolute()) if "/" in source else source for source in self.reuse),
            training=training,
            base=training.replace(epochs=self.base_epochs, lr=self.base_lr or self.lr, distillation=0.0),
            sampler=self.sampler,
            scheduler=self.scheduler,
            seed=self.seed,
            class_query=self.class_query,
            bound=self.bound,
            speed=tuple(self.speed),
            resources=placement.resources,
            concurrency=placement.concurrency,
            address=placement.address,
            storage=placement.storage,
            tracking_uri=placement.tracking_uri,
            output=placement.output,
        )
