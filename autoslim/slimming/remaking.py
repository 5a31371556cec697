"""`Remaking`: what a finished model's configuration says of how it was made, with other places for its data and dense model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from autoslim.core.job import ModelSpec
from autoslim.core.made_from import MadeFrom
from autoslim.data import PreparedDataset, prepare_dataset, prepare_probe
from autoslim.errors import DatasetError, RequestError, WeightsError
from autoslim.export.artifact import SlimConfig, load_config
from autoslim.models import create_dense
from autoslim.models.weights import file_digest
from autoslim.storage.model_folder import dense_folder
from autoslim.training.base_model import BaseRequest, weights_digest

_WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remaking:
    """The model in `original`; `made_from` has what the user gives in the place of its data and of its dense model."""

    original: Path
    config: SlimConfig
    made_from: MadeFrom
    gives_data: bool
    gives_model: bool

    @classmethod
    def of(cls, original: Path, *, data: str | None, model: str | None) -> Remaking:
        """Raises RequestError naming the fact that the configuration does not have, or that cannot be made again here."""
        config = load_config(original)
        if not (original / _WEIGHTS).is_file():
            raise WeightsError(f"{original} has no {_WEIGHTS}, which the new weights are compared with; copy the whole folder")
        made_from = config.made_from
        if made_from is None:
            raise RequestError(
                f"{original}/config.json has no made_from, the dense model, data and training that the model was made from: an earlier "
                "version has written it, or the model was taken over from another search; make it with autoslim slim or autoslim search"
            )
        if config.limits.latency_ms is not None:
            raise RequestError(
                f"{original} keeps to {config.limits.flags}, a latency on the machine that it was made on; only models without one can be "
                "made again"
            )
        if data is not None:
            made_from = made_from.replace(dataset=made_from.dataset.replace(source=data))
        if model is not None:
            made_from = _with_model(made_from, model)
        return cls(
            original=original, config=config, made_from=made_from, gives_data=data is not None, gives_model=model is not None
        )

    def prepare(self, cache: Path, tell: Callable[[str], None]) -> tuple[PreparedDataset, PreparedDataset | None]:
        """The images and the probe; `tell` as of `prepare_dataset`.

        Raises:
            DatasetError: they are not there, or not those that the model was made from.
        """
        made_from = self.made_from
        source = made_from.dataset.source
        try:
            dataset = prepare_dataset(made_from.dataset, cache, seed=made_from.seed, tell=tell)
        except DatasetError as error:
            if error.flags:
                # Fewer images are other data, which are refused below.
                raise DatasetError(
                    f"{error}; a model is made again from all of its images: repair them, or give others of the same content with --data"
                ) from error
            if self.gives_data:
                raise
            raise DatasetError(f"{error}; the model was made from them: give them with --data") from error
        expected = made_from.digests["data"]
        if dataset.digest != expected:
            raise DatasetError(
                f"--data {source}: its images, labels or splits are not those that the model was made from (their digest is "
                f"{dataset.digest}, not {expected}); give the same data set"
            )
        return dataset, prepare_probe(made_from.probe, made_from.dataset, cache, seed=made_from.seed, tell=tell)

    def base_request(self, model: ModelSpec, dataset: PreparedDataset) -> BaseRequest:
        """Raises RequestError where the dense model is not there, naming the flag to give it with."""
        made_from = self.made_from
        try:
            create_dense(model, classes=len(dataset.classes))
        except RequestError as error:
            if self.gives_model:
                raise
            raise RequestError(f"{error}; give the dense model's name or folder with --model") from error
        return BaseRequest(
            model=model,
            weights_digest=weights_digest(model),
            dataset_digest=dataset.digest,
            training=made_from.base,
            seed=made_from.seed,
            adapt=made_from.adapt,
        )


def _with_model(made_from: MadeFrom, model: str) -> MadeFrom:
    """Of the adapted model itself nothing is trained again; any other takes the place of the one that was adapted."""
    local = dense_folder(model)
    weights = local / _WEIGHTS
    given = ModelSpec(name=model)
    if weights.is_file() and file_digest(weights) == made_from.digests["dense"]:
        return made_from.replace(model=given, adapt=None)
    return made_from.replace(
        model=made_from.model.replace(name=model, args={} if local.is_dir() else made_from.model.args, weights="pretrained")
    )
