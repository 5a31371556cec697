"""`TrialTrainable`: a trial as Ray Tune runs it, one report a step. Tune reuses the actor for the next trial, whatever its method."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import traceback
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from ray import tune

from autoslim.core.logs import bind, log_json
from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.core.result import EpochReport, Outcome
from autoslim.core.stall_watch import StallWatch, end_process
from autoslim.cost import LatencyTable
from autoslim.data import PreparedDataset
from autoslim.errors import DiskFullError, PreemptedError, RankLostError, StorageError, TrialError, UnavailableError
from autoslim.storage.mirror import Mirror
from autoslim.training import TrialContext, run_trial
from autoslim.training.ranks import LeadingRank
from workers.search.drain_watch import DrainWatch
from workers.search.named_disks import named_full_disks
from workers.search.opened_images import opened_images
from workers.search.stall_note import StallNote
from workers.search.system_metrics import SystemMetrics

_log = logging.getLogger(__name__)

_CONTEXT_KEYS = (
    "output_uri",
    "base_folder",
    "teacher_folder",
    "dataset",
    "shared_folder",
    "shared_training",
    "latency_table",
)
"""The keys of a `config` that decide whether a worker can keep its open TrialContext for the next trial."""


class TrialTrainable(tune.Trainable):  # type: ignore[misc]
    """`config` is made by `trial_config`.

    One of Tune's steps is one report of a trial. Its result has `report` (an EpochReport), and the last one `outcome` (an Outcome) or
    `error` and `error_class`, as JSON. Before the first report, steps may have a line that was `told` while the worker opens the models and
    the images; Tune counts that as part of a trial that runs.
    A trial's own error is a result like any other; Tune sees an error only where the worker is lost, or one of the ranks that train with
    it, where it leaves its node (`DrainWatch`), where the store of its output cannot be reached, and where a disk is full. Tune ends the
    worker then, and the trial goes on in another one.
    """

    def setup(self, config: dict[str, Any]) -> None:
        log_json()
        torch.set_num_threads(config["torch_threads"])
        self._leaves = DrainWatch().start()
        # The note is that of the trial that runs by then.
        self._end = functools.partial(end_process, leave=lambda reason: self._stall_note.write(reason))
        self._stalls = StallWatch(config["stall_seconds"], end=self._end).start()
        self._ranks: LeadingRank | None = None
        self._trial_context: TrialContext | None = None
        self._opened_for: tuple[str, ...] | None = None
        with self._stalls.working(), _named_full_disks(config):
            self._renew_note(config)
            self._begin(config)

    def _renew_note(self, config: dict[str, Any]) -> None:
        """The note of what this try hangs in, if it does, in the place of an earlier try's."""
        mirror = Mirror.of(config["output_uri"])
        self._stall_note = StallNote.of_trial(mirror.path(config["trial_folder"]), mirror)
        self._stall_note.delete()

    def _open(self, config: dict[str, Any], images: PreparedDataset) -> TrialContext:
        mirror = Mirror.of(config["output_uri"])
        base, dataset = mirror.fetched(config["base_folder"]), images.path
        teacher = mirror.fetched(config["teacher_folder"]) if config["teacher_folder"] else None
        ranks = int(config["ranks"])
        self._ranks = LeadingRank(ranks, base=base, dataset=dataset, teacher=teacher, end=self._end) if ranks > 1 else None
        return TrialContext.open(
            base=base,
            teacher=teacher,
            dataset=dataset,
            group=self._ranks,
            preempted=self._leaves,
            shared_folder=mirror.path(config["shared_folder"]),
            shared_training=TrainingSettings.from_json(config["shared_training"]),
            latency=_latency_table(mirror, config["latency_table"]) if config["latency_table"] else None,
            mirror=mirror,
        )

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Whether this worker can run the next trial; where it cannot, Tune starts a new one."""
        with self._stalls.working(), _named_full_disks(new_config):
            self._renew_note(new_config)
            self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._release()
        self._trial_config = config
        recipe = Recipe.from_json(config["recipe"])
        bind_trial_ids(config, recipe)
        self._system = SystemMetrics()
        # Nothing is opened before the first step.
        self._is_open, self._work = False, self._run(recipe, config)

    def _run(self, recipe: Recipe, config: dict[str, Any]) -> Generator[EpochReport | str, None, Outcome]:
        """The trial's reports, and before them lines about what is opened."""
        if self._opened_for != _context_key(config):
            # The first trial, or one of another start: to open its models takes a fraction of a new worker's time. The old ones leave the
            # memory first.
            self._trial_context = self._opened_for = None
            self._close_ranks()
            self._trial_context = self._open(config, (yield from opened_images(config["dataset"])))
            self._opened_for = _context_key(config)
        context, self._is_open = self._trial_context, True
        assert context is not None
        folder = context.mirror.path(config["trial_folder"])
        return (yield from run_trial(recipe, context, folder, budget_label=config["target"]))

    def step(self) -> dict[str, Any]:
        with self._leaves.taking_sigterm(), self._stalls.working():
            return self._step()

    def _step(self) -> dict[str, Any]:
        try:
            # Training looks after each of its steps; what does not train goes on to its end, behind the last checkpoint.
            if self._leaves():
                raise PreemptedError("the trial leaves its node between two reports, and goes on from its checkpoint")
            with _named_full_disks(self._trial_config):
                report = next(self._work)
            if isinstance(report, str):
                return {"told": report, "done": False}
            return {"report": report.replace(system=self._system.sample()).to_json(), "done": False}
        except StopIteration as end:
            _log.info("trial ends", extra={"accuracy": end.value.accuracy, "flops": end.value.flops})
            return {"outcome": end.value.to_json(), "done": True}
        except RankLostError as error:
            _log.warning("trial loses a rank: %s", error)
            raise
        except PreemptedError as error:
            _log.warning("%s: %s", self._leaves.reason, error)
            raise
        except (StorageError, UnavailableError, DiskFullError) as error:
            # That says nothing of the recipe.
            _log.warning("the trial's files cannot be kept: %s", error)
            raise
        except TrialError as error:
            _log.warning("trial ends with %s: %s", type(error).__name__, error)
            return {"error_class": type(error).__name__, "error": str(error), "done": True}
        except Exception as error:
            if not self._is_open:
                # That says nothing of the recipe either: another worker may open what this one cannot.
                _log.exception("what the trial needs cannot be opened")
                raise
            # The trial ends here; the search continues, and the store has the traceback.
            _log.exception("trial ends with an unexpected error")
            return {"error_class": type(error).__name__, "error": "".join(traceback.format_exception(error)), "done": True}
        finally:
            torch.set_grad_enabled(True)

    # A trial writes its own checkpoints, safetensors and JSON in its folder, every epoch; Tune's would be pickles.

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None

    def cleanup(self) -> None:
        self._leaves.stop()
        with self._stalls.working():
            self._close()
        self._stalls.stop()

    def _close(self) -> None:
        """Ends what a trial has left, and the processes that train with this one."""
        self._release()
        self._close_ranks()

    def _close_ranks(self) -> None:
        if self._ranks is not None:
            self._ranks.close()

    def _release(self) -> None:
        """Frees the memory of a trial that was stopped half-way, which still holds its model; the next trial needs it."""
        self._work = iter(())  # type: ignore[assignment]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _named_full_disks(config: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    mirror = Mirror.of(config["output_uri"])
    return named_full_disks(mirror.path(config["trial_folder"]).parent.parent, mirror)


def bind_trial_ids(config: dict[str, Any], recipe: Recipe) -> None:
    """Adds the trial's ids to every line that this process logs from now on (`autoslim.core.logs.bind`)."""
    bind(job_id=config["job_id"], trial=config["trial_number"], method=recipe.method)
    _log.info("trial begins", extra={"target": config["target"], "recipe": recipe.key})


def _latency_table(mirror: Mirror, name: str) -> LatencyTable:
    file = mirror.path(name)
    # Another attempt may have measured another one.
    mirror.fetch_file(file)
    return LatencyTable.from_json(file.read_text())


def _context_key(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(config[name] for name in _CONTEXT_KEYS)


def trial_config(recipe: Recipe, *, number: int, folder: Path | str, target: str, common: Mapping[str, Any]) -> dict[str, Any]:
    """The `config` of a TrialTrainable; plain JSON, so that Ray's dashboard shows it and nothing is pickled.

    A trial's own keys are `recipe` (JSON), `trial_number`, `trial_folder` (of its checkpoint and model) and `target` (the label of a
    budget, or `free`). `common` has the keys that are the same for all trials of a search that slim one dense model: `job_id`, the folders
    of the dense model (`base_folder`), of another one that is the teacher, or "" (`teacher_folder`), and of results that trials share
    (`shared_folder`), the reference of the images (`dataset`), the TrainingSettings (JSON) of such shared work (`shared_training`), the
    number of processes that train a trial (`ranks`) and of PyTorch's threads in each (`torch_threads`), the seconds without a sign of life
    after which its process ends itself, or 0 (`stall_seconds`), the file of the latency table or "" (`latency_table`), and Ray's ids of the
    nodes where it is not placed (`full_nodes`), which may be left out. With the
    `output_uri` of a search without a shared file system, folders are relative to the output (`Mirror.name`); with "" they mean the same on
    every node.
    """
    own = {"recipe": recipe.to_json(), "trial_number": number, "trial_folder": str(folder), "target": target}
    return json.loads(json.dumps({**own, **common}))  # type: ignore[no-any-return]
