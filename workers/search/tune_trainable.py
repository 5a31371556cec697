"""`SlimTrial`: a trial as Ray Tune runs it, one report a step. The actor is used again for the next one, whatever its method."""

from __future__ import annotations

import gc
import json
import logging
import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune

from autoslim.core.logs import bind, log_json
from autoslim.core.recipe import Recipe, Training
from autoslim.cost import LatencyTable
from autoslim.errors import TrialError
from autoslim.training import TrialContext, run_trial
from autoslim.training.trial import Reports

_log = logging.getLogger(__name__)


class SlimTrial(tune.Trainable):  # type: ignore[misc]
    """`config`: `recipe` (JSON), `number`, `budget_label`, `folder`, and what all trials share: the `job`'s id, `base`, `dataset`,
    `threads`, the folder `shared` for work done once, the settings `common` (JSON) that it is done with, and the file `latency` of the
    table that latencies are told from, where one is limited.

    A step's result has `report` (an EpochReport), and the last one `outcome` (an Outcome) or `error` and `error_class`, as JSON.
    A trial that goes wrong by itself ends like this, finished and bad; only a lost worker is an error to Tune, which tries again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        log_json()
        torch.set_num_threads(config["threads"])
        self._shared = _shared(config)
        self._bench = TrialContext.open(
            base=Path(config["base"]),
            dataset=Path(config["dataset"]),
            shared=Path(config["shared"]),
            common=Training.from_json(config["common"]),
            latency=LatencyTable.from_json(Path(config["latency"]).read_text()) if config["latency"] else None,
        )
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if self._shared != _shared(new_config):
            return False
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._release()
        recipe = Recipe.from_json(config["recipe"])
        log_trial(config, recipe)
        self._reports: Reports = run_trial(recipe, self._bench, Path(config["folder"]), budget_label=config["budget_label"])

    def step(self) -> dict[str, Any]:
        try:
            return {"report": next(self._reports).to_json(), "done": False}
        except StopIteration as end:
            _log.info("trial ends", extra={"accuracy": end.value.accuracy, "flops": end.value.flops})
            return {"outcome": end.value.to_json(), "done": True}
        except TrialError as error:
            _log.warning("trial ends with %s: %s", type(error).__name__, error)
            return {"error_class": type(error).__name__, "error": str(error), "done": True}
        except Exception as error:  # noqa: BLE001 - here a trial ends; the search goes on and the store keeps the traceback
            _log.exception("trial ends with an error that is not its own")
            return {"error_class": type(error).__name__, "error": "".join(traceback.format_exception(error)), "done": True}
        finally:
            torch.set_grad_enabled(True)

    # Checkpoints are the trial's own (safetensors and JSON in its folder), written every epoch; Tune's would be pickles.

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None

    def cleanup(self) -> None:
        self._release()

    def _release(self) -> None:
        """A trial that was stopped half-way still holds its model; the next one needs the memory."""
        self._reports = iter(())  # type: ignore[assignment]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def log_trial(config: dict[str, Any], recipe: Recipe) -> None:
    """From now on every line that this process logs is this trial's."""
    bind(job_id=config["job"], trial=config["number"], method=recipe.method)
    _log.info("trial begins", extra={"budget": config["budget_label"], "recipe": recipe.key})


def _shared(config: dict[str, Any]) -> tuple[str, ...]:
    return config["base"], config["dataset"], config["shared"], config["common"], config["latency"]


def trial_config(recipe: Recipe, *, number: int, folder: Path, budget_label: str, shared: dict[str, Any]) -> dict[str, Any]:
    """The `config` of a SlimTrial; plain JSON, so that Ray shows it and nothing is pickled."""
    own = {"recipe": recipe.to_json(), "number": number, "folder": str(folder), "budget_label": budget_label}
    return json.loads(json.dumps({**own, **shared}))  # type: ignore[no-any-return]
