"""`report.html` of a search, written from its store and its folder: at its end by the driver, later by `autoslim report`."""

from __future__ import annotations

from autoslim.core.files import write_atomically
from autoslim.core.run_folder import RunFolder
from autoslim.report.search_report import read_content, render_report
from autoslim.report.search_report.environment import read_environment
from autoslim.storage.mirror import Mirror
from autoslim.store import Store, StoredJob
from workers.progress.cost import cost_of, output_size, spent_seconds


def write_search_report(output: RunFolder, store: Store, job_id: str) -> dict[str, str]:
    """Replaces the report in the folder. The titles of sections that could not be drawn, each with the reason.

    Raises:
        AutoslimError: where the store or a record in the folder cannot be read.
    """
    content = read_content(output, store, job_id, cost=_cost(output, store, store.job(job_id)))
    report = render_report(content)
    write_atomically(output.report, report.html)
    return report.failed


def _cost(output: RunFolder, store: Store, stored: StoredJob) -> str:
    """As the summary says it; empty where it is not known what devices the trials had."""
    environment = read_environment(output)
    resources = stored.job.resources if environment is None else environment.resources
    if resources is None:
        return ""
    mirror = Mirror.of(stored.job.output_uri or "")
    busy, size = spent_seconds(store, stored), output_size(output.root, mirror)
    return cost_of(stored.job.replace(resources=resources), seconds=0.0, busy_seconds=busy, size=size).describe()
