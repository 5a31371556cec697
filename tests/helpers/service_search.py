"""A real search of the service on the digits, and what is asked of it once it has ended."""

from __future__ import annotations

from autoslim.core.result import Origin, TrialState
from autoslim.store import JobState, Store

TINY = {
    "model": "deit_tiny_patch16_224",
    "weights": "scratch",
    "model_args": {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
    "image_size": 16,
    "data": "digits",
    "flops": ["70%", "50%"],
    "space": "smoke",
    "trials": 6,
    "epochs": 2.0,
    "base_epochs": 1.0,
    "batch_size": 64,
    "speed": "eager",
}
MINUTES = 600.0


def ended_trials(site, job):
    return [event.data["trial"] for event in site.queue.events(job.id, limit=10_000) if event.type == "trial_ended"]


def leaks(root, secret):
    return [path for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def is_whole(site, job):
    """Every trial is in the store once, and has ended."""
    with Store(site.settings.storage) as store:
        stored, results = store.job(job.id), store.trials(job.id)
    assert stored.state is JobState.COMPLETE
    assert [result.number for result in results] == list(range(len(results)))
    assert all(result.state is not TrialState.RUNNING for result in results)
    assert sum(result.origin != Origin.REFINEMENT for result in results) == TINY["trials"]
    return results
