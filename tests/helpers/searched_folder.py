"""The output folder of a small search that has ended: a store, prepared images, delivered models with all that belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers.sample_search import add, end, fill, make_job, make_result
from helpers.tiny import CLASSES, config_of, make_dense, slim
from PIL import Image

from autoslim.core.job import DatasetSpec, Resources, SearchJob
from autoslim.core.result import SharedCost
from autoslim.core.run_folder import RunFolder
from autoslim.core.speed import SpeedReport, Timing
from autoslim.core.urls import default_url
from autoslim.data import PreparedDataset, prepare_dataset, sample_split
from autoslim.export.artifact import FormReport, save
from autoslim.report.answers import write_answers
from autoslim.report.picture import write_pictures
from autoslim.report.search_report.environment import write_environment
from autoslim.store import JobState, Store

TIMING = Timing(
    mode="eager", device="cpu", batch=1, dense_ms=8.0, slimmed_ms=4.0, speedup=2.0, low=1.9, high=2.1, rounds=9
)  # fmt: skip
SHARED = (
    SharedCost(key="a", method="dense model", settings={}, epochs=10.0, seconds=100.0),
    SharedCost(key="b", method="vit_slim", settings={"layers": 2}, epochs=1.0, seconds=9.0),
    SharedCost(key="c", method="handing over", settings={}, epochs=0.0, seconds=40.0),
)


def photos(folder: Path, classes: Sequence[str] = CLASSES) -> Path:
    """A folder of eight noisy images for each class."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for place in range(8):
            pixels = np.random.default_rng(10 * number + place).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{place}.png")
    return folder


class SearchedFolder:
    """`make` writes it; tests change it afterwards and ask for the report again."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.output = RunFolder(root / "run")
        self.output.root.mkdir()
        spec = DatasetSpec(source=str(photos(root / "photos")))
        self.job: SearchJob = make_job(str(self.output.root), dataset=spec, **changes)
        self.output.write_job(self.job)
        self.dataset: PreparedDataset = prepare_dataset(spec, self.output.cache, seed=self.job.seed)
        write_environment(self.output, self.dataset, Resources(cpu=2.0))

    def store(self) -> Store:
        return Store(default_url(self.output.root))

    def search(self, *, more_trials: int = 0, state: JobState = JobState.COMPLETE) -> None:
        """The twelve trials of `make_results`, and then complete ones."""
        with self.store() as store:
            fill(store, self.job)
            for number in range(12, 12 + more_trials):
                add(store, self.job.id, make_result(number))
            store.add_shared_costs(self.job.id, SHARED)
            end(store, self.job.id, state)

    def deliver(self, label: str = "50%", *, trial: int = 3, method: str = "merge", **changes: Any) -> Path:
        """A model in `models/`, as the end of a search leaves it, wrong on every second test image where the dense one is right."""
        dense, folder = make_dense(), self.output.model(label)
        finished = slim(method, dense)
        config = config_of(method, dense, finished)
        labels = self.dataset.splits(config.shape.image_size, config.preprocessing.crop_pct).test.labels
        slimmed = np.where(np.arange(len(labels)) % 2 == 0, labels, (labels + 1) % 10)
        shares = {"validation/slimmed": 0.8, "test/slimmed": float((slimmed == labels).mean()), "test/dense": 1.0}
        config = config.replace(
            flops=config.flops.replace(budget_label=label),
            accuracy={**shares, "validation/dense": 0.9},
            images={"validation": self.dataset.report.validation.images, "test": len(labels)},
            speed=SpeedReport(hardware="a processor", threads=2, timings=(TIMING,)),
            forms=(FormReport(name="onnx", file="model.onnx", difference=1e-6, flops=config.flops.fvcore),),
        ).replace(**changes)
        save(folder, finished.model, config)
        write_answers(folder, labels=labels.tolist(), dense=labels.tolist(), slimmed=slimmed.tolist())
        test = self.dataset.splits(config.shape.image_size, config.preprocessing.crop_pct).test
        write_pictures(folder, sample_split(test, CLASSES, config.shape.image_size, 4))
        with self.store() as store:
            store.set_chosen(self.job.id, {**store.job(self.job.id).chosen, label: trial})
        return folder
