"""A plan of a search: what is feasible, and the work that it takes."""

from __future__ import annotations

from pydantic import BaseModel


class MethodFeasibility(BaseModel):
    """The range of the models that a method makes of this one, in multiply-accumulates and parameters; null where it makes none.

    `model` is the name of the dense model where a search has several.
    """

    name: str
    model: str | None = None
    min_flops: int | None
    max_flops: int | None
    min_params: int | None = None
    feasible: bool


class BudgetFeasibility(BaseModel):
    """`feasible` when at least one method is; `flops` are multiply-accumulates per image."""

    label: str
    flops: int
    feasible: bool
    methods: list[MethodFeasibility]


class ModelPlan(BaseModel):
    """One of several dense models that the search starts from; fields as in `PlanResponse`."""

    name: str
    dense_flops: int
    params: int
    excluded_methods: dict[str, str]


class WorkEstimate(BaseModel):
    """Upper bounds; the duration depends on the workers.

    `training_images` and `base_training_images` count images over all epochs, of the trials and of the dense model; `disk_bytes` is
    without the data set.
    """

    training_images: int
    base_training_images: int
    multiply_accumulates: float
    disk_bytes: int


class PriorTrials(BaseModel):
    """How many trials of how many other models the search begins with."""

    trials: int
    models: int


class PlanResponse(BaseModel):
    """`images` are counts by split; `excluded_methods` are reasons by method, or chain as `a+b`, that does not apply to the model.

    `goal` is the label of the accuracy that the search holds on to. What that costs is what it looks for, and no plan says it.

    Where the search has several dense models, `models` has each, and `dense_flops`, `params` and `excluded_methods` are the first one's.

    `score` is what its trials would be compared by, as in a job.
    """

    dense_flops: int
    params: int
    classes: int
    images: dict[str, int]
    models: list[ModelPlan] = []
    budgets: list[BudgetFeasibility]
    goal: str | None = None
    excluded_methods: dict[str, str]
    score: str
    prior: PriorTrials
    trials: int
    epochs: float
    estimate: WorkEstimate
