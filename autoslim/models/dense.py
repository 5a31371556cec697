"""A dense timm ViT from what the user asked for: by name or folder, with weights or deliberately without."""

from __future__ import annotations

import dataclasses
import difflib
import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from autoslim.core.job import PRETRAINED, SCRATCH, ModelSpec
from autoslim.core.shape import ViTShape
from autoslim.errors import AutoslimError, RequestError, UnsupportedModelError, WeightsError
from autoslim.models.architecture import Architecture, Preprocessing
from autoslim.models.registry import family_of, read_shape
from autoslim.models.stem import without_prices
from autoslim.models.unallocated import unfilled
from autoslim.models.weights import is_resampled, load_weights
from autoslim.models.weights_file import StoredWeights, read_weights
from autoslim.storage import is_uri, local_file
from autoslim.storage.model_folder import dense_folder

_HUB_DEADLINE = 8.0
"""Seconds to wait for the hub's first answer; without a network, its own client retries for most of a minute."""

_SCRATCH_SEED = 0

_SOME_CLASSES = 2
"""The fewest that a data set has: no method's answer depends on how many there are."""

_MAX_CONFIG = 2**20
"""Bytes of a config.json. timm's have a few kilobytes, and a thousand class names some tens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseModel:
    """A dense model, open (`Family.open`), in eval mode on the CPU, with all that is known of it.

    `trained` is false for a model from scratch, `head_fits` where the classifier is new. `resampled` is true where the size of the image,
    of a patch or of a window is not the checkpoint's. `labels` are the checkpoint's classes, where it names them. `switched_off` are
    timm's arguments that were switched off because the model would have no fixed cost with them. `weights_part` says what of the weights'
    file was loaded, where it holds more.
    """

    module: nn.Module
    architecture: Architecture
    shape: ViTShape
    preprocessing: Preprocessing
    trained: bool
    head_fits: bool
    resampled: bool
    labels: tuple[str, ...] | None
    switched_off: tuple[str, ...] = ()
    weights_part: str = ""

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def is_ready_for(self, classes: tuple[str, ...]) -> bool:
        """Whether it is known to need no training for these classes: its checkpoint names them, or there are none."""
        return self.may_be_ready and (not classes or self.labels == classes)

    @property
    def is_unproven(self) -> bool:
        """Whether only its accuracy can tell if the classifier is one of the data's classes, because its checkpoint names none."""
        return self.may_be_ready and self.labels is None

    @property
    def may_be_ready(self) -> bool:
        """Whether the weights, the classifier's among them, fit as they are."""
        return self.trained and self.head_fits and not self.resampled

    def adapts_to(self, classes: tuple[str, ...], adapt: bool | None) -> bool:
        """Whether it is trained for these classes first, or may be; never without classes. `adapt` as in `SearchJob`."""
        return bool(classes) and (not self.is_ready_for(classes) if adapt is None else adapt)

    def check_adapt(self, name: str, adapt: bool | None) -> None:
        """Raises RequestError where the model `name` is not to be trained first, and cannot be evaluated without it."""
        if adapt is False and not (self.trained and self.head_fits):
            what = "its classifier is a new one" if self.trained else "it has random weights"
            raise RequestError(f"--no-adapt, but model {name} cannot be used without training: {what}; leave out --no-adapt")


def create_dense(spec: ModelSpec, *, classes: int | None = None) -> DenseModel:
    """Builds the model with `classes` outputs (None: the checkpoint's own, 0: its features), in eval mode, on the CPU.

    Raises:
        RequestError: for a name, a size or an argument that timm does not have.
        UnsupportedModelError: naming the part that cannot be slimmed.
        WeightsError: when the weights are unavailable, after ten seconds at most; random weights never replace them.
        StorageError, UnavailableError, OutputError: when a folder or weights at a URI cannot be fetched.
    """
    if not is_uri(spec.name):
        return _create(spec, classes)
    folder = dense_folder(spec.name)
    try:
        return _create(spec.replace(name=str(folder)), classes)
    except AutoslimError as error:
        # The copy in the cache means nothing to a user.
        error.args = (str(error).replace(str(folder), spec.name),)
        raise


def _create(spec: ModelSpec, classes: int | None) -> DenseModel:
    module, spec, switched_off = _build_fixed(spec, classes)
    shape = read_shape(module)
    labels = _labels(spec, module)
    trained, head_fits, resampled, part = True, True, False, ""
    if spec.weights == SCRATCH:
        trained = False
    else:
        state, part = _weights_of(spec, module)
        resampled = is_resampled(module, state)
        head_fits = load_weights(module, state, source=spec.name)
        changes = [
            *(["positions resampled to this image and patch size"] if resampled else []),
            *(["its classifier is of other classes, and is replaced"] if not head_fits and shape.classes else []),
        ]
        part = ", ".join(filter(None, (part, *changes))) if spec.weights != PRETRAINED else part
    preprocessing = _preprocessing(spec, module)
    return DenseModel(
        module=family_of(module).open(module.eval()),
        architecture=_architecture(spec, shape),
        shape=shape,
        preprocessing=preprocessing,
        trained=trained,
        head_fits=head_fits,
        resampled=resampled,
        labels=labels,
        switched_off=switched_off,
        weights_part=part,
    )


def untrained(spec: ModelSpec, *, labelled: bool) -> DenseModel:
    """The model with random weights, in the form in which it is slimmed before its data's classes are known: with some classifier, also
    where timm builds the model without one; or without, where there are no labels.

    Raises:
        RequestError, UnsupportedModelError: as `create_dense`.
    """
    return create_dense(spec.replace(weights=SCRATCH), classes=_SOME_CLASSES if labelled else 0)


def shape_of_name(name: str) -> ViTShape:
    """The shape of timm's model of this name, without weights (none are allocated or downloaded) and without the price of its stem.

    Raises:
        RequestError: for a name that timm does not have.
        UnsupportedModelError: naming the part that no method can slim.
    """
    with unfilled():
        module, _, _ = _build_fixed(ModelSpec(name=name, weights=SCRATCH, args={"device": "meta"}), None)
    # Counting a stem takes a pass through it, on the CPU.
    with without_prices():
        return read_shape(module)


def _build_fixed(spec: ModelSpec, classes: int | None) -> tuple[nn.Module, ModelSpec, tuple[str, ...]]:
    """The model at one fixed cost, the specification that makes it so, and the arguments that were switched off for it."""
    module = _build(spec, classes)
    fixed = family_of(module).fixed_arguments(module, spec.image_size or spec.args.get("img_size"))
    if fixed:
        spec = spec.replace(args={**spec.args, **fixed})
        module = _build(spec, classes)
    _check_image_size(spec, module)
    return module, spec, tuple(name for name, value in fixed.items() if isinstance(value, bool))


def _labels(spec: ModelSpec, module: nn.Module) -> tuple[str, ...] | None:
    config: dict[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    labels = config.get("label_names")
    if labels is not None and not isinstance(labels, list | tuple):
        raise RequestError(f"model {spec.name}: label_names in config.json is {labels!r:.100}; allowed: a list of names")
    return tuple(labels) if labels else None


def _preprocessing(spec: ModelSpec, module: nn.Module) -> Preprocessing:
    try:
        data = resolve_model_data_config(module)
        (red, green, blue), std = map(float, data["mean"]), tuple(map(float, data["std"]))
        return Preprocessing(mean=(red, green, blue), std=(std[0], std[1], std[2]), crop_pct=float(data["crop_pct"]))
    # The values are those of the folder's config.json, of any type, and timm computes with them before it looks at them.
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, AssertionError) as error:
        raise RequestError(
            f"the preprocessing of model {spec.name} cannot be read: {type(error).__name__}: {error}; "
            "expected input_size, mean, std and crop_pct as numbers in the pretrained_cfg of config.json"
        ) from error


def _architecture(spec: ModelSpec, shape: ViTShape) -> Architecture:
    """The architecture as data, without a reference to the folder that it may come from."""
    name, args = spec.name, dict(spec.args)
    if _is_folder(spec):
        config = read_config(Path(spec.name))
        name, args = config["architecture"], {**config.get("model_args", {}), **args}
    return Architecture(name=name, args={**args, "img_size": list(shape.image_size), "num_classes": shape.classes})


def _build(spec: ModelSpec, classes: int | None) -> nn.Module:
    folder = Path(spec.name)
    name = spec.name
    if _is_folder(spec):
        read_config(folder)
        name = f"local-dir:{folder}"
    elif not timm.is_model(name.split(".")[0]):
        raise RequestError(_unknown_model(name))
    arguments = dict(spec.args)
    if classes is not None:
        arguments["num_classes"] = classes
    if spec.image_size is not None:
        arguments["img_size"] = spec.image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SCRATCH_SEED)
        try:
            module: nn.Module = timm.create_model(name, pretrained=False, **arguments)
        # Arguments, also those in a folder's config.json, reach timm's and torch's code unchecked: a text where a class is
        # wanted fails as an AttributeError, a KeyError, or whatever the line that it reaches raises.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise RequestError(f"model {spec.name} cannot be made with {arguments}: {reason}") from error
    return module


def _check_image_size(spec: ModelSpec, module: nn.Module) -> None:
    size, patch = family_of(module).image_and_patch(module)
    if size is None or patch is None:
        raise UnsupportedModelError(f"{spec.name} is a {type(module).__name__}: it has no patch embedding of a fixed image size")
    config: dict[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    # Some checkpoints are of a size whose last rows no patch takes; what a user asks for has none to lose.
    if list(size) == list(config.get("input_size") or ())[1:]:
        return
    if any(s % p or s < p for s, p in zip(size, patch, strict=True)):
        raise RequestError(f"image size {size[0]}x{size[1]} is not a multiple of the patch size {patch[0]}x{patch[1]}")


def _is_folder(spec: ModelSpec) -> bool:
    return "/" in spec.name or spec.name.startswith(".") or Path(spec.name).is_dir()


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder in timm's hub format. Raises RequestError with what is wrong."""
    expected = "expected timm's hub format (config.json and model.safetensors)"
    path = folder / "config.json"
    if not folder.is_dir():
        raise RequestError(f"model folder {folder} does not exist; {expected}")
    if not path.is_file():
        raise RequestError(f"model folder {folder} has no config.json; {expected}")
    if path.stat().st_size > _MAX_CONFIG:
        raise RequestError(f"{path} has {path.stat().st_size:,} bytes; allowed: at most {_MAX_CONFIG:,}; {expected}")
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not valid JSON: {error}; {expected}") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise RequestError(f"{path} names no architecture; {expected}")
    if not isinstance(config.get("model_args", {}), dict):
        raise RequestError(f"{path}: model_args is {config['model_args']!r:.100}; allowed: a JSON object; {expected}")
    return config


def _unknown_model(name: str) -> str:
    families = [n for n in timm.list_models() if n.startswith(("vit_", "deit"))]
    close = difflib.get_close_matches(name.split(".")[0], families, n=3, cutoff=0.5)
    hint = (
        f"; did you mean {', '.join(close)}?"
        if close
        else "; try a name such as deit_small_patch16_224, or a folder in timm's hub format"
    )
    return f"there is no timm model {name!r}{hint}"


def _weights_of(spec: ModelSpec, module: nn.Module) -> StoredWeights:
    if spec.weights != "pretrained":
        return read_weights(local_file(spec.weights))
    if _is_folder(spec):
        return read_weights(Path(spec.name) / "model.safetensors")
    config: dict[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    if not config.get("hf_hub_id") and not config.get("url"):
        raise WeightsError(
            f"timm has no pretrained weights for {spec.name}; give some with --weights FILE, or train with --from-scratch"
        )
    _check_hub_answers(spec.name)
    # At the checkpoint's own sizes: `is_resampled` compares them with those of the job.
    arguments = {name: value for name, value in spec.args.items() if name not in family_of(module).size_arguments}
    try:
        hub = timm.create_model(spec.name, pretrained=True, **arguments)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(_no_weights(spec.name, error)) from error
    return StoredWeights(hub.state_dict(), "")


def _check_hub_answers(name: str) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config.hf_hub_id and isinstance(try_to_load_from_cache(config.hf_hub_id, "model.safetensors"), str):
        return
    failure: list[BaseException] = [TimeoutError(f"no answer within {_HUB_DEADLINE:g} s")]

    def probe() -> None:
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310 - the hub's own, constant address
            urllib.request.urlopen(request, timeout=_HUB_DEADLINE).close()  # noqa: S310  # nosec B310
            failure.clear()
        except OSError as error:
            failure[:] = [error]

    # In a thread, because name resolution ignores the timeout.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_HUB_DEADLINE)
    if failure:
        raise WeightsError(_no_weights(name, failure[0])) from failure[0]


def _no_weights(name: str, error: BaseException) -> str:
    return f"pretrained weights of {name} are unavailable ({error}); give some with --weights FILE, or train with --from-scratch"
