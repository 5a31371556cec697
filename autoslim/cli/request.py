"""From the words of a command line to a `SearchJob`."""

from __future__ import annotations

import ast
import dataclasses
import re
import secrets
from pathlib import Path
from typing import Any

from autoslim.budget import Budget
from autoslim.errors import RequestError
from autoslim.job import SPEED_MODES, DatasetSpec, ModelSpec, Resources, SearchJob
from autoslim.recipe import BOUNDS, Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """The flags as they were typed; None where one was not given."""

    model: str | None
    data: str | None
    flops: list[str]
    weights: Path | None
    from_scratch: bool
    model_args: str | None
    image_size: int | None
    space: str | None
    trials: int | None
    epochs: float | None
    batch_size: int | None
    lr: float | None
    augmentation: str | None
    flip: bool | None
    base_epochs: float | None
    base_lr: float | None
    train_limit: int | None
    sampler: str | None
    seed: int | None
    class_query: bool | None
    bound: str | None
    speed: str | None
    resources: str | None
    concurrency: int | None
    address: str | None
    storage: str | None
    tracking_uri: str | None
    output: Path


def new_job(words: Words) -> SearchJob:
    """Raises RequestError naming the flag, its value and what is allowed."""
    for flag, typed in (("--model", words.model), ("--data", words.data), ("--flops", words.flops)):
        if not typed:
            raise RequestError(f"{flag} is needed (or --resume with the --output of an earlier search)")
    assert words.model is not None and words.data is not None
    if words.weights is not None and words.from_scratch:
        raise RequestError("--weights and --from-scratch exclude each other")
    # Mirrored digits are other digits; of a user's own images only the user knows.
    flip = words.flip if words.flip is not None else words.data != "digits"
    shared = given(batch_size=words.batch_size, augmentation=words.augmentation, flip=flip)
    training = Training(**shared, **given(epochs=words.epochs, lr=words.lr))
    base = Training(
        **{"epochs": 10.0, "distillation": 0.0, **shared, **given(epochs=words.base_epochs, lr=words.base_lr or words.lr)}
    )
    job = SearchJob(
        id=_job_id(words.data),
        model=ModelSpec(
            name=words.model,
            weights="scratch" if words.from_scratch else str(words.weights.absolute()) if words.weights else "pretrained",
            args=parse_pairs(words.model_args or "", "--model-args"),
            image_size=None if words.image_size is None else (words.image_size, words.image_size),
        ),
        dataset=DatasetSpec(source=words.data, train_limit=words.train_limit),
        budgets=tuple(Budget.parse(text) for text in words.flops),
        training=training,
        base=base,
        resources=parse_resources(words.resources),
        concurrency=words.concurrency,
        address=words.address,
        storage=words.storage,
        tracking_uri=words.tracking_uri,
        output=str(words.output),
        **given(
            space=words.space,
            trials=words.trials,
            sampler=words.sampler,
            seed=words.seed,
            class_query=words.class_query,
            bound=words.bound,
            speed=parse_speed(words.speed),
        ),
    )
    return check(job)


def resumed_job(job: SearchJob, words: Words) -> SearchJob:
    """The job as it was begun, with more trials or on another cluster where that was asked for.

    Raises:
        RequestError: when a flag would make another job of it.
    """
    training, base = job.training, job.base
    for flag, typed, was in (
        ("--model", words.model, job.model.name),
        ("--data", words.data, job.dataset.source),
        ("--flops", words.flops or None, [budget.label for budget in job.budgets]),
        ("--weights", None if words.weights is None else str(words.weights.absolute()), job.model.weights),
        ("--from-scratch", words.from_scratch or None, job.model.weights == "scratch"),
        ("--model-args", None if words.model_args is None else parse_pairs(words.model_args, "--model-args"), job.model.args),
        ("--image-size", None if words.image_size is None else (words.image_size, words.image_size), job.model.image_size),
        ("--space", words.space, job.space),
        ("--epochs", words.epochs, training.epochs),
        ("--batch-size", words.batch_size, training.batch_size),
        ("--lr", words.lr, training.lr),
        ("--augmentation", words.augmentation, training.augmentation),
        ("--flip", words.flip, training.flip),
        ("--base-epochs", words.base_epochs, base.epochs),
        ("--base-lr", words.base_lr, base.lr),
        ("--train-limit", words.train_limit, job.dataset.train_limit),
        ("--seed", words.seed, job.seed),
        ("--class-query", words.class_query, job.class_query),
        ("--bound", words.bound, job.bound),
        ("--sampler", words.sampler, job.sampler),
        ("--storage", words.storage, job.storage),
    ):
        if typed is not None and typed != was:
            raise RequestError(f"{flag} is {typed!r}, but this search was begun with {was!r}; a resumed search keeps it")
    changes = given(
        trials=words.trials,
        concurrency=words.concurrency,
        address=words.address,
        tracking_uri=words.tracking_uri,
        speed=parse_speed(words.speed),
    )
    if words.resources is not None:
        changes["resources"] = parse_resources(words.resources)
    return check(job.replace(**changes, output=str(words.output)))


def check(job: SearchJob) -> SearchJob:
    """What the types do not say."""
    if job.bound not in BOUNDS:
        raise RequestError(f"--bound is {job.bound!r}; allowed: {', '.join(BOUNDS)}")
    training = job.training
    for flag, value, least in (
        ("--trials", job.trials, 1),
        ("--batch-size", training.batch_size, 1),
        ("--seed", job.seed, 0),
        ("--concurrency", job.concurrency or 1, 1),
    ):
        if value < least:
            raise RequestError(f"{flag} is {value}; allowed: {least} and more")
    for flag, number in (("--epochs", training.epochs), ("--lr", training.lr), ("--base-epochs", job.base.epochs)):
        if not 0 < number < float("inf"):
            raise RequestError(f"{flag} is {number}; allowed: above 0")
    return job


def given(**flags: Any) -> dict[str, Any]:
    """Those that were typed."""
    return {name: value for name, value in flags.items() if value is not None}


def parse_pairs(text: str, flag: str) -> dict[str, Any]:
    """`depth=6,act_layer=relu` -> values as Python literals where they are, else as text."""
    pairs: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise RequestError(f"{flag}: {item!r} is not of the form name=value")
        try:
            pairs[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pairs[name] = value
    return pairs


def parse_speed(text: str | None) -> tuple[str, ...] | None:
    """`eager,onnxruntime`; `none` for no mode at all."""
    if text is None:
        return None
    modes = () if text == "none" else tuple(text.split(","))
    if unknown := [mode for mode in modes if mode not in SPEED_MODES]:
        raise RequestError(f"--speed has {unknown[0]!r}; allowed: {', '.join(SPEED_MODES)}, or none")
    return modes


def parse_resources(text: str | None) -> Resources | None:
    """`gpu=1,cpu=4`; None leaves it to the cluster."""
    if text is None:
        return None
    pairs = parse_pairs(text, "--resources")
    unknown = sorted(set(pairs) - {"cpu", "gpu"})
    if unknown:
        raise RequestError(f"--resources has {unknown[0]!r}; allowed: cpu, gpu")
    for name, value in pairs.items():
        if not isinstance(value, int | float) or value < 0 or (value > 1 and value != int(value)):
            raise RequestError(f"--resources {name} is {value!r}; allowed: a fraction up to 1, or a whole number")
    return Resources(cpu=float(pairs.get("cpu", 1)), gpu=float(pairs.get("gpu", 0)))


def _job_id(data: str) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", Path(data).stem.lower()).strip("-")[:30] or "search"
    return f"{stem}-{secrets.token_hex(3)}"
