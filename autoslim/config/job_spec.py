"""`JobSpec`: the request of a user, one field per setting.

To add a setting, add a field here, and to `SearchJob` the attribute that its use reads. Everything else is made from the field: see
`setting`. What the operator decides is in `Placement`.
"""

from __future__ import annotations

import functools
import re
import secrets
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, field_validator

from autoslim.config import dense_models, job_checks, job_fields
from autoslim.config.dense_models import Models, Weights, model_specs
from autoslim.config.job_field import JobField, default_at
from autoslim.config.mapping import job_of, part_of, spec_of_job
from autoslim.config.pairs import parse_pairs
from autoslim.config.placement import Placement
from autoslim.config.setting import Commands, Group, Rules, Shortcut, setting
from autoslim.config.value_types import (
    AccuracyText,
    ArgumentName,
    ArgumentValue,
    Budgets,
    ByteSize,
    Duration,
    FormNames,
    ImageSize,
    Label,
    LatencyText,
    ParamsText,
    PathOrUri,
    SpeedModes,
    Text,
    Texts,
    UnreadableShare,
    WebhookUrl,
)
from autoslim.core.accuracy_goal import AccuracyGoal, parse_least
from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits, budget_of_limits
from autoslim.core.job import DatasetSpec, ModelSpec, PriorName, PrunerName, SamplerName, SearchJob, SpeedMode
from autoslim.core.recipe import Augmentation, Bound, PrecisionName
from autoslim.core.score import Objective

_TRIALS = int(default_at("trials"))
_UNLIMITED_TRIALS = 1000
"""Where time, epochs or a plateau end a search, the number of trials only guards against a search that never ends."""

_AT_LEAST_ONE_LIMIT: list[JsonValue] = [
    {"required": ["flops"]},
    {"required": ["latency"], "properties": {"latency": {"type": "string"}}},
    {"required": ["params"], "properties": {"params": {"type": ["string", "integer"]}}},
    {"required": ["max_drop"], "properties": {"max_drop": {"type": "number"}}},
    {"required": ["min_accuracy"], "properties": {"min_accuracy": {"type": ["string", "number"]}}},
]
"""At least one limit has to be given."""

_MODEL = functools.partial(Rules, group=Group.MODEL, commands=Commands.SLIM)
_DATA = functools.partial(Rules, group=Group.DATA, commands=Commands.SLIM)
_BUDGET = functools.partial(Rules, group=Group.BUDGET, commands=Commands.SLIM)
_GOAL = functools.partial(Rules, group=Group.BUDGET)
_SEARCH = functools.partial(Rules, group=Group.SEARCH)
_END = functools.partial(Rules, group=Group.SEARCH, resumable=True)
_TRAINING = functools.partial(Rules, group=Group.TRAINING, commands=Commands.SLIM, decides_plan=False)


class JobSpec(BaseModel):
    # Strict: a YAML `trials: "3"` or `flip: 1` is a mistake that pydantic would otherwise convert silently.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        title="autoslim job",
        protected_namespaces=(),
        json_schema_extra={"anyOf": _AT_LEAST_ONE_LIMIT},
    )
    job_type: ClassVar[type[SearchJob]] = SearchJob

    schema_version: Literal[1] = setting(
        "Version of this format.", Rules(group=Group.JOB, commands=Commands.NONE, resumable=True, decides_plan=False), default=1
    )
    model: Models = setting(
        "timm name of a ViT or DeiT, or a folder in timm's hub format (with a / in it, or its URI). A search may start from several.",
        _MODEL(
            job=(dense_models.NAME, dense_models.MORE), example="deit_small_patch16_224", flag_type=list[str], one_a_line=True
        ),
    )
    weights: Weights = setting(
        "`pretrained`, `scratch` (random), or a safetensors or tensors-only torch file, also at a URI (`s3://`, `gs://`, `az://`, `hf://`, "
        "`file://`): one for all models, or one for each.",
        _MODEL(
            job=(dense_models.WEIGHTS, dense_models.MORE),
            decides_plan=False,
            flag_type=list[str],
            one_a_line=True,
            shortcuts=(Shortcut(name="from_scratch", value="scratch", help="Short for --weights scratch."),),
        ),
    )
    model_args: dict[ArgumentName, ArgumentValue] = setting(
        "Arguments of timm.create_model, for all models.",
        _MODEL(job=(job_fields.MODEL_ARGS, dense_models.MORE), flag_help="Example: depth=6,img_size=(48,32).", parse=parse_pairs),
        max_length=64,
    )
    image_size: ImageSize | None = setting(
        "Side of the square images, in pixels, or their height and width, such as 48x32, for all models.",
        _MODEL(job=(job_fields.IMAGE_SIZE, dense_models.MORE), shown_default="the model's own"),
    )
    teacher: PathOrUri | None = setting(
        "Dense model whose soft labels the trials learn from: a timm name, a folder in timm's hub format (with a / in it), or a file with "
        "weights of the first model; the last two also at a URI.",
        _MODEL(job=(dense_models.TEACHER,), shown_default="the most accurate of the models"),
    )
    data: PathOrUri = setting(
        "File (Parquet, WebDataset tar, CSV or JSON lines of paths), folder (ImageFolder, Parquet splits, tars, `save_to_disk`), the URI "
        "of one (`s3://`, `gs://`, `az://`, `hf://`, `file://`), or the name of a data set, such as `digits`.",
        _DATA(job=(JobField("dataset.source"),), example="./flowers"),
    )
    objective: Objective = setting(
        "What a slimmed model is trained and judged by: the labels of `data`, or the dense model's features, which need no labels.",
        _DATA(job=(job_fields.OBJECTIVE,)),
        default="labels",
    )
    probe: PathOrUri | None = setting(
        "With `objective: features`, a labelled data set for k-NN top-1 of the dense and the slimmed features at the end.",
        Rules(group=Group.DATA, commands=Commands.SLIM, job=(JobField("probe"),), resumable=True),
    )
    data_config: Text | None = setting(
        "Configuration of a data set that has several: the name of its folder.",
        _DATA(job=(JobField("dataset.config"),), shown_default="the only one"),
    )
    image_column: Text | None = setting(
        "Column of the images.",
        _DATA(job=(JobField("dataset.image_column"),), shown_default="`image`, or the only one that may be it"),
    )
    label_column: Text | None = setting(
        "Column of the classes.",
        _DATA(job=(JobField("dataset.label_column"),), shown_default="`label`, or the only one that may be it"),
    )
    token_labels: PathOrUri | None = setting(
        "Labels of the training images' patches, with which the dense model is trained: a folder in TokenLabeling's layout (with a / in "
        "it, or its URI), or a column of Parquet files.",
        _DATA(job=(JobField("dataset.token_labels"),)),
    )
    train_limit: int | None = setting(
        "Use at most this many training images, stratified by class.",
        _DATA(job=(JobField("dataset.train_limit"),), shown_default="all"),
        ge=1,
    )
    decoded_limit: ByteSize | None = setting(
        "Most bytes of decoded images that are kept for all trials, such as 500M or 16G, in units of 1,024. Of larger sets the images are "
        "decoded each time they are read, and of all with 0.",
        _DATA(
            job=(job_fields.DECODED_LIMIT,),
            shown_default="half of the memory or of the free disk of the node that prepares them, whichever is less, from 1G to 16G",
        ),
        default=None,
    )
    validation_share: float = setting(
        "Share of the training images that becomes a validation split, and a test split, where the data set has none.",
        _DATA(job=(JobField("dataset.validation_share"),)),
        gt=0,
        le=0.4,
    )
    unreadable_share: UnreadableShare = setting(
        "How many images of a split may be unreadable: a share, such as 0.05 or 5%, or a whole number of images, such as 3. They are left "
        "out, counted and named.",
        _DATA(job=(job_fields.UNREADABLE_SHARE, job_fields.UNREADABLE_IMAGES), resumable=True),
    )
    drop_duplicates: bool = setting(
        "Leave images out of train that are in the validation or test split, too, or have a copy with another label.",
        _DATA(job=(JobField("dataset.drop_duplicates"),)),
    )
    params: ParamsText | None = setting(
        "Upper limit on the number of parameters, such as 12M; in addition to `flops` or instead of it.",
        _BUDGET(job=(job_fields.PARAMS,)),
    )
    latency: LatencyText | None = setting(
        "Upper limit on the time of a batch, such as 5ms@1 (5 ms at batch size 1); in addition to `flops` or instead of it.",
        _BUDGET(job=(job_fields.LATENCY_MS, job_fields.LATENCY_BATCH)),
    )
    latency_mode: SpeedMode | None = setting(
        "How a model is run when its latency is limited.",
        _BUDGET(job=(job_fields.LATENCY_MODE,), shown_default=CostLimits().mode),
        default=None,
    )
    max_drop: float | None = setting(
        "Look for the cheapest model at most this many points of validation accuracy below the dense model; beside `flops` or instead of "
        "it.",
        _GOAL(job=(job_fields.MAX_DROP,)),
        default=None,
        ge=0,
        le=99,
    )
    min_accuracy: AccuracyText | None = setting(
        "Look for the cheapest model of at least this validation accuracy, such as 80%; beside `flops` or instead of it.",
        _GOAL(job=(job_fields.MIN_ACCURACY,)),
        default=None,
    )
    flops: Budgets = setting(
        "Budget in multiply-accumulates per image, such as 2.3G or 850M, or a share of the dense model's, such as 50%.",
        _BUDGET(job=(job_fields.BUDGETS,), example=["50%"]),
        default=(),
        validate_default=True,
        max_length=64,
    )
    space: Text | dict[str, JsonValue] = setting(
        "Search space: a name, a YAML file, or the mapping that such a file holds.", _SEARCH(job=(job_fields.SPACE,))
    )
    trials: int | None = setting(
        "Maximum number of recipes to try.",
        _END(
            job=(job_fields.TRIALS,),
            shown_default=f"{_TRIALS}, or {_UNLIMITED_TRIALS} if `time`, `max_epochs`, `max_hours`, `max_cost` or `plateau` is given",
        ),
        default=None,
        ge=1,
    )
    time: Duration | None = setting(
        "Wall time of the trials, such as 2h or 90m. A trial that would exceed it does not start.",
        _END(job=(job_fields.MAX_SECONDS,)),
    )
    max_epochs: float | None = setting(
        "Maximum number of epochs of all trials together, including those of the refinement.",
        _END(job=(JobField("max_epochs"),)),
        gt=0,
    )
    plateau: int | None = setting(
        "Stop after this many trials without an increase of the front's hypervolume.", _END(job=(JobField("plateau"),)), ge=1
    )
    final_share: float = setting(
        "Share of the epochs that refines the best recipes at the end, which is to train them for longer; 0 disables this.",
        _END(job=(JobField("final_share"),)),
        ge=0,
        le=0.9,
    )
    final_seeds: int = setting(
        "Number of seeds with which each of the best recipes is refined.",
        _END(job=(JobField("final_seeds"),)),
        ge=1,
        le=100,
    )
    price_per_hour: float | None = setting(
        "Price of one device (a GPU, or a CPU where there is none), to report the cost in money.",
        _END(job=(JobField("price_per_hour"),)),
        ge=0,
    )
    max_hours: float | None = setting(
        "Wall time of the whole search in hours, over all of its attempts. Trials that still run are stopped, and what handing the models "
        "over takes is kept.",
        _END(job=(JobField("max_hours"),)),
        gt=0,
    )
    max_cost: float | None = setting(
        "Most money that the whole search may cost, over all of its attempts, at `price_per_hour`.",
        _END(job=(JobField("max_cost"),)),
        gt=0,
    )
    stall_minutes: float = setting(
        "End the process of a trial, or of the dense model's adaptation, that makes no step and gives no other sign of life for this many "
        "minutes, and run it again from its checkpoint; 0 never does.",
        Rules(group=Group.SEARCH, job=(JobField("stall_minutes"),), resumable=True, decides_plan=False),
        ge=0,
    )
    reuse: Texts = setting(
        "Earlier search whose models may meet a budget and whose trials inform the sampler: its folder (with a / in it), its id in the "
        "same store, or `all` of that store.",
        _SEARCH(job=(job_fields.REUSE,), decides_plan=False),
        max_length=16,
    )
    epochs: float = setting(
        "Epochs of a trial, including the method's own training.",
        Rules(group=Group.TRAINING, commands=Commands.SLIM, job=(JobField("training.epochs"),)),
        gt=0,
    )
    batch_size: int = setting(
        "Images per training step.", _TRAINING(job=(JobField("training.batch_size"), JobField("base.batch_size"))), ge=1
    )
    lr: float = setting(
        "Peak learning rate, unless the search space includes it.", _TRAINING(job=(JobField("training.lr"),)), gt=0
    )
    augmentation: Augmentation = setting(
        "Augmentation of the training images.", _TRAINING(job=(JobField("training.augmentation"), JobField("base.augmentation")))
    )
    flip: bool | None = setting(
        "Mirror training images at random.",
        _TRAINING(job=(job_fields.FLIP, job_fields.BASE_FLIP), shown_default="yes, except for `digits`"),
        default=None,
    )
    precision: PrecisionName = setting(
        "What training computes in; `auto` is the fastest that the device has instructions for: bf16, else fp16, else fp32.",
        _TRAINING(job=(job_fields.PRECISION, job_fields.BASE_PRECISION)),
        default="auto",
    )
    grad_accum_steps: int = setting(
        "Parts that a training step computes its `batch_size` images in, one after the other: less memory, the same step.",
        _TRAINING(job=(JobField("training.grad_accum_steps"), JobField("base.grad_accum_steps"))),
        ge=1,
        le=1024,
    )
    grad_checkpointing: bool = setting(
        "Compute the activations of each block again in the backward pass instead of keeping them: less memory, a third more time.",
        _TRAINING(job=(JobField("training.grad_checkpointing"), JobField("base.grad_checkpointing"))),
    )
    compile: bool = setting(
        "Train with the models' blocks compiled by torch.compile: faster steps after minutes of compiling in each trial.",
        _TRAINING(job=(JobField("training.compile"), JobField("base.compile"))),
    )
    base_epochs: float = setting(
        "Epochs of training the dense model first, where it does not fit the data set's classes or has random weights.",
        Rules(group=Group.TRAINING, commands=Commands.SLIM, job=(JobField("base.epochs"),)),
        gt=0,
    )
    base_lr: float | None = setting(
        "Peak learning rate of training the dense model first.",
        _TRAINING(job=(job_fields.BASE_LR,), shown_default="that of `lr`"),
        default=None,
        gt=0,
    )
    adapt: bool | None = setting(
        "Train the dense model on the data first. By default where its classifier is new, of other classes or sizes, or, where the weights "
        "name no classes, less accurate on the validation images than a linear probe.",
        Rules(group=Group.TRAINING, commands=Commands.SLIM, job=(JobField("adapt"),), shown_default="where it is needed"),
        default=None,
    )
    sampler: SamplerName = setting("Sampler that proposes recipes.", _SEARCH(job=(JobField("sampler"),)))
    prior: PriorName = setting(
        "Trials of other models that the search begins with, and the best recipes of those as the first trials; `none` begins with random "
        "recipes.",
        _SEARCH(job=(JobField("prior"),)),
        default="auto",
    )
    scheduler: PrunerName = setting(
        "Pruner that stops unpromising trials early.", _SEARCH(job=(JobField("scheduler"),), decides_plan=False)
    )
    seed: int = setting(
        "Seed of the splits, the recipes and the training.",
        Rules(group=Group.TRAINING, commands=Commands.SLIM, job=(JobField("seed"),), decides_plan=False),
        ge=0,
        le=2**32 - 1,
    )
    class_query: bool = setting(
        "Compute only the prefix tokens in the last block; the logits stay the same.", _MODEL(job=(JobField("class_query"),))
    )
    bound: Bound = setting(
        "Where the number of tokens varies from image to image, the budget holds for every image (max) or for the mean (mean).",
        _BUDGET(job=(JobField("bound"),)),
    )
    speed: SpeedModes = setting(
        "How the speed of the chosen models is measured; `none` skips the measurement.",
        Rules(
            group=Group.RESULT,
            commands=Commands.SLIM,
            job=(JobField("speed", write=lambda modes, _: tuple(modes)),),
            resumable=True,
            decides_plan=False,
            flag_type=str,
            flag_help="Separated by commas.",
        ),
        max_length=8,
    )
    forms: FormNames = setting(
        "Files that a model is handed over as besides its weights: `none`, or names as of `autoslim export`.",
        Rules(
            group=Group.RESULT,
            commands=Commands.SLIM,
            job=(JobField("forms", write=lambda names, _: tuple(names)),),
            resumable=True,
            decides_plan=False,
            flag_type=str,
            flag_help="Separated by commas.",
        ),
        max_length=8,
    )
    max_form_drop: float = setting(
        "Points of top-1 that a file of `forms` may lose against the weights without being marked in bold.",
        Rules(group=Group.RESULT, commands=Commands.SLIM, job=(JobField("max_form_drop"),), resumable=True, decides_plan=False),
        ge=0,
        le=100,
    )
    name: Label | None = setting(
        "Name of the job, by which commands find it: lower-case letters, digits and hyphens. Several jobs may share one.",
        Rules(group=Group.JOB, job=(JobField("name"),), resumable=True, decides_plan=False),
    )
    priority: int = setting(
        "Of the queued jobs, the one with the highest priority starts first.",
        Rules(group=Group.JOB, commands=Commands.SUBMIT, resumable=True, decides_plan=False),
        default=5,
        ge=0,
        le=9,
    )

    webhook: WebhookUrl | None = setting(
        "URL that is told of each new best trial of a budget and of the job's end, signed with the secret in AUTOSLIM_WEBHOOK_SECRET.",
        Rules(group=Group.JOB, job=(JobField("webhook"),), resumable=True, decides_plan=False),
    )

    _objective_of_a_trained_model = field_validator("objective")(job_checks.objective_of_a_trained_model)
    _probe_of_features = field_validator("probe")(job_checks.probe_of_features)
    _token_labels_of_classes = field_validator("token_labels")(job_checks.token_labels_of_classes)
    _adapt_to_labels = field_validator("adapt")(job_checks.adapt_to_labels)
    _class_query_of_a_classifier = field_validator("class_query")(job_checks.class_query_of_a_classifier)
    _latency_of_one_model = field_validator("latency")(job_checks.latency_of_one_model)
    _drop_of_one_model = field_validator("max_drop")(job_checks.goal_of_one_model)
    _min_accuracy_without_drop = field_validator("min_accuracy")(job_checks.min_accuracy_without_drop)
    _mode_of_a_latency = field_validator("latency_mode")(job_checks.mode_of_a_latency)
    _at_least_one_limit = field_validator("flops")(job_checks.at_least_one_limit)
    _cost_with_a_price = field_validator("max_cost")(job_checks.cost_with_a_price)
    _bound_of_a_latency = field_validator("bound")(job_checks.bound_of_a_latency)

    @property
    def limits(self) -> CostLimits:
        return part_of(self, "limits", CostLimits)

    @property
    def model_spec(self) -> ModelSpec:
        """The first of the models."""
        return part_of(self, "model", ModelSpec)

    @property
    def model_specs(self) -> tuple[ModelSpec, ...]:
        return tuple(model_specs(self))

    @property
    def dataset_spec(self) -> DatasetSpec:
        return part_of(self, "dataset", DatasetSpec)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The FLOPs budgets; without any and without a goal, the dense model's FLOPs under the other limits."""
        limits = () if self.goal is not None else (budget_of_limits(self.limits),)
        return tuple(Budget.parse(text) for text in self.flops) or limits

    @property
    def goal(self) -> AccuracyGoal | None:
        if self.max_drop is None and self.min_accuracy is None:
            return None
        return AccuracyGoal(max_drop=self.max_drop, least=None if self.min_accuracy is None else parse_least(self.min_accuracy))

    @property
    def most_trials(self) -> int:
        limited = self.time or self.max_epochs or self.plateau or self.max_hours or self.max_cost
        return self.trials or (_UNLIMITED_TRIALS if limited else _TRIALS)

    @property
    def mirrors(self) -> bool:
        """Mirrored digits are other digits, or none; whether a user's own classes survive mirroring only the user knows."""
        return self.flip if self.flip is not None else self.data != "digits"

    def new_id(self) -> str:
        """Of a job: readable, and unique in a store that many searches share."""
        stem = self.name or re.sub(r"[^a-z0-9]+", "-", Path(self.data).stem.lower()).strip("-")[:30] or "search"
        return f"{stem}-{secrets.token_hex(3)}"

    def to_job(self, *, id: str, placement: Placement) -> SearchJob:
        """The search that this spec asks for. Reads no file and no store."""
        return job_of(self, self.job_type, id=id, placement=placement)

    @classmethod
    def of_job(cls, job: SearchJob) -> Self:
        """The inverse of `to_job`, except for settings that a job does not hold, such as its priority."""
        return spec_of_job(cls, job)
