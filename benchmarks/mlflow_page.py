"""How soon MLflow's pages of a search with a thousand trials can be used, in a browser with an empty cache.

Interleaved with the pages of a search with ten trials, which show what MLflow takes by itself on this machine. The trials are synthetic;
they pass through the store and the sync as a search's do. The server's data are in SQLite, or with --backend-store-uri in PostgreSQL; its
files in a folder, or with --artifacts-destination in an object store. The benchmark starts and stops the server. Needs Chromium and
selenium.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import Browser
from mlflow import MlflowClient

from autoslim.core.budget import Budget
from autoslim.core.job import DatasetSpec, ModelSpec, SearchJob
from autoslim.core.recipe import Recipe, Step, TrainingSettings
from autoslim.core.result import BaseFacts, EpochReport, Origin, Phase, TrialResult, TrialState
from autoslim.core.urls import default_url
from autoslim.report.tracking import MlflowSync
from autoslim.store import JobState, Store

LARGE, SMALL = "large", "small"
DENSE = BaseFacts(dense_flops=4_608_338_304, dense_accuracy=0.801, params=22_050_664, chance=0.01)
BUDGETS = {"70%": 0.7, "50%": 0.5, "35%": 0.35}
METHODS = ("life_regression", "patch_slimming", "dps", "sit", "vit_slim")


def main() -> None:
    arguments = _arguments()
    folder = arguments.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with server(folder, arguments.backend_store_uri, arguments.artifacts_destination, arguments.port) as uri:
        with Store(default_url(folder)) as store:
            for job, trials in ((LARGE, arguments.trials), (SMALL, 10)):
                if job not in {stored.job.id for stored in store.jobs()}:
                    fill(store, job, folder / job, trials)
                began = time.monotonic()
                runs = MlflowSync(store, job, tracking_uri=uri).sync()
                print(f"{job}: {trials} trials, {runs} runs logged in {time.monotonic() - began:.0f} s", flush=True)
        measure(uri, arguments.repeats)


def fill(store: Store, name: str, folder: Path, trials: int) -> None:
    """Writes a complete search with three epochs a trial."""
    job = SearchJob(
        id=name,
        model=ModelSpec(name="deit_small_patch16_224"),
        dataset=DatasetSpec(source="flowers"),
        budgets=tuple(Budget.parse(label) for label in BUDGETS),
        trials=trials,
        output=str(folder),
    )
    store.create_job(job)
    store.begin_attempt(job.id)
    store.set_base(job.id, DENSE)
    rng = random.Random(0)
    for number in range(trials):
        label = list(BUDGETS)[number % len(BUDGETS)]
        result = synthetic_trial(number, label, rng)
        store.add_trial(job.id, number, result.recipe, origin=result.origin, target=label)
        for epoch in (1, 2, 3):
            store.report(job.id, number, report(epoch, result.accuracy or 0.0, rng))
        store.finish_trial(job.id, result)
    store.set_state(job.id, JobState.COMPLETE)


def synthetic_trial(number: int, label: str, rng: random.Random) -> TrialResult:
    method = METHODS[rng.randrange(len(METHODS))]
    budget = int(BUDGETS[label] * DENSE.dense_flops)
    knobs = {f"knob_{index}": round(rng.random(), 4) for index in range(6)} | {"drops": rng.randrange(1, 5)}
    recipe = Recipe(
        steps=(Step(method=method, knobs=knobs),),
        budget=budget,
        training=TrainingSettings(lr=rng.uniform(1e-4, 1e-3)),
        seed=number,
    )
    flops = int(budget * rng.uniform(0.99, 1.0))
    accuracy = DENSE.dense_accuracy - 0.15 * (1 - flops / DENSE.dense_flops) - abs(rng.gauss(0, 0.03))
    return TrialResult(
        number=number,
        recipe=recipe,
        origin=Origin.SAMPLER if number > 10 else Origin.CONTROL,
        state=TrialState.COMPLETE,
        accuracy=accuracy,
        accuracy_after_pruning=accuracy / 2,
        flops=flops,
        flops_predicted=flops,
        params=int(DENSE.params * rng.uniform(0.5, 1.0)),
        seconds=rng.uniform(200, 400),
        epochs=3.0,
        artifact=f"trials/{number}/model",
    )


def report(epoch: int, accuracy: float, rng: random.Random) -> EpochReport:
    metrics = {"loss": 2.0 / epoch, "accuracy": accuracy - 0.05 * (3 - epoch), "images_per_second": rng.uniform(800, 900)}
    return EpochReport(epoch=float(epoch), phase=Phase.FINETUNE, metrics=metrics | {"loader_wait": rng.random() / 10})


@contextmanager
def server(folder: Path, backend: str | None, artifacts: str | None, port: int) -> Iterator[str]:
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [
        f"--backend-store-uri={backend or f'sqlite:///{folder}/server.db'}",
        f"--artifacts-destination={artifacts or folder / 'server-artifacts'}",
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        while not _answers(f"{uri}/health"):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start; see {folder}/server.log")
            time.sleep(0.5)
        yield uri
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def measure(uri: str, repeats: int) -> None:
    jobs = {job: pages(uri, job) for job in (LARGE, SMALL)}
    print(
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; seconds until a page can be used, median and worst of {repeats}"
    )
    print(f"| page | {LARGE} | {SMALL} |\n|---|---|---|")
    for page in jobs[LARGE]:
        times: dict[str, list[float]] = {job: [] for job in jobs}
        for _ in range(repeats):
            for job, found in jobs.items():
                times[job].append(seconds_until_usable(*found[page]))
        cells = [f"{statistics.median(own):.1f}, {max(own):.1f}" for own in times.values()]
        print(f"| {page} | {' | '.join(cells)} |", flush=True)


def seconds_until_usable(url: str, ready: str, in_frame: bool) -> float:
    """From opening the URL until the page shows its content and is idle, without the start of the browser."""
    with Browser() as browser:
        began = time.monotonic()
        browser.open(url)
        browser.wait(ready, in_frame=in_frame)
        return time.monotonic() - began


def pages(uri: str, job: str) -> dict[str, tuple[str, str, bool]]:
    """By name: the URL, the JavaScript condition that its content is there (pages are empty frames at first), whether in a frame."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("autoslim")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.job = '{job}' and tags.`autoslim.entity` = 'job'")
    here = f"{uri}/#/experiments/{experiment.experiment_id}/runs"
    children = urllib.parse.quote(f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    return {
        "parent run": (f"{here}/{run.info.run_id}", "document.body.innerText.includes('best_val_accuracy/50pct')", False),
        "its front.html": (
            f"{here}/{run.info.run_id}/artifacts/front.html",
            "document.querySelectorAll('circle, path').length > 5",
            True,
        ),
        "its trials as a table": (
            f"{here}?searchFilter={children}&orderByKey=metrics.%60val_accuracy%60&orderByAsc=false",
            "/t\\d+ \\w+ \\d+%/.test(document.body.innerText)",
            False,
        ),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--port", type=int, default=5077)
    parser.add_argument(
        "--backend-store-uri", help="of the server, as postgresql+psycopg://USER@HOST/DATABASE; default SQLite in --output"
    )
    parser.add_argument("--artifacts-destination", help="as s3://BUCKET/PATH, with its credentials in the environment")
    return parser.parse_args()


if __name__ == "__main__":
    main()
